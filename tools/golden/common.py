"""common.py - what all golden-file scripts share: hash weights, safetensors writing, gradient summaries.

Golden files hold only inputs, outputs and summaries; weights are made on both sides (here and in
tests/support/golden.c) from an integer hash of (name, index), so nothing large is stored.

Hash values.  value(name, i), i = 0, 1, ... (flat index in PyTorch's order):
    h = FNV-1a-64 of the UTF-8 name
    z = h + (i + 1) * 0x9E3779B97F4A7C15                                     (mod 2^64)
    z ^= z >> 30;  z *= 0xBF58476D1CE4E5B9;  z ^= z >> 27;  z *= 0x94D049BB133111EB;  z ^= z >> 31
    bits(name, i) = z
    r(name, i) = 2 * (z >> 40) * 2^-24 - 1            in [-1, 1), exact in float32
Parameters (float32, rounded after each operation):
    time_proj.weight, 1-D (Fourier frequencies)                  16 * r
    time_proj.weight, class_embedding.weight, 2-D (tables)       r
    other tensors with >= 2 dimensions                           r * float32(1 / sqrt(numel / shape[0]))
    1-D tensors named *.weight (norm gains)                      1 + 0.2f * r
    everything else 1-D (biases)                                 0.2f * r
Inputs ("input.sample", "input.target", ...): r of that name.

Gradient summary.  For a parameter P with gradient g (n entries, flat, float64 arithmetic) the file
holds a float32 tensor "grad.P" of 20 entries:
    [0..7]    g[0..7], 0 beyond n
    [8..15]   g[bits("P.pos", j) mod n], j = 0..7
    [16..17]  sum_i g[i] * r("P.proj0", i),  sum_i g[i] * r("P.proj1", i)
    [18]      max_i |g[i]|
    [19]      sqrt(sum_i g[i]^2 / n)
and one float32 tensor "grad_max" of one entry: the largest |g| over all parameters (G of the
rule: |a - b| <= tolerance * max(max|b|, 0.01 G)).  A projection adds n independent rounding errors, so
compare it with tolerance * sqrt(n) * max(max|b|, 0.01 G).
Parameters that take no gradient (Fourier time_proj.weight) have no entry.

Every file's metadata holds "torch", "diffusers" and "script" beside what the script adds.
Usage: imported by the scripts beside it; no command line of its own.
"""

import argparse
import json
import os
import struct
import sys

import numpy as np
import torch

GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GOLDEN_DIR = os.path.join(ROOT, "tests", "golden")


def fnv1a64(text):
    h = 0xCBF29CE484222325
    for byte in text.encode("utf-8"):
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h


def hash_bits(name, count):
    """bits(name, 0..count-1) as uint64[count]."""
    index = np.arange(1, count + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = np.uint64(fnv1a64(name)) + index * GOLDEN_RATIO
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return z


def hash_unit(name, shape):
    """r(name, i) as a float32 array of the given shape."""
    count = int(np.prod(shape, dtype=np.int64))
    top = (hash_bits(name, count) >> np.uint64(40)).astype(np.float32)  # < 2^24: exact
    return (top * np.float32(2.0**-23) - np.float32(1.0)).reshape(shape)


def hash_parameter(name, shape):
    """The golden value of a model parameter, float32."""
    r = hash_unit(name, shape)
    if name == "time_proj.weight":
        return np.float32(16.0) * r if len(shape) == 1 else r
    if name == "class_embedding.weight":
        return r
    if len(shape) >= 2:
        fan_in = r.size // shape[0]
        return r * np.float32(1.0 / np.sqrt(np.float64(fan_in)))
    if name.endswith(".weight"):
        return np.float32(1.0) + np.float32(0.2) * r
    return np.float32(0.2) * r


def fill_model(model):
    """Gives every parameter of a (float32) model its golden value."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(hash_parameter(name, tuple(parameter.shape))))


def gradient_summary(name, gradient):
    """The 20 float32 entries described above."""
    g = gradient.detach().to(torch.float64).reshape(-1).numpy()
    out = np.zeros(20, dtype=np.float64)
    head = min(8, g.size)
    out[:head] = g[:head]
    out[8:16] = g[(hash_bits(name + ".pos", 8) % np.uint64(g.size)).astype(np.int64)]
    for k in range(2):
        out[16 + k] = np.dot(g, hash_unit(f"{name}.proj{k}", (g.size,)).astype(np.float64))
    out[18] = np.abs(g).max()
    out[19] = np.sqrt(np.mean(g * g))
    return out.astype(np.float32)


def model_gradient_summaries(model):
    """{"grad.P": summary, ..., "grad_max": [G]} of a model whose .grad fields are filled."""
    tensors = {}
    largest = 0.0
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        tensors["grad." + name] = gradient_summary(name, parameter.grad)
        largest = max(largest, parameter.grad.abs().max().item())
    tensors["grad_max"] = np.array([largest], dtype=np.float32)
    return tensors


def float32_errors(o32, g32, o64, g64):
    """(output_error, gradient_error, G): how far a float32 run is from a float64 one; g: {parameter: gradient}."""
    largest = max(g.abs().max().item() for g in g64.values())
    gradients = max((g32[k] - g64[k]).abs().max().item() / max(g64[k].abs().max().item(), 0.01 * largest)
                    for k in g64)
    return ((o32.double() - o64).abs().max() / o64.abs().max()).item(), gradients, largest


def gradients_of(model):
    return {name: p.grad.to(torch.float64).clone() for name, p in model.named_parameters() if p.grad is not None}


def make_all(doc, configurations, make):
    """The command line of a script that makes one file per configuration; make(name) returns its size."""
    parser = argparse.ArgumentParser(description=doc.split("\n", 1)[0])
    parser.add_argument("--only", help="comma-separated configuration names")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.only.split(",") if args.only else list(configurations)
    if args.list:
        print("\n".join(names))
        return
    total = sum(make(name) for name in names)
    print(f"{len(names)} files, {total} bytes")


def versions():
    import diffusers

    return {"torch": torch.__version__, "diffusers": diffusers.__version__,
            "script": os.path.basename(sys.argv[0])}


DTYPES = {np.dtype(np.float32): "F32", np.dtype(np.float64): "F64", np.dtype(np.int64): "I64",
          np.dtype(np.int32): "I32", np.dtype(np.uint8): "U8", np.dtype(np.float16): "F16"}


def save(path, tensors, metadata=None):
    """Writes a safetensors file; the same input gives the same bytes (the package's own writer does
    not promise an order for metadata).  Tensors are numpy arrays or torch tensors, metadata strings."""
    meta = dict(versions())
    meta.update({key: value if isinstance(value, str) else json.dumps(value)
                 for key, value in (metadata or {}).items()})
    header = {"__metadata__": dict(sorted(meta.items()))}
    blobs, offset = [], 0
    arrays = {name: (value.detach().numpy() if isinstance(value, torch.Tensor) else value)
              for name, value in tensors.items()}
    # Widest elements first, so that every tensor starts at a multiple of its element size.
    for name in sorted(arrays, key=lambda n: (-arrays[n].dtype.itemsize, n)):
        array = arrays[name]
        blob = array.astype(array.dtype.newbyteorder("<")).tobytes()
        header[name] = {"dtype": DTYPES[array.dtype], "shape": list(array.shape),
                        "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)))
        f.write(text)
        for blob in blobs:
            f.write(blob)
    return 8 + len(text) + offset
