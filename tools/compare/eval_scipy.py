"""Compares the figures of `langevin eval --json --save-features F` with an independent computation: the matrix
square root of scipy.linalg.sqrtm, the neighbours of scipy.spatial.cKDTree.

    langevin eval model --data pictures --features classifier --save-features f.safetensors --json > eval.json
    python tools/compare/eval_scipy.py f.safetensors eval.json

Exit code 0 when the Frechet distance agrees to 1e-4 relative and precision and recall to 1e-3. Needs numpy, scipy
and safetensors."""

import json
import sys

import numpy as np
from safetensors.numpy import load_file
from scipy.linalg import sqrtm
from scipy.spatial import cKDTree


def frechet(a, b):
    product = sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False))
    gap = a.mean(0) - b.mean(0)
    return gap @ gap + np.trace(np.cov(a, rowvar=False)) + np.trace(np.cov(b, rowvar=False)) - 2 * np.trace(product).real


def share_inside(a, b, k=3):
    """Share of rows of a that lie within the distance of a row of b to its k-th nearest other row."""
    radius = cKDTree(b).query(b, k + 1, workers=-1)[0][:, k]
    inside = 0
    for row in a:
        inside += bool((np.sqrt(((row - b) ** 2).sum(1)) <= radius * (1 + 1e-6)).any())
    return inside / len(a)


def main():
    tensors = load_file(sys.argv[1])
    a = tensors["generated.features"].astype(np.float64)
    b = tensors["reference.features"].astype(np.float64)
    ours = json.load(open(sys.argv[2]))
    rows = [
        ("frechet_distance", frechet(a, b), 1e-4, True),
        ("precision", share_inside(a, b), 1e-3, False),
        ("recall", share_inside(b, a), 1e-3, False),
    ]
    bad = 0
    print(f"{'':18} {'langevin':>16} {'scipy':>16} {'difference':>12}")
    for name, value, tolerance, relative in rows:
        own = ours[name]["value"]
        difference = abs(own - value) / (abs(value) if relative else 1)
        bad |= not difference <= tolerance
        print(f"{name:18} {own:16.9g} {value:16.9g} {difference:12.2e}{'' if difference <= tolerance else '  FAIL'}")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
