"""torch_files.py - small files of torch.save in every form, and what is in them.

Usage:  python tools/golden/torch_files.py            writes tests/golden/torch/
        python tools/golden/torch_files.py --check F  what torch.load(F, weights_only=True) gives, one line per tensor

torch_files.json holds for each file its tensors in order: [path, type, shape, sum, hashed sum] with
    sum = sum_i x[i],  hashed sum = sum_i x[i] * r(path, i)   (float64; r: common.py)
and some of its notes: {path: text}.  "weights" holds the number of tensors and the sum of all elements of files that a
checkout may have beside it, in ../shared/weights.
The keys of storages in the stream form are addresses, so these files differ from run to run; what is in them does not.
"""

import argparse
import collections
import json
import os
import pickle
import struct
import sys

import numpy as np
import torch

import common

FOLDER = os.path.join(common.GOLDEN_DIR, "torch")
NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
         torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
         torch.bool: "BOOL"}


def values(name, shape, dtype=torch.float32):
    x = torch.from_numpy(np.asarray(common.hash_unit(name, shape)))
    if dtype == torch.bool:
        return x > 0
    return x.to(dtype) if dtype.is_floating_point else (100 * x).abs().to(dtype)


def all_types():
    state = collections.OrderedDict()
    for dtype, name in NAMES.items():
        state[f"of.{name}"] = values(name, (2, 3), dtype)
    state["scalar"] = torch.tensor(2.5)
    state["empty"] = torch.zeros(0, 4)
    state["rank5"] = values("rank5", (1, 2, 1, 3, 2))
    state._metadata = collections.OrderedDict([("", {"version": 1})])
    return state


def views():
    base = values("base", (4, 6))
    return {"base": base, "transposed": base.t(), "columns": base[:, 1:4], "every_second": base[::2, ::3],
            "expanded": base[0, 0].expand(3, 2), "tail": base.reshape(-1)[20:], "ones": base[:1, :1],
            "parameter": torch.nn.Parameter(base[1:3].t()), "frozen": torch.nn.Parameter(base[3], requires_grad=False),
            "permuted": values("cube", (2, 3, 4)).permute(2, 0, 1)}


def nested():
    model = {"conv.weight": values("w", (2, 3)), "conv.bias": values("b", (2,))}
    return {"model": model, "ema": {k: v * 0.5 for k, v in model.items()},
            "opt": {"state": {0: {"step": torch.tensor(7.0), "exp_avg": values("m", (2, 3))}},
                    "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0, 1]}]},
            "args": argparse.Namespace(image_size=256, model="DiT-XL/2", seed=0, ratio=0.1, flip=True, path=None),
            "epoch": 3, "big": 1 << 80, "negative": -5, "set": {4}, "dtype": torch.float16,
            "device": torch.device("cpu"), "size": torch.Size([2, 3]), "text": "line\nbreak", "bytes": b"\0\1",
            "list": [values("l0", (2,)), {"deep": values("l1", (1,))}], "complex": torch.zeros(2, dtype=torch.complex64),
            "float8": torch.zeros(2, dtype=torch.float8_e4m3fn)}


def compvis():
    names = ["time_embed.0.weight", "input_blocks.0.0.weight"]
    state = {f"model.diffusion_model.{n}": values(n, (2, 2)) for n in names}
    state.update({f"model_ema.diffusion_model{n.replace('.', '')}": values("ema " + n, (2, 2)) for n in names})
    state["model_ema.decay"] = torch.tensor(0.9999)
    state["first_stage_model.quant_conv.weight"] = values("q", (1,))
    return {"epoch": 1, "global_step": 100, "state_dict": state, "callbacks": {argparse.Namespace: {"best": None}}}


class Old(pickle._Pickler):
    """The pickler of torch 0.4: storages may be views of others, five entries and a view."""

    def persistent_id(self, obj):
        if isinstance(obj, tuple) and obj and obj[0] == "view of":
            return ("storage", torch.FloatStorage, "base", "cuda:0", 6, obj[1])
        return None

    def save_global(self, obj, name=None):
        if obj is torch.FloatStorage:
            return self.write(b"ctorch\nFloatStorage\n")
        if obj is torch._utils._rebuild_tensor:
            return self.write(b"ctorch._utils\n_rebuild_tensor\n")
        return super().save_global(obj, name)


class Rebuild:
    def __init__(self, *args):
        self.args = args

    def __reduce__(self):
        return torch._utils._rebuild_tensor, self.args


def write_old_views(path):
    data = values("old", (6,))
    with open(path, "wb") as f:
        for obj in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}):
            pickle.dump(obj, f, 2)
        Old(f, 2).dump({"whole": Rebuild(("view of", None), 0, (2, 3), (3, 1)),
                        "part": Rebuild(("view of", ("part", 2, 3)), 1, (2,), (1,))})
        pickle.dump(["base"], f, 2)
        f.write(struct.pack("<q", 6) + data.numpy().tobytes())
    return {"whole": data.reshape(2, 3), "part": data[3:5]}


def flatten(obj, path=""):
    if isinstance(obj, torch.Tensor):
        if obj.dtype in NAMES:
            yield path or "tensor", obj.detach()
    elif isinstance(obj, dict):
        for key, value in obj.items():
            if isinstance(key, type):
                continue
            yield from flatten(value, f"{path}.{key}" if path else str(key))
    elif isinstance(obj, (list, tuple)):
        for i, value in enumerate(obj):
            yield from flatten(value, f"{path}.{i}" if path else str(i))


def describe(obj):
    rows = []
    for path, x in flatten(obj):
        flat = x.to(torch.float64).reshape(-1).numpy()
        hashed = float(np.dot(flat, common.hash_unit(path, (flat.size,)).astype(np.float64))) if flat.size else 0.0
        rows.append([path, NAMES[x.dtype], list(x.shape), float(flat.sum()), hashed])
    return rows


NOTES = {"nested": {"args": "argparse.Namespace()", "args.image_size": "256", "args.model": "'DiT-XL/2'",
                    "args.ratio": "0.1", "args.flip": "True", "args.path": "None", "epoch": "3", "negative": "-5",
                    "set": "{4}", "dtype": "torch.float16", "device": "torch.device('cpu')",
                    "text": "'line?break'", "opt.param_groups.0.lr": "0.0001",
                    "opt.param_groups.0.betas": "(0.9, 0.999)", "big": "(a large number)"},
         "compvis": {"epoch": "1", "global_step": "100", "callbacks.argparse.Namespace.best": "None"}}


def main():
    os.makedirs(FOLDER, exist_ok=True)
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    cases = {
        "zip": (all_types(), {}), "protocol4": (all_types(), {"pickle_protocol": 4}),
        "protocol5": (all_types(), {"pickle_protocol": 5}),
        "stream": (all_types(), {"_use_new_zipfile_serialization": False}),
        "views": (views(), {}), "stream_views": (views(), {"_use_new_zipfile_serialization": False}),
        "nested": (nested(), {}), "compvis": (compvis(), {}), "tensor": (values("one", (3,)), {}),
        "module": (module, {}), "nochecksum": ({"x": values("x", (4,))}, {}),
    }
    out = {}
    for name, (obj, options) in cases.items():
        torch.serialization.set_crc32_options(name != "nochecksum")
        torch.save(obj, os.path.join(FOLDER, name + ".pt"), **options)
        tensors = {"_parameters": dict(module.named_parameters())} if name == "module" else obj
        out[name] = {"tensors": describe(tensors), "notes": NOTES.get(name, {})}
    out["old_views"] = {"tensors": describe(write_old_views(os.path.join(FOLDER, "old_views.pt"))), "notes": {}}
    weights = {}
    shared = os.path.join(common.ROOT, "..", "shared", "weights")
    for path in ("taef2/taef2_encoder.pth", "taef2/taef2_decoder.pth", "cifar10-resnet/resnet20-12fca82f.th",
                 "diffusers-tiny/vae_diffusion_pytorch_model.bin",
                 "diffusers-tiny/text_encoder_pytorch_model.bin"):
        rows = list(flatten(torch.load(os.path.join(shared, path), map_location="cpu", weights_only=True)))
        weights[path] = [len(rows), sum(float(x.to(torch.float64).sum()) for _, x in rows)]
    with open(os.path.join(FOLDER, "torch_files.json"), "w") as f:
        files = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in out.items())
        f.write(f'{{"torch": {json.dumps(torch.__version__)}, "weights": {json.dumps(weights)}, "files": {{\n{files}}}}}\n')


def check(path):
    for row in describe(torch.load(path, map_location="cpu", weights_only=True)):
        print(*row)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--check"]:
        check(sys.argv[2])
    else:
        main()
