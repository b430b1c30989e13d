"""dit_original.py - DiT as arXiv 2212.09748 and facebookresearch/DiT define it, written anew from the formulas, with the
original's parameter names and initial values; pictures need not be square.  Used by golden/dit.py and bench/."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}


def positions(width, rows, columns):
    """[rows * columns, width] float32: of the column, then of the row, sines and cosines, computed in float64."""
    omega = 1.0 / 10000 ** (np.arange(width // 4, dtype=np.float64) / (width / 4))
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    parts = []
    for at in (column, row):
        angle = np.outer(at.reshape(-1).astype(np.float64), omega)
        parts += [np.sin(angle), np.cos(angle)]
    return torch.from_numpy(np.concatenate(parts, axis=1)).float()


def timestep_features(t, freq_shift, count=256):
    half = count // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / (half - freq_shift))
    angle = t.float()[:, None] * frequency[None]
    return torch.cat([torch.cos(angle), torch.sin(angle)], dim=1)


class Table(nn.Module):
    def __init__(self, rows, width):
        super().__init__()
        self.embedding_table = nn.Embedding(rows, width)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        n, l, c = x.shape
        q, k, v = self.qkv(x).reshape(n, l, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(n, l, c))


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def modulated(x, shift, scale):
    x = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    return x * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = Mlp(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x, c):
        shift, scale, gate, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate[:, None] * self.attn(modulated(x, shift, scale))
        return x + gate2[:, None] * self.mlp(modulated(x, shift2, scale2))


class Final(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.linear = nn.Linear(width, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x, c):
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulated(x, shift, scale))


class Patches(nn.Module):
    def __init__(self, channels, width, patch):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)


class Times(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))


class DiT(nn.Module):
    def __init__(self, size=(32, 32), patch=2, channels=4, out_channels=8, width=1152, depth=28, heads=16,
                 classes=1000, class_dropout=0.1, freq_shift=0):
        super().__init__()
        self.patch, self.out_channels, self.freq_shift = patch, out_channels, freq_shift
        self.grid = (size[0] // patch, size[1] // patch)
        self.x_embedder = Patches(channels, width, patch)
        self.t_embedder = Times(width)
        self.y_embedder = Table(classes + (class_dropout > 0), width) if classes else None
        self.pos_embed = nn.Parameter(positions(width, *self.grid)[None], requires_grad=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.final_layer = Final(width, patch * patch * out_channels)

    def forward(self, x, t, y=None):
        n, p = x.shape[0], self.patch
        x = self.x_embedder.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        c = self.t_embedder.mlp(timestep_features(t, self.freq_shift).to(x.dtype))
        if self.y_embedder is not None:
            c = c + self.y_embedder.embedding_table(y)
        for block in self.blocks:
            x = block(x, c)
        x = self.final_layer(x, c).reshape(n, *self.grid, p, p, self.out_channels)
        x = torch.einsum("nhwpqc->nchpwq", x)
        return x.reshape(n, self.out_channels, self.grid[0] * p, self.grid[1] * p)
