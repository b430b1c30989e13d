"""seeds.py - writes the first inputs of every fuzz target from the golden files:
python3 tests/fuzz/seeds.py FOLDER. Standard library only; what fuzzing finds from there and
libFuzzer's -merge=1 keeps is in corpus/."""
import argparse, bz2, collections, gzip, io, json, lzma, pathlib, pickle, re, struct, sys, tarfile, zipfile

root = pathlib.Path(__file__).resolve().parents[2]
golden = root / "tests" / "golden"
out = pathlib.Path(sys.argv[1])


def put(target, name, data):
    folder = out / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def safetensors(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def metadata(path):
    with open(path, "rb") as f:
        return json.loads(f.read(struct.unpack("<Q", f.read(8))[0])).get("__metadata__", {})


def t(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


put("safetensors", "two", safetensors({"__metadata__": {"format": "pt"}, "a": t("F32", [2, 3], 0, 24),
                                       "b": t("U8", [3], 24, 27)}, bytes(range(27))))
for dtype, size in [("F64", 8), ("F32", 4), ("F16", 2), ("BF16", 2), ("I64", 8), ("I32", 4), ("I16", 2),
                    ("I8", 1), ("U8", 1), ("BOOL", 1), ("F8_E4M3", 1)]:
    put("safetensors", dtype, safetensors({"x": t(dtype, [2], 0, 2 * size)}, bytes(2 * size)))
put("safetensors", "scalar", safetensors({"x": t("F32", [], 0, 4), "e": t("F32", [0, 5], 4, 4)}, bytes(4)))
put("safetensors", "rank8", safetensors({"x": t("U8", [1] * 8, 0, 1)}, b"\1"))
put("safetensors", "overlap", safetensors({"x": t("U8", [4], 0, 4), "y": t("U8", [4], 2, 6)}, bytes(6)))
put("safetensors", "empty", safetensors({}, b""))
put("safetensors", "huge", safetensors({"x": t("F32", [1 << 40, 1 << 40], 0, 8)}, bytes(8)))
put("safetensors", "padded", safetensors(b'{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}   ', b"\1"))

for path in sorted(golden.glob("unet2d_*.safetensors")):
    config = metadata(path).get("config")
    if config:
        put("unet_config", path.stem, config)
        put("unet_build", path.stem, config)
        put("json", path.stem, config)
for path in sorted([*golden.glob("original_*.safetensors"), *golden.glob("dit_*.safetensors")]):
    config = metadata(path).get("config")
    if config:
        kind = {"Model": "compvis", "UNetModel": "guided", "DiTTransformer2DModel": "dit"}[json.loads(config)["_class_name"]]
        put(f"{kind}_config", path.stem, config)
        put("model_build", path.stem, config)
put("unet_config", "verify", (golden / "verify/model/config.json").read_bytes())
put("json", "nested", '{"a":[1,2.5,-1e-7,1e300,true,false,null,"\\u00e9\\ud83d\\ude00",{"b":{}}],"_class_name":"x",'
    '"unet":["diffusers","UNet2DModel"],"list":[1,2,3,4]}')
put("json", "index", '{"_class_name":"DDPMPipeline","_diffusers_version":"0.42.1","scheduler":["diffusers",'
    '"DDPMScheduler"],"unet":["diffusers","UNet2DModel"]}')

base = {"_class_name": "DDPMScheduler", "num_train_timesteps": 10, "beta_start": 0.0001, "beta_end": 0.02,
        "beta_schedule": "linear", "trained_betas": None, "prediction_type": "epsilon",
        "variance_type": "fixed_small", "clip_sample": True, "clip_sample_range": 1.0, "thresholding": False,
        "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0, "timestep_spacing": "leading",
        "steps_offset": 0, "rescale_betas_zero_snr": False}
for i, change in enumerate([{}, {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
                            {"beta_schedule": "sigmoid", "rescale_betas_zero_snr": True},
                            {"beta_schedule": "laplace", "prediction_type": "sample"},
                            {"beta_schedule": "scaled_linear", "timestep_spacing": "trailing"},
                            {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3},
                            {"_class_name": "DDIMScheduler", "set_alpha_to_one": False, "steps_offset": 1},
                            {"_class_name": "DDIMInverseScheduler", "timestep_spacing": "linspace"},
                            {"_class_name": "PNDMScheduler", "skip_prk_steps": True},
                            {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "solver_order": 3,
                             "use_lu_lambdas": True, "final_sigmas_type": "sigma_min", "lambda_min_clipped": -5.1},
                            {"_class_name": "UniPCMultistepScheduler", "disable_corrector": [0, 2], "solver_type": "bh1",
                             "use_flow_sigmas": True, "prediction_type": "flow_prediction", "shift_terminal": 0.1},
                            {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "log_linear", "use_beta_sigmas": True,
                             "timestep_type": "continuous", "sigma_min": 0.1, "sigma_max": 9.0},
                            {"_class_name": "LCMScheduler", "original_inference_steps": 5, "timestep_scaling": 3.0},
                            {"_class_name": "EDMEulerScheduler", "sigma_schedule": "exponential", "rho": 5.0, "sigma_data": 1.0,
                             "sigma_min": 0.01, "sigma_max": 20.0},
                            {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "use_dynamic_shifting": True,
                             "time_shift_type": "linear", "invert_sigmas": True, "stochastic_sampling": True}]):
    put("scheduler_config", str(i), json.dumps({**base, **change}))

state = {"step": 200, "updates": 200, "position": 3200, "epoch": 0, "skipped_updates": 0,
         "skipped_in_a_row": 0, "seconds": 12.5, "sample_seconds": 1.0}
generator = {"mt19937": "0123abcd" * 624, "left": 1, "next": 623, "seed": "00000000000000ff",
             "has_cached": 1, "cached": 0.25}
options = {"max_train_steps": 200, "train_batch_size": 16, "gradient_accumulation_steps": 1,
           "learning_rate": 1e-4, "lr_scheduler": "cosine", "seed": "18446744073709551615", "rng": "philox",
           "mixed_precision": "bf16", "memory_budget": 0, "recompute": 0, "ema_decay": 0.9999}
pictures = {"resolution": 32, "channels": 3, "center_crop": 0, "random_flip": 1, "background": [255, 255, 255],
            "validation": 0, "strict": 0}
trainer = {"format_version": 1, "state": state, "options": options, "data": {"path": "d", "options": pictures},
           "level": "cpu:avx2", "plan": "00", "files": {"optimizer.safetensors": "00"}}
put("trainer_json", "philox", json.dumps(trainer))
put("trainer_json", "torch", json.dumps({**trainer, "options": {**options, "rng": "torch"}, "state":
                                         {**state, "generator": generator, "generator_at_epoch": generator}}))

images = struct.pack(">4B3I", 0, 0, 8, 3, 2, 3, 4) + bytes(range(24))
labels = struct.pack(">4BI", 0, 0, 8, 1, 5) + bytes(range(5))
for name, data, kind in [("images", images, b"\0"), ("labels", labels, b"\1")]:
    put("idx", name, kind + data)
    put("idx", name + ".gz", kind + gzip.compress(data, 9, mtime=0))
    put("idx", name + ".wrong", (b"\1" if kind == b"\0" else b"\0") + data)

for path in sorted((golden / "images").iterdir()):
    data = path.read_bytes()
    if path.suffix in (".png", ".jpg", ".webp", ".gif", ".bmp"):
        put({".jpg": "jpeg"}.get(path.suffix, path.suffix[1:]), path.stem, data)
    if path.suffix in (".png", ".bmp"):
        put("picture_header", path.stem, data)
    if path.suffix == ".jpg" and b"Exif\0\0" in data:
        put("picture_header", path.stem, data[data.index(b"Exif\0\0"):][:200])

put("cifar", "ten", b"\x01\x01" + bytes(range(64)))
put("cifar", "hundred", b"\x16\x02" + bytes(range(64)))
put("cifar", "cut", b"\x09\x00" + bytes(100))

put("metadata", "csv", b'\0file_name,label\na.png,cat\n"b ""1"".png",dog\r\n\nc.png,\n')
put("metadata", "csv-bom", b"\0\xef\xbb\xbffile_name,text,class\nx/a.png,\"two\nlines\",7\n")
put("metadata", "jsonl", b'\1{"file_name": "a.png", "label": 3}\n\n{"file_name":"b.png","class_name":"dog"}\n')
put("metadata", "json", b'\2{"cls": 7, "caption": "x"}')
put("metadata", "json-number", b"\0023")
put("metadata", "cls", b"\3 12\n")


def tar(names, format):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, data in names:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()[:2048 + 512 * 3]


few = [("000.cls", b"7"), ("000.png", b"\x89PNG"), ("./000.json", b'{"label":1}')]
for i, format in enumerate([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]):
    data = tar(few, format)
    put("tar", f"plain{i}", b"\0" + data)
    put("tar", f"place{i}", b"\1" + data)
    put("tar", f"gzip{i}", b"\0" + gzip.compress(data, 9, mtime=0))
    put("tar", f"long{i}", b"\0" + tar([("d/" + "x" * 90 + "\u00e9.png", b"1")], format))
put("tar", "bz2", b"\0" + bz2.compress(tar(few, tarfile.USTAR_FORMAT)))
put("tar", "xz", b"\0" + lzma.compress(tar(few, tarfile.USTAR_FORMAT)))

for path in sorted((golden / "torch").glob("*.pt")):
    data = path.read_bytes()
    put("torch_file", path.stem, data)
    if data[:2] == b"PK":
        put("zip", path.stem, data)
        if path.stem != "nochecksum":  # zipfile would miss the checksum
            with zipfile.ZipFile(path) as archive:
                put("pickle", path.stem, archive.read(path.stem + "/data.pkl"))
    else:  # magic and protocol take 21 bytes, the system's dictionary ends at the next "u."
        put("pickle", path.stem, data[21:])
        put("pickle", path.stem + "-object", data[data.index(b"u.", 21) + 2:])
for protocol in range(2, 6):
    put("pickle", f"all{protocol}", pickle.dumps({"a": [1, -2, 300, 1 << 40, 1 << 90, 2.5, None, True, (1, 2), {3}, b"x",
        "y", frozenset([4]), (), bytearray(b"z"), collections.OrderedDict(p=1), argparse.Namespace(lr=1)]}, protocol))


def torch_stream(object_pickle, keys, storages):
    head = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
    return head + object_pickle + pickle.dumps(keys, 2) + storages


tensor = (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0kX\3\0\0\0cpu"
          b"K\4NtQK\0K\2K\2\x86K\1K\2\x86\x89}tR.")
put("torch_file", "stream-one", torch_stream(tensor, ["k"], struct.pack("<q", 4) + bytes(16)))
put("torch_file", "stream-none", torch_stream(b"\x80\x02}.", [], b""))

words = {"{", "}", "[", "]", ",", ":", '"', "\\u0000", "\\ud800", "null", "true", "false", "-1", "0", "1e999",
         "1e-400", "0.5", "2147483648", "9223372036854775807", "-9223372036854775808", "NaN", "Infinity", '""', "[]", "{}"}
for target, source in [("unet_config", "model/config.c"), ("unet_build", "model/config.c"),
                       ("dit_config", "model/dit_config.c"), ("compvis_config", "model/compvis.c"),
                       ("guided_config", "model/guided.c"),
                       ("model_build", "model/dit_config.c model/compvis.c model/guided.c"),
                       ("scheduler_config", "diffusion/scheduler_config.c"),
                       ("trainer_json", "train/options.c"), ("metadata", "io/metadata.c"), ("json", "io/json.c"),
                       ("safetensors", "io/safetensors.c")]:
    text = "".join((root / "src" / name).read_text() for name in source.split())
    keys = {w for w in re.findall(r'"([A-Za-z_][A-Za-z0-9_]{1,40})"', text)}
    lines = sorted('"' + w.replace("\\", "\\\\").replace('"', '\\"') + '"' for w in words | keys)
    (out / f"{target}.dict").write_text("\n".join(lines) + "\n")
names = ["torch\\x0aFloatStorage\\x0a", "torch._utils\\x0a_rebuild_tensor_v2\\x0a", "torch._utils\\x0a_rebuild_tensor_v3\\x0a",
         "torch._utils\\x0a_rebuild_parameter\\x0a", "collections\\x0aOrderedDict\\x0a", "__builtin__\\x0aset\\x0a", "storage",
         "\\x85", "\\x86", "\\x87", "\\x89", "tQ", "tR", "}(", "u.", ")R", "K\\x00", "\\x8a\\x08", "\\x93", "\\x94", "\\x81", "PK\\x01\\x02",
         "PK\\x03\\x04", "PK\\x05\\x06", "PK\\x06\\x06", "PK\\x06\\x07", "/data.pkl", "/data/0", "/byteorder",
         "\\xff\\xff\\xff\\xff"]
for target in ("pickle", "torch_file", "zip"):
    (out / f"{target}.dict").write_text("\n".join(f'"{n}"' for n in names) + "\n")
