"""dit_bf16.py - how far PyTorch's bf16 autocast is from float64, for transformers of dit.py.

Usage:  python tools/golden/dit_bf16.py
Writes  tests/golden/dit_bf16.safetensors, with the tensors of unet2d_bf16.py

Networks of the original's formulas only: diffusers' have queries, keys and values apart, and the typical gradient goes
parameter by parameter.
"""

import torch

import common
import dit
import unet2d_bf16
from dit_original import DiT

NAMES = ["wide", "tall_8", "unconditional"]


def make(name):
    (_, options), size, timesteps, labels = dit.CONFIGURATIONS[name]
    model = DiT(**options).eval()
    dit.scaled_fill(model)
    batch = len(timesteps)
    sample = torch.from_numpy(common.hash_unit("input.sample", (batch, options["channels"], *size)))
    target = torch.from_numpy(common.hash_unit("input.target", (batch, options["out_channels"], *size)))
    labels = None if labels is None else torch.tensor(labels)
    return unet2d_bf16.figures(name, model, model, [sample, torch.tensor(timesteps), labels], target)


if __name__ == "__main__":
    torch.set_num_threads(1)
    unet2d_bf16.save("dit_bf16.safetensors", {name: make(name) for name in NAMES})
