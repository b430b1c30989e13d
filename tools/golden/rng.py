"""Draws from the real PyTorch, call by call, for tests/test_torch_rng.c.

Usage: python tools/golden/rng.py tests/golden/torch_rng.txt
Each line is one call on the default generator and what it returned: floats as the hexadecimal of their
bits, integers in decimal. Long results that must be equal bit for bit are stored as an FNV-1a-64 hash
("#...") over the little-endian 4-byte (float) or 8-byte (integer) values."""
import math
import struct
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader

assert torch.backends.cpu.get_cpu_capability() == "AVX2", "other builds of randn differ in the last places"
torch.set_num_threads(1)
out = open(sys.argv[1], "w")
HASH_ABOVE = 80


def fnv(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & (2**64 - 1)
    return "#%016x" % h


def floats(t):
    data = t.detach().contiguous().view(-1).numpy().astype("<f4").tobytes()
    if t.numel() > HASH_ABOVE:
        return fnv(data)
    return " ".join("%08x" % v for v in struct.unpack("<%dI" % t.numel(), data))


def integers(values):
    if len(values) > HASH_ABOVE:
        return fnv(struct.pack("<%dq" % len(values), *values))
    return " ".join(str(v) for v in values)


def single(x):
    return float(torch.tensor(x, dtype=torch.float32)).hex()


def seed(s):
    torch.manual_seed(s)
    print("seed", s % 2**64, file=out)


def rand(n):
    print("rand", n, floats(torch.rand(n)), file=out)


def uniform(low, high, n=None, t=None):
    t = torch.empty(n).uniform_(low, high) if t is None else t
    print("uniform", t.numel(), single(low), single(high), floats(t), file=out)


def randn(n):
    print("randn", n, floats(torch.randn(n)), file=out)


def normal(mean, std, n):
    print("normal", n, single(mean), single(std), floats(torch.empty(n).normal_(mean, std)), file=out)


def randint(bound, n):
    print("randint", bound, n, integers(torch.randint(0, bound, (n,)).tolist()), file=out)


def randperm(n):
    print("randperm", n, integers(torch.randperm(n).tolist()), file=out)


def loader(n):
    data = DataLoader(torch.arange(n), batch_size=min(n, 7), shuffle=True)
    print("loader", n, integers(torch.cat(list(data)).tolist()), file=out)


print("# torch", torch.__version__, torch.backends.cpu.get_cpu_capability(), file=out)
for s in (0, 1, 42, 2**32 + 5, 2**63 + 12345):
    seed(s)
    rand(30)
    randn(40)
for n in range(1, 41):
    seed(1000 + n)
    rand(n)
    randn(n)
    randn(n)
    normal(0.5, 2.0, n)
for n in (1000, 4097):
    seed(n)
    rand(n)
    randn(n)
    normal(-1.0, 0.02, n)
    randint(1000, n)
    randperm(n)
seed(7)  # crosses the 624-word block in the middle of 64-bit draws
for i in range(130):
    rand(3)
    randn(3)
for k in (1, 2, 10, 1000, 2**28 - 1, 2**28, 2**28 + 1, 2**29, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**40 + 3, 2**62 + 1, 2**63 - 1):
    seed(k)
    randint(k, 20)
    rand(2)
seed(3)
for n in (1, 2, 3, 10, 25, 1000):
    randperm(n)
    rand(1)
for s, n in ((0, 1), (0, 10), (5, 13), (6, 60), (42, 1000)):
    seed(s)
    for epoch in range(2):
        loader(n)
        randn(5)
        randint(1000, 4)
        randn(16)
seed(11)  # a script: initialisation, order, noise, timesteps
for low, high in ((-0.1, 0.1), (0.0, 1.0), (2.0, 3.0), (-1e-30, 1e30), (5.0, 5.0), (-1 / 3, 2 / 3)):
    uniform(low, high, 50)
# reset_parameters: weight kaiming_uniform_(a=sqrt 5), bias uniform(+-1/sqrt(fan_in))
for make in (lambda: nn.Conv2d(3, 8, 3), lambda: nn.Linear(20, 7), lambda: nn.Conv2d(128, 3, 3), lambda: nn.Linear(1, 1)):
    module = make()
    fan_in = module.weight[0].numel()
    weight_bound = math.sqrt(3.0) * (math.sqrt(2.0 / (1 + math.sqrt(5) ** 2)) / math.sqrt(fan_in))
    bias_bound = 1 / math.sqrt(fan_in)
    uniform(-weight_bound, weight_bound, t=module.weight)
    uniform(-bias_bound, bias_bound, t=module.bias)
seed(12)
module = nn.Embedding(11, 6)
print("randn", 66, floats(module.weight), file=out)
randn(1)
