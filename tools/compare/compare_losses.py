"""compare_losses.py - two training logs side by side: largest relative difference of the losses, and a figure.

Usage:  python tools/compare/compare_losses.py OURS.jsonl THEIRS.jsonl [--steps 200] [--tolerance 1e-4]
                                               [--figure FILE.png]
A log has one JSON object per line with "step" and "loss" (lines without a loss are skipped).  Prints the
first steps and the largest |a/b - 1|; exit status 0 when every one of the first --steps losses agrees to
--tolerance, 1 otherwise.  The figure shows both losses and, below, their difference on a logarithmic scale.
"""

import argparse
import json
import math
import sys


def read(path):
    losses = {}
    with open(path) as f:
        for line in f:
            entry = json.loads(line)
            if "loss" in entry and "step" in entry:
                losses[int(entry["step"])] = float(entry["loss"])
    return losses


def draw(path, steps, ours, theirs, difference, tolerance):
    from PIL import Image, ImageDraw

    width, height, left, right = 900, 560, 70, 880
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    across = lambda i: left + (right - left) * i / max(1, len(steps) - 1)

    def panel(top, bottom, low, high, curves, ticks, title):
        down = lambda v: bottom - (bottom - top) * (min(max(v, low), high) - low) / (high - low)
        pen.rectangle([left, top, right, bottom], outline="black")
        pen.text((left, top - 16), title, fill="black")
        for value, label in ticks:
            pen.line([left, down(value), right, down(value)], fill=(220, 220, 220))
            pen.text((8, down(value) - 6), label, fill="black")
        for values, colour, thick in curves:
            pen.line([(across(i), down(v)) for i, v in enumerate(values)], fill=colour, width=thick)

    high = max(max(ours), max(theirs)) * 1.05
    panel(30, 330, 0.0, high, [(theirs, (230, 120, 30), 5), (ours, (30, 60, 160), 2)],
          [(high * k / 5, f"{high * k / 5:.2f}") for k in range(6)],
          "loss: Langevin (thin, blue) over PyTorch/diffusers (thick, orange)")
    logs = [math.log10(max(d, 1e-12)) for d in difference]
    panel(370, 520, -9.0, -2.0, [(logs, (30, 60, 160), 2), ([math.log10(tolerance)] * len(logs), (200, 0, 0), 1)],
          [(e, f"1e{e}") for e in (-8, -6, -4)], "relative difference; red: the tolerance")
    pen.text((left, 530), f"step {steps[0]}", fill="black")
    pen.text((right - 60, 530), f"step {steps[-1]}", fill="black")
    image.save(path, optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours")
    parser.add_argument("theirs")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--figure", metavar="FILE.png")
    args = parser.parse_args()
    ours, theirs = read(args.ours), read(args.theirs)
    steps = [s for s in range(1, args.steps + 1) if s in ours and s in theirs]
    if len(steps) < args.steps:
        print(f"only {len(steps)} of the first {args.steps} steps are in both logs")
    if not steps:
        sys.exit(1)
    difference = [abs(ours[s] / theirs[s] - 1) for s in steps]
    for s, d in list(zip(steps, difference))[:3] + list(zip(steps, difference))[-1:]:
        print(f"step {s}: {ours[s]:.7f}  {theirs[s]:.7f}  {d:.1e}")
    worst = max(range(len(steps)), key=lambda i: difference[i])
    passed = difference[worst] <= args.tolerance and len(steps) == args.steps
    print(f"largest relative difference over {len(steps)} steps: {difference[worst]:.2e} at step {steps[worst]}; "
          f"tolerance {args.tolerance:g}: {'pass' if passed else 'FAIL'}")
    if args.figure:
        draw(args.figure, steps, [ours[s] for s in steps], [theirs[s] for s in steps], difference, args.tolerance)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
