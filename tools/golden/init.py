"""init.py - the parameters PyTorch gives a fresh UNet2DModel for a seed, as hashes.

Usage:  python tools/golden/init.py
Writes  tests/golden/init_unet2d.json: per configuration the seed, the config.json and, in constructor
order, each tensor's name, FNV-1a-64 of its little-endian float32 bytes, and its first values; then the first
number torch.rand draws afterwards, which shows that as many numbers were drawn.

The order in which parameters are drawn is found by watching the layers' reset_parameters: it is the order
of the constructors, not that of registration.
"""

import json
import os

import torch

import common

BASE = dict(sample_size=16, block_out_channels=[16, 32], norm_num_groups=8, layers_per_block=1,
            down_block_types=["DownBlock2D", "AttnDownBlock2D"], up_block_types=["AttnUpBlock2D", "UpBlock2D"])
CONFIGURATIONS = {
    "plain": (0, {}),
    "attention_resnet_samplers": (7, dict(layers_per_block=2, attention_head_dim=5, downsample_type="resnet", upsample_type="resnet",
                                          resnet_time_scale_shift="scale_shift",
                                          down_block_types=["AttnDownBlock2D", "ResnetDownsampleBlock2D"],
                                          up_block_types=["ResnetUpsampleBlock2D", "AttnUpBlock2D"])),
    "skip_fourier": (123, dict(block_out_channels=[32, 64], time_embedding_type="fourier", norm_num_groups=None,
                               class_embed_type="timestep",
                               down_block_types=["SkipDownBlock2D", "AttnSkipDownBlock2D"],
                               up_block_types=["AttnSkipUpBlock2D", "SkipUpBlock2D"])),
    "learned_classes": (2**40 + 5, dict(time_embedding_type="learned", num_train_timesteps=50, num_class_embeds=7,
                                        add_attention=False, in_channels=1, out_channels=2)),
    "k_blocks": (1, dict(block_out_channels=[32, 64], norm_num_groups=32, mid_block_type=None,
                         down_block_types=["KDownBlock2D", "KDownBlock2D"], up_block_types=["KUpBlock2D", "KUpBlock2D"])),
    "no_mid_padding": (99, dict(mid_block_type=None, downsample_padding=0, time_embedding_dim=24)),
}


def fnv1a64(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h


def constructor_order(cls, config):
    """Names of the parameters in the order in which their layers are made."""
    made = []
    original = torch.nn.Module.register_parameter

    def watch(module, name, parameter):
        if parameter is not None:
            made.append(parameter)
        original(module, name, parameter)

    torch.nn.Module.register_parameter = watch
    try:
        model = cls(**config)
    finally:
        torch.nn.Module.register_parameter = original
    names = {id(p): n for n, p in model.named_parameters()}
    order = []
    for p in made:
        name = names.get(id(p))
        if name and name not in order:
            order.append(name)
    return order


def main():
    import diffusers
    from diffusers import UNet2DModel

    diffusers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    out = {"versions": common.versions(), "models": []}
    for label, (seed, options) in CONFIGURATIONS.items():
        config = dict(BASE, **options)
        order = constructor_order(UNet2DModel, config)
        torch.manual_seed(seed)
        model = UNet2DModel(**config)
        after = torch.rand(1).item()
        parameters = dict(model.named_parameters())
        assert sorted(order) == sorted(parameters), label
        full = {"_class_name": "UNet2DModel"}
        full.update({k: v for k, v in model.config.items() if not k.startswith("_")})
        tensors = []
        for name in order:
            p = parameters[name].detach().numpy().astype("<f4")
            tensors.append([name, f"{fnv1a64(p.tobytes()):016x}", [float(v) for v in p.reshape(-1)[:4]]])
        out["models"].append({"name": label, "seed": seed, "config": full, "after": after, "tensors": tensors})
        print(label, len(tensors), "tensors")
    path = os.path.join(common.GOLDEN_DIR, "init_unet2d.json")
    with open(path, "w") as f:
        json.dump(out, f, separators=(",", ":"))
        f.write("\n")
    print(path, os.path.getsize(path), "bytes")


if __name__ == "__main__":
    main()
