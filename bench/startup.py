#!/usr/bin/env python3
"""Time from starting `langevin sample` to the start of the first denoising step, files in the page cache.

    python bench/startup.py --config ddpm_cifar10

Makes a folder with random weights by training one step on a picture of noise, unless --model names one. Needs nothing
but Python; the clock is CLOCK_MONOTONIC on both sides."""
import argparse
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def make_model(langevin, config, folder):
    """An IDX file of 32x32 grey pictures does for any network of three channels."""
    data = os.path.join(folder, "data")
    os.makedirs(data)
    with open(os.path.join(data, "train-images-idx3-ubyte"), "wb") as f:
        f.write(bytes([0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, 32, 0, 0, 0, 32]) + random.Random(0).randbytes(4 * 32 * 32))
    out = os.path.join(folder, "model")
    subprocess.run([langevin, "train", "--data", data, "--output", out, "--model", config, "--train-batch-size", "1",
                    "--channels", "3", "--max-train-steps", "1", "--checkpoints-total-limit", "1"], check=True,
                   stdout=subprocess.DEVNULL)
    return out


def once(args, model, out):
    start = time.clock_gettime(time.CLOCK_MONOTONIC)
    text = subprocess.run([args.langevin, "sample", model, "--output", out, "--num-images", "1", "--batch-size", "1",
                           "--num-inference-steps", "1", "--timings", *args.options.split()], check=True,
                          capture_output=True, text=True).stdout
    return float(re.search(r"began at ([0-9.]+) s", text).group(1)) - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--langevin", default=os.path.join(os.path.dirname(HERE), "build", "langevin"))
    parser.add_argument("--config", default="ddpm_cifar10", help="a name in bench/configs, or a file")
    parser.add_argument("--model", help="a folder with weights")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--options", default="", help="further options of langevin sample")
    args = parser.parse_args()
    config = args.config if args.config.endswith(".json") else os.path.join(HERE, "configs", args.config + ".json")
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or make_model(args.langevin, config, folder)
        out = os.path.join(folder, "picture.png")
        once(args, model, out)
        seconds = [once(args, model, out) for _ in range(args.rounds)]
    print(f"from exec to the first step: median of {args.rounds} {statistics.median(seconds) * 1e3:.1f} ms "
          f"({min(seconds) * 1e3:.1f} to {max(seconds) * 1e3:.1f})")


if __name__ == "__main__":
    sys.exit(main())
