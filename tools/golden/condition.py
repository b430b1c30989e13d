"""condition.py - golden values of the picture that a super-resolution network sees.

Usage:  python tools/golden/condition.py
Writes  tests/golden/condition.safetensors, deterministic for given package versions:
    a.small [1,3,4,4], a.large [1,3,16,16]; b.small [1,1,3,5], b.large [1,1,9,20]; c.small [1,2,6,6], c.large [1,2,7,11]:
        torch.nn.functional.interpolate, bilinear, of hash values
    d.x0 [1,3,8,12], d.condition: interpolate(area, scale 1/4), then interpolate(bilinear) to 8x12
"""

import os

import torch
from torch.nn.functional import interpolate

import common
from common import GOLDEN_DIR


def main():
    tensors = {}
    for name, channels, small, large in (("a", 3, (4, 4), (16, 16)), ("b", 1, (3, 5), (9, 20)),
                                         ("c", 2, (6, 6), (7, 11))):
        x = torch.from_numpy(common.hash_unit("condition." + name, (1, channels, *small)))
        tensors[name + ".small"] = x
        tensors[name + ".large"] = interpolate(x, size=large, mode="bilinear")
    x = torch.from_numpy(common.hash_unit("condition.d", (1, 3, 8, 12)))
    tensors["d.x0"] = x
    tensors["d.condition"] = interpolate(interpolate(x, size=(2, 3), mode="area"), size=(8, 12), mode="bilinear")
    size = common.save(os.path.join(GOLDEN_DIR, "condition.safetensors"), tensors)
    print(f"condition: {size} bytes")


if __name__ == "__main__":
    main()
