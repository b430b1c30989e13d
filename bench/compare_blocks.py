"""compare_blocks.py - a training step of one DiT block (S/4 and S/2 shapes): Langevin and PyTorch in turns, one run.

Usage: python bench/compare_blocks.py [--bench build/bench_blocks] [--device cpu:avx2] [--threads 2] [--rounds 15] [--no-compile]
                                [--mixed-precision bf16]

Forward, gradients of all weights and of the input; bf16 is autocast on PyTorch's side. Printed: medians in milliseconds, share of the FMA rate
given by --peak (GFLOP/s of all threads, optional), and the ratio of PyTorch's fastest variant to Langevin with its spread over the rounds.
"""

import argparse
import statistics
import subprocess
import time

WIDTH, HEADS = 384, 6
SIZES = {"s4": (16, 64), "s2": (4, 256)}


def torch_block():
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.adaln = nn.Linear(WIDTH, 6 * WIDTH)
            self.norm1 = nn.LayerNorm(WIDTH, elementwise_affine=False, eps=1e-6)
            self.norm2 = nn.LayerNorm(WIDTH, elementwise_affine=False, eps=1e-6)
            self.final = nn.LayerNorm(WIDTH, eps=1e-6)
            self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x, c):
            shift1, scale1, gate1, shift2, scale2, gate2 = self.adaln(F.silu(c)).unsqueeze(1).chunk(6, dim=2)
            n, length, _ = x.shape
            h = self.norm1(x) * (1 + scale1) + shift1
            q, k, v = self.qkv(h).view(n, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
            h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, WIDTH)
            x = x + gate1 * self.proj(h)
            h = self.norm2(x) * (1 + scale2) + shift2
            return self.final(x + gate2 * self.fc2(F.gelu(self.fc1(h), approximate="tanh")))

    return Block()


def torch_step(size, compiled, bf16):
    import torch

    n, length = SIZES[size]
    torch.manual_seed(0)
    model = torch_block()
    run = torch.compile(model) if compiled else model
    x = torch.randn(n, length, WIDTH, requires_grad=True)
    c, dy = torch.randn(n, WIDTH), torch.randn(n, length, WIDTH)

    def step():
        for p in [x, *model.parameters()]:
            p.grad = None
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = run(x, c)
        y.backward(dy.to(y.dtype))
        return time.perf_counter() - start

    for _ in range(3):
        step()
    return step


def langevin_step(args, size):
    p = subprocess.Popen([args.bench, args.device, str(args.threads), "--interactive", size, args.mixed_precision], text=True,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    flops = float(p.stdout.readline().split()[1])

    def step():
        p.stdin.write("\n")
        p.stdin.flush()
        return float(p.stdout.readline())

    return step, flops


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench", default="build/bench_blocks")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peak", type=float, default=0, help="GFLOP/s of all threads")
    parser.add_argument("--mixed-precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    import torch
    torch.set_num_threads(args.threads)
    bf16 = args.mixed_precision == "bf16"
    for size in SIZES:
        ours, flops = langevin_step(args, size)
        theirs = {"eager": torch_step(size, False, bf16)}
        if not args.no_compile:
            theirs["compile"] = torch_step(size, True, bf16)
        contenders = {"langevin": ours, **theirs}
        seconds = {name: [] for name in contenders}
        for _ in range(args.rounds):
            for name, step in contenders.items():
                step()
                seconds[name].append(min(step() for _ in range(2)))
        median = {name: statistics.median(s) for name, s in seconds.items()}
        best = min(theirs, key=median.get)
        ratios = [b / a for a, b in zip(seconds["langevin"], seconds[best])]
        share = f", {flops / median['langevin'] / args.peak * 1e-9:.2f} of the peak" if args.peak else ""
        print(f"{size}: " + ", ".join(f"{n} {1e3 * m:.2f} ms" for n, m in median.items())
              + f"{share}; {best}/langevin {median[best] / median['langevin']:.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
              flush=True)


if __name__ == "__main__":
    main()
