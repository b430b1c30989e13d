"""dit.py - golden outputs and gradients of diffusion transformers, one file per configuration.

Usage:  python tools/golden/dit.py [--only NAME[,NAME...]] [--list]
Writes  tests/golden/dit_<name>.safetensors, deterministic for given package versions.

Two sorts: networks of diffusers' DiTTransformer2DModel, with its parameter names, and networks of the original's
formulas (dit_original.py), with those of facebookresearch/DiT.  The files hold what those of unet2d.py hold; the
metadata "format" is "diffusers" or "original".  Labels are inputs as they are: no dropout (evaluation mode).
Hash values of modulations are scaled by a tenth, since twelve blocks of whole ones leave float32's range of trust.
"""

import json
import os
import warnings

import numpy as np
import torch

import common
from common import GOLDEN_DIR
from dit_original import DiT

warnings.filterwarnings("ignore")


def diffusers(**options):
    base = dict(num_attention_heads=4, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2,
                sample_size=16, patch_size=2, num_embeds_ada_norm=10, norm_eps=1e-5)
    base.update(options)
    return "diffusers", base


def original(size, **options):
    base = dict(size=size, patch=2, channels=4, out_channels=8, width=64, depth=2, heads=4, classes=10,
                class_dropout=0.1)
    base.update(options)
    return "original", base


# name: (sort and configuration, (H, W), timesteps, class labels or None)
CONFIGURATIONS = {
    # Patches of 2, the variance learned; the label for no class in the second row.
    "diffusers": (diffusers(), (16, 16), [3, 977], [9, 10]),
    # Patches of 4, no variance, a head dimension that is no power of two, no bias in queries, keys and values.
    "diffusers_4": (diffusers(patch_size=4, out_channels=None, num_attention_heads=3, attention_head_dim=20,
                              attention_bias=False, num_layers=3), (16, 16), [0, 500], [0, 3]),
    # Patches of 8 of pictures of one channel, exact GELU.
    "diffusers_8": (diffusers(patch_size=8, in_channels=1, out_channels=1, activation_fn="gelu", norm_eps=1e-3,
                              sample_size=32), (32, 32), [1, 999], [5, 10]),
    # Pictures larger than those that the network was made for: positions are stretched.
    "stretched": (diffusers(num_layers=1), (24, 24), [40, 720], [2, 10]),
    # DiT-S/4 as in the article.
    "s_4": (original((32, 32), patch=4, width=384, depth=12, heads=6, classes=1000), (32, 32), [250, 980],
            [207, 1000]),
    # Not square, patches of 2.
    "wide": (original((8, 24)), (8, 24), [30, 640], [0, 10]),
    # Not square, patches of 8, no variance, no label for no class.
    "tall_8": (original((32, 16), patch=8, channels=3, out_channels=3, class_dropout=0), (32, 16), [30, 640], [0, 9]),
    # No classes at all.
    "unconditional": (original((16, 16), patch=4, channels=1, out_channels=1, classes=0, width=60, heads=5),
                      (16, 16), [30, 640], None),
}


def scaled_fill(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            value = torch.from_numpy(common.hash_parameter(name, tuple(parameter.shape)))
            modulation = "norm1.linear" in name or "adaLN_modulation" in name or "proj_out_1" in name
            parameter.copy_(value * np.float32(0.1) if modulation else value)


def output_of(model, sample, timestep, labels):
    if isinstance(model, DiT):
        return model(sample, timestep, labels)
    return model(sample, timestep=timestep, class_labels=labels).sample


def run(model, dtype, sample, timestep, labels, target):
    model.to(dtype)
    model.zero_grad(set_to_none=True)
    output = output_of(model, sample.to(dtype), timestep, labels)
    torch.nn.functional.mse_loss(output, target.to(dtype)).backward()
    return output.detach()


def original_config(o):
    h, w = o["size"]
    config = {"_class_name": "DiTTransformer2DModel", "sample_size": [h, w], "patch_size": o["patch"],
              "in_channels": o["channels"], "out_channels": o["out_channels"], "num_layers": o["depth"],
              "num_attention_heads": o["heads"], "attention_head_dim": o["width"] // o["heads"], "norm_eps": 1e-6,
              "num_embeds_ada_norm": max(o["classes"], 1), "class_dropout_prob": o["class_dropout"],
              "shared_embedding": True, "freq_shift": 0}
    if not o["classes"]:
        config["class_conditional"] = False
    return config


def make(name):
    import diffusers as package
    from diffusers import DiTTransformer2DModel

    package.logging.set_verbosity_error()
    (sort, options), size, timesteps, labels = CONFIGURATIONS[name]
    if sort == "diffusers":
        model = DiTTransformer2DModel(**options).eval()
        channels, out = options["in_channels"], model.out_channels
        config = {"_class_name": "DiTTransformer2DModel"}
        config.update({k: v for k, v in model.config.items() if not k.startswith("_")})
    else:
        model = DiT(**options).eval()
        channels, out = options["channels"], options["out_channels"]
        config = original_config(options)
    scaled_fill(model)
    batch = len(timesteps)
    tensors = {
        "input.sample": torch.from_numpy(common.hash_unit("input.sample", (batch, channels, *size))),
        "input.timestep": torch.tensor(timesteps),
        "input.target": torch.from_numpy(common.hash_unit("input.target", (batch, out, *size))),
    }
    if labels is not None:
        tensors["input.class_labels"] = torch.tensor(labels)
    inputs = [tensors["input.sample"], tensors["input.timestep"], tensors.get("input.class_labels"),
              tensors["input.target"]]
    o32 = run(model, torch.float32, *inputs)
    g32 = common.gradients_of(model)
    o64 = run(model, torch.float64, *inputs)
    g64 = common.gradients_of(model)
    tensors["output"] = o32
    tensors.update(common.model_gradient_summaries(model))
    output_error, gradient_error, largest = common.float32_errors(o32, g32, o64, g64)
    path = os.path.join(GOLDEN_DIR, f"dit_{name}.safetensors")
    written = common.save(path, tensors, {
        "config": json.dumps(config), "format": sort, "output_error": f"{output_error:.3g}",
        "gradient_error": f"{gradient_error:.3g}"})
    count = sum(p.numel() for p in model.parameters())
    print(f"{name}: {count} parameters, {written} bytes, output {tuple(o32.shape)} max {o64.abs().max():.3g}, "
          f"float32 error: output {output_error:.1e}, gradients {gradient_error:.1e}; G {largest:.3g}")
    return written


if __name__ == "__main__":
    common.make_all(__doc__, CONFIGURATIONS, make)
