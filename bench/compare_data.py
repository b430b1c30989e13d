#!/usr/bin/env python3
"""Pictures per second, decoded and resized: Langevin's loader beside PIL + torchvision on the same files.

    make -C build bench_data
    python bench/compare_data.py --data /tmp/clothing128 --data /tmp/clothing128.tar --resolution 64
    python bench/compare_data.py --start /tmp/folder-of-60000      # exec to the end of the first training step

A folder is read with torchvision's usual pipeline (PIL open, convert RGB, Resize, RandomCrop, PILToTensor) in a DataLoader; a
tar with webdataset. Workers are processes there and threads here; with 1, PyTorch loads in the main process. Each figure is the
best of --rounds with files in the page cache. Langevin's crop and resize give the same bits (tests/test_image.c)."""
import argparse
import json
import os
import subprocess
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.path.join(os.path.dirname(HERE), "build")
TINY = {"_class_name": "UNet2DModel", "sample_size": 32, "in_channels": 3, "out_channels": 3, "layers_per_block": 1,
        "block_out_channels": [8, 16], "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2,
        "norm_num_groups": 4}


def transform(resolution):
    from torchvision import transforms as T
    return T.Compose([T.Lambda(lambda im: im.convert("RGB")), T.Resize(resolution), T.RandomCrop(resolution, pad_if_needed=True),
                      T.PILToTensor()])


def folder_loader(path, resolution, workers):
    import torch
    from PIL import Image
    files = sorted(os.path.join(root, f) for root, _, names in os.walk(path) for f in names
                   if f.lower().endswith((".jpg", ".jpeg", ".png", ".webp", ".bmp")))  # as ImageFolder does
    change = transform(resolution)

    class Pictures(torch.utils.data.Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, i):
            return change(Image.open(files[i]))

    return torch.utils.data.DataLoader(Pictures(), batch_size=32, shuffle=True, num_workers=0 if workers == 1 else workers)


def tar_loader(path, resolution, workers):
    import torch
    import webdataset as wds
    change = transform(resolution)
    data = wds.WebDataset([path], shardshuffle=False, empty_check=False).decode("pil").map(
        lambda s: change(next(v for k, v in s.items() if k.split(".")[-1] in ("jpg", "jpeg", "png"))))
    return torch.utils.data.DataLoader(data, batch_size=32, num_workers=0 if workers == 1 else 1)  # one shard, one worker


def torch_rate(path, resolution, workers):
    loader = (folder_loader if os.path.isdir(path) else tar_loader)(path, resolution, workers)
    n, start = 0, time.monotonic()
    for batch in loader:
        n += len(batch)
    return n, n / (time.monotonic() - start)


def our_rate(path, resolution, workers):
    words = subprocess.run([os.path.join(BUILD, "bench_data"), path, str(resolution), str(workers)], check=True,
                           capture_output=True, text=True).stdout.split()
    v = dict(zip(words[::2], map(float, words[1::2])))
    return int(v["pictures"]), v["rate"], v["open"], v["first"]


def start_time(path):
    """Seconds from exec to the line that is printed after the first step, and what `train` had printed before."""
    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, "tiny.json")
        with open(model, "w") as f:
            json.dump(TINY, f)
        begin = time.monotonic()
        p = subprocess.Popen([os.path.join(BUILD, "langevin"), "train", "--data", path, "--output", os.path.join(folder, "run"),
                              "--model", model, "--train-batch-size", "32", "--max-train-steps", "1"], stdout=subprocess.PIPE, text=True)
        for line in p.stdout:
            if line.startswith("  speed"):
                seconds = time.monotonic() - begin
        p.wait()
        return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--start", help="a folder: time to the first training step")
    parser.add_argument("--only", choices=["langevin", "torch"], help="one side (a short measurement)")
    args = parser.parse_args()
    if args.start:
        seconds = sorted(start_time(args.start) for _ in range(args.rounds))
        print(f"{args.start}: exec to the end of the first step: median {seconds[len(seconds) // 2]:.2f} s "
              f"({seconds[0]:.2f} to {seconds[-1]:.2f})")
    for path in args.data:
        for workers in args.workers:
            line = f"{path}, {args.resolution}x{args.resolution}, {workers} worker(s):"
            ours = theirs = None
            if args.only != "torch":
                ours = max((our_rate(path, args.resolution, workers) for _ in range(args.rounds)), key=lambda r: r[1])
                line += f"  langevin {ours[1]:.0f} pictures/s (open {ours[2] * 1e3:.0f} ms, first batch {ours[3] * 1e3:.0f} ms)"
            if args.only != "langevin":
                theirs = max((torch_rate(path, args.resolution, workers) for _ in range(args.rounds)), key=lambda r: r[1])
                line += f"  torchvision {theirs[1]:.0f} pictures/s"
            if ours and theirs:
                line += f"  ratio {ours[1] / theirs[1]:.2f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
