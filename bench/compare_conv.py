"""compare_conv.py - 3x3 convolutions, forward and both gradients, beside PyTorch's: the same shapes in turns.

    python bench/compare_conv.py build/bench_conv [DEVICE [THREADS [ROUNDS [f32|bf16]]]]

Each round runs bench_conv's first six shapes and then the same in PyTorch, NCHW and channels_last; a shape's
time is the median over the rounds of the best time within each. Prints GFLOP/s of all threads together (2 per
multiply-add, three passes) and the ratio to PyTorch's better layout, with its spread over the rounds. For a
level below the machine's best set ONEDNN_MAX_CPU_ISA=AVX2 for PyTorch.
"""
import math
import statistics
import subprocess
import sys
import time

import torch

SHAPES = [(4, 128, 128), (16, 256, 32), (4, 128, 64), (16, 256, 16), (4, 256, 32), (4, 512, 16)]
SECONDS = 0.5  # of a shape and layout in one round


def flops(shape):
    n, c, hw = shape
    return 3 * 2.0 * n * hw * hw * c * c * 9


def torch_rate(shape, layout, dtype):
    n, c, hw = shape
    x = torch.randn(n, c, hw, hw).to(dtype).contiguous(memory_format=layout).requires_grad_()
    w = (0.01 * torch.randn(c, c, 3, 3)).to(dtype).contiguous(memory_format=layout).requires_grad_()
    dy = torch.randn(n, c, hw, hw).to(dtype).contiguous(memory_format=layout)
    best, total, runs = 1e9, 0.0, 0
    while runs < 3 or total < SECONDS:
        x.grad = w.grad = None
        start = time.perf_counter()
        torch.nn.functional.conv2d(x, w, padding=1).backward(dy)
        t = time.perf_counter() - start
        best, total, runs = min(best, t), total + t, runs + 1
    return flops(shape) / best * 1e-9


def our_rates(bench, device, threads, precision):
    """The last column of each line: forward and gradients together, per thread."""
    out = subprocess.run([bench, device, str(threads), "any", precision, str(len(SHAPES))], check=True,
                         capture_output=True, text=True).stdout.splitlines()
    return [float(line.split()[-1]) * threads for line in out[1:]]


def main():
    bench = sys.argv[1]
    device = sys.argv[2] if len(sys.argv) > 2 else "cpu"
    threads = int(sys.argv[3]) if len(sys.argv) > 3 else 2
    rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 3
    precision = sys.argv[5] if len(sys.argv) > 5 else "f32"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    torch.set_num_threads(threads)
    ours, nchw, last = [], [], []
    for _ in range(rounds):
        ours.append(our_rates(bench, device, threads, precision))
        nchw.append([torch_rate(s, torch.contiguous_format, dtype) for s in SHAPES])
        last.append([torch_rate(s, torch.channels_last, dtype) for s in SHAPES])
    print(f"PyTorch {torch.__version__}, {device}, {precision}, {threads} threads, {rounds} rounds; GFLOP/s forward + backward")
    print("shape                 ours    NCHW  channels_last   ratio (spread)")
    product = 0.0
    for i, (n, c, hw) in enumerate(SHAPES):
        column = [[r[i] for r in table] for table in (ours, nchw, last)]
        a, b, d = (statistics.median(x) for x in column)
        each = [x / max(y, z) for x, y, z in zip(*column)]
        product += math.log(a / max(b, d))
        print(f"{n:3d}, {c:3d}->{c:3d} @ {hw:3d}  {a:7.1f} {b:7.1f} {d:10.1f}     {a / max(b, d):5.2f}x "
              f"({min(each):.2f}-{max(each):.2f})")
    print(f"geometric mean {math.exp(product / len(SHAPES)):.2f}x")


if __name__ == "__main__":
    main()
