"""originals.py - golden outputs and gradients of the networks of the original codebases: `Model` of DDPM, DDIM and CompVis
(ldm/modules/diffusionmodules/model.py) and `UNetModel` of improved- and guided-diffusion (guided_diffusion/unet.py).

Usage:  python tools/golden/originals.py [--only NAME[,NAME...]]
Writes  tests/golden/original_<name>.safetensors, with the tensors and metadata of unet2d.py; gradients and hash weights
        go by the original parameter names. Large networks (compvis_article) are as cheap as small ones: weights are
        hashed on both sides, and of gradients there are sums only.

The networks below are written for this script from the facts: layers, names, order, constants. Nothing but their parameter
names and results is meant to agree with the originals.
"""

import json
import math
import os

import torch
from torch import nn
from torch.nn import functional as F

import common


# --- Model ---
def sin_cos(t, dim):
    half = dim // 2
    f = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000) / (half - 1)))
    a = t.float()[:, None] * f[None]
    return F.pad(torch.cat([a.sin(), a.cos()], 1), (0, dim % 2))


def norm6(channels):
    return nn.GroupNorm(32, channels, eps=1e-6)


class Block(nn.Module):
    def __init__(self, cin, cout, temb, conv_shortcut):
        super().__init__()
        self.norm1, self.conv1 = norm6(cin), nn.Conv2d(cin, cout, 3, padding=1)
        self.temb_proj = nn.Linear(temb, cout)
        self.norm2, self.conv2 = norm6(cout), nn.Conv2d(cout, cout, 3, padding=1)
        self.short = None
        if cin != cout:
            self.short = "conv_shortcut" if conv_shortcut else "nin_shortcut"
            k = 3 if conv_shortcut else 1
            self.add_module(self.short, nn.Conv2d(cin, cout, k, padding=k // 2))

    def forward(self, x, temb):
        h = self.conv1(F.silu(self.norm1(x))) + self.temb_proj(F.silu(temb))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (getattr(self, self.short)(x) if self.short else x)


class Attn(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm = norm6(c)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(c, c, 1) for _ in range(4))

    def forward(self, x):
        b, c, h, w = x.shape
        y = self.norm(x)
        q, k, v = (m(y).reshape(b, c, h * w) for m in (self.q, self.k, self.v))
        a = torch.softmax(torch.bmm(q.transpose(1, 2), k) * c ** -0.5, dim=2)
        return x + self.proj_out(torch.bmm(v, a.transpose(1, 2)).reshape(b, c, h, w))


class LinAttn(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.to_qkv, self.to_out = nn.Conv2d(c, 3 * c, 1, bias=False), nn.Conv2d(c, c, 1)

    def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = self.to_qkv(x).reshape(b, 3, c, h * w).unbind(1)
        context = torch.einsum("bdn,ben->bde", k.softmax(dim=-1), v)
        return self.to_out(torch.einsum("bde,bdn->ben", context, q).reshape(b, c, h, w))


class Resample(nn.Module):
    def __init__(self, c, up, with_conv):
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(c, c, 3, 1 if up else 2, 1 if up else 0) if with_conv else None

    def forward(self, x):
        if self.up:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            return self.conv(x) if self.conv else x
        return self.conv(F.pad(x, (0, 1, 0, 1))) if self.conv else F.avg_pool2d(x, 2)


class Level(nn.Module):
    pass


class Model(nn.Module):
    def __init__(self, *, ch, out_ch, ch_mult, num_res_blocks, attn_resolutions, in_channels, resolution, dropout=0.0,
                 resamp_with_conv=True, conv_shortcut=False, use_timestep=True, use_linear_attn=False,
                 attn_type="vanilla"):
        super().__init__()
        self.ch, self.blocks = ch, num_res_blocks
        temb = 4 * ch
        attn = {"vanilla": Attn, "linear": LinAttn, "none": lambda c: nn.Identity()}[
            "linear" if use_linear_attn else attn_type]
        self.temb = nn.Module()
        self.temb.dense = nn.ModuleList([nn.Linear(ch, temb), nn.Linear(temb, temb)])
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down, skips, c, size = nn.ModuleList(), [ch], ch, resolution
        for i, m in enumerate(ch_mult):
            level = Level()
            level.block, level.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(num_res_blocks):
                level.block.append(Block(c, ch * m, temb, conv_shortcut))
                c = ch * m
                skips.append(c)
                if size in attn_resolutions:
                    level.attn.append(attn(c))
            if i + 1 < len(ch_mult):
                level.downsample = Resample(c, False, resamp_with_conv)
                skips.append(c)
                size //= 2
            self.down.append(level)
        self.mid = nn.Module()
        self.mid.block_1, self.mid.attn_1 = Block(c, c, temb, conv_shortcut), attn(c)
        self.mid.block_2 = Block(c, c, temb, conv_shortcut)
        ups = []
        for i in reversed(range(len(ch_mult))):
            level = Level()
            level.block, level.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(num_res_blocks + 1):
                level.block.append(Block(c + skips.pop(), ch * ch_mult[i], temb, conv_shortcut))
                c = ch * ch_mult[i]
                if size in attn_resolutions:
                    level.attn.append(attn(c))
            if i:
                level.upsample = Resample(c, True, resamp_with_conv)
                size *= 2
            ups.insert(0, level)
        self.up = nn.ModuleList(ups)
        self.norm_out, self.conv_out = norm6(c), nn.Conv2d(c, out_ch, 3, padding=1)

    def forward(self, x, t, y=None):
        temb = self.temb.dense[0](sin_cos(t, self.ch).to(x.dtype))
        temb = self.temb.dense[1](F.silu(temb))
        hs = [self.conv_in(x)]
        for i, level in enumerate(self.down):
            for j, block in enumerate(level.block):
                h = block(hs[-1], temb)
                hs.append(level.attn[j](h) if len(level.attn) else h)
            if i + 1 < len(self.down):
                hs.append(level.downsample(hs[-1]))
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(hs[-1], temb)), temb)
        for i in reversed(range(len(self.up))):
            level = self.up[i]
            for j, block in enumerate(level.block):
                h = block(torch.cat([h, hs.pop()], 1), temb)
                if len(level.attn):
                    h = level.attn[j](h)
            if i:
                h = level.upsample(h)
        return self.conv_out(F.silu(self.norm_out(h)))


# --- UNetModel ---
def cos_sin(t, dim):
    half = dim // 2
    f = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    a = t.float()[:, None] * f[None]
    return F.pad(torch.cat([a.cos(), a.sin()], 1), (0, dim % 2))


class Norm32(nn.GroupNorm):
    def __init__(self, channels):
        super().__init__(32, channels)


class ResBlock(nn.Module):
    def __init__(self, cin, cout, emb, scale_shift, way=None):
        super().__init__()
        self.scale_shift, self.way = scale_shift, way
        self.in_layers = nn.Sequential(Norm32(cin), nn.SiLU(), nn.Conv2d(cin, cout, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * cout if scale_shift else cout))
        self.out_layers = nn.Sequential(Norm32(cout), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(cout, cout, 3, padding=1))
        self.skip_connection = nn.Identity() if cin == cout else nn.Conv2d(cin, cout, 1)

    def resize(self, x):
        if self.way == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.way == "down" else x

    def forward(self, x, emb):
        h = self.in_layers[2](self.resize(self.in_layers[1](self.in_layers[0](x))))
        x = self.resize(x)
        e = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, 1)
            h = self.out_layers[0](h) * (1 + scale) + shift
            h = self.out_layers[1:](h)
        else:
            h = self.out_layers(h + e)
        return self.skip_connection(x) + h


class AttentionBlock(nn.Module):
    def __init__(self, c, heads, head_channels, new_order):
        super().__init__()
        self.heads = heads if head_channels == -1 else c // head_channels
        self.new_order = new_order
        self.norm, self.qkv, self.proj_out = Norm32(c), nn.Conv1d(c, 3 * c, 1), nn.Conv1d(c, c, 1)

    def forward(self, x):
        b, c, h, w = x.shape
        y = x.reshape(b, c, h * w)
        qkv = self.qkv(self.norm(y))
        d = c // self.heads
        if self.new_order:  # q of all heads, k of all heads, v of all heads
            q, k, v = (z.reshape(b * self.heads, d, -1) for z in qkv.chunk(3, 1))
        else:  # q, k, v of the first head, ...
            q, k, v = qkv.reshape(b * self.heads, 3 * d, -1).chunk(3, 1)
        a = torch.softmax(torch.einsum("bct,bcs->bts", q * d ** -0.25, k * d ** -0.25), -1)
        z = torch.einsum("bts,bcs->bct", a, v).reshape(b, c, -1)
        return (y + self.proj_out(z)).reshape(b, c, h, w)


class Downsample(nn.Module):
    def __init__(self, c, with_conv):
        super().__init__()
        self.op = nn.Conv2d(c, c, 3, 2, 1) if with_conv else nn.AvgPool2d(2)

    def forward(self, x):
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, c, with_conv):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1) if with_conv else nn.Identity()

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class UNetModel(nn.Module):
    def __init__(self, *, image_size, in_channels, model_channels, out_channels, num_res_blocks, attention_resolutions,
                 channel_mult, dropout=0, conv_resample=True, num_classes=None, num_heads=1, num_head_channels=-1,
                 num_heads_upsample=-1, use_scale_shift_norm=False, resblock_updown=False,
                 use_new_attention_order=False):
        super().__init__()
        self.mc, emb = model_channels, 4 * model_channels
        block = lambda cin, cout, way=None: ResBlock(cin, cout, emb, use_scale_shift_norm, way)
        attn = lambda c, heads: AttentionBlock(c, heads, num_head_channels, use_new_attention_order)
        up_heads = num_heads if num_heads_upsample == -1 else num_heads_upsample
        self.time_embed = nn.Sequential(nn.Linear(model_channels, emb), nn.SiLU(), nn.Linear(emb, emb))
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, emb)
        c = int(channel_mult[0] * model_channels)
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(in_channels, c, 3, padding=1)])])
        skips, ds = [c], 1
        for i, m in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                layers = [block(c, int(m * model_channels))]
                c = int(m * model_channels)
                if ds in attention_resolutions:
                    layers.append(attn(c, num_heads))
                self.input_blocks.append(nn.ModuleList(layers))
                skips.append(c)
            if i + 1 < len(channel_mult):
                down = block(c, c, "down") if resblock_updown else Downsample(c, conv_resample)
                self.input_blocks.append(nn.ModuleList([down]))
                skips.append(c)
                ds *= 2
        self.middle_block = nn.ModuleList([block(c, c), attn(c, num_heads), block(c, c)])
        self.output_blocks = nn.ModuleList()
        for i, m in reversed(list(enumerate(channel_mult))):
            for j in range(num_res_blocks + 1):
                layers = [block(c + skips.pop(), int(m * model_channels))]
                c = int(m * model_channels)
                if ds in attention_resolutions:
                    layers.append(attn(c, up_heads))
                if i and j == num_res_blocks:
                    layers.append(block(c, c, "up") if resblock_updown else Upsample(c, conv_resample))
                    ds //= 2
                self.output_blocks.append(nn.ModuleList(layers))
        self.out = nn.Sequential(Norm32(c), nn.SiLU(), nn.Conv2d(c, out_channels, 3, padding=1))

    def forward(self, x, t, y=None):
        emb = self.time_embed(cos_sin(t, self.mc).to(x.dtype))
        if y is not None:
            emb = emb + self.label_emb(y)

        def apply(layers, h):
            for layer in layers:
                h = layer(h, emb) if isinstance(layer, ResBlock) else layer(h)
            return h

        hs, h = [], x
        for layers in self.input_blocks:
            h = apply(layers, h)
            hs.append(h)
        h = apply(self.middle_block, h)
        for layers in self.output_blocks:
            h = apply(layers, torch.cat([h, hs.pop()], 1))
        return self.out(h)


def model(**options):
    base = dict(ch=32, out_ch=3, ch_mult=[1, 2], num_res_blocks=1, attn_resolutions=[8], dropout=0.1,
                resamp_with_conv=True, in_channels=3, resolution=16)
    base.update(options)
    return Model, base


def unet(**options):
    base = dict(image_size=16, in_channels=3, model_channels=32, out_channels=3, num_res_blocks=1,
                attention_resolutions=[2], dropout=0.0, channel_mult=[1, 2], num_heads=2)
    base.update(options)
    return UNetModel, base


# name: (class, configuration), (H, W), timesteps, labels
CONFIGURATIONS = {
    # The article's configuration; at 32x32, where its middle attention has 8x8 positions.
    "compvis_article": (model(ch=64, ch_mult=[1, 2, 4], num_res_blocks=2, attn_resolutions=[16], resolution=128,
                              use_timestep=True, use_linear_attn=False, attn_type="vanilla"), (32, 32), [3, 977], None),
    # CIFAR-10's of DDPM with a quarter of its channels.
    "ddpm_cifar10": (model(ch_mult=[1, 2, 2, 2], num_res_blocks=2, attn_resolutions=[16], resolution=32), (32, 32),
                     [0, 999], None),
    # Attention at two levels, other channels in and out, not square.
    "compvis_small": (model(ch_mult=[1, 1, 2], attn_resolutions=[16, 4], in_channels=4, out_ch=2), (16, 8), [7, 500],
                      None),
    # Linear attention at both levels and in the middle, 3x3 shortcuts. 64 channels, because norms with one channel a group
    # enlarge what little the positions of linear attention differ by, and float32 with it.
    "compvis_linear": (model(ch=64, attn_resolutions=[16, 8], use_linear_attn=True, conv_shortcut=True),
                       (16, 8), [11, 800], None),
    # No convolutions where the resolution changes, attention by its other name.
    "compvis_pooled": (model(ch_mult=[1, 2, 2], attn_resolutions=[8], resamp_with_conv=False, attn_type="linear"),
                       (16, 16), [1, 420], None),
    # A first level wider than the first convolution.
    "compvis_wide": (model(ch_mult=[2, 1, 4], attn_resolutions=[8]), (8, 16), [0, 711], None),
    # improved-diffusion: scale-shift, legacy order, learned variance.
    "guided_legacy": (unet(use_scale_shift_norm=True, out_channels=6, num_res_blocks=2, attention_resolutions=[1, 2],
                           num_heads=4), (16, 16), [3, 977], None),
    # guided-diffusion's ImageNet networks: residual resampling, new order, head channels, classes.
    "guided_new": (unet(use_scale_shift_norm=True, out_channels=6, resblock_updown=True, use_new_attention_order=True,
                        num_head_channels=16, num_classes=10, channel_mult=[1, 2, 2], attention_resolutions=[2, 4]),
                   (16, 8), [0, 640], [9, 0]),
    # New order with several heads, resampling without convolutions, labels, embedding added.
    "guided_pooled": (unet(channel_mult=[1, 1, 2], attention_resolutions=[2, 4], num_heads=4, num_classes=3,
                           conv_resample=False, use_new_attention_order=True), (16, 16), [5, 333], [2, 1]),
    # Fractional channels, embedding added, other heads on the way up, resampling without convolutions.
    "guided_fraction": (unet(model_channels=64, channel_mult=[0.5, 1.5, 2], conv_resample=False, num_heads=1,
                             num_heads_upsample=2, attention_resolutions=[4]), (16, 16), [10, 600], None),
}


def run(network, dtype, sample, timestep, labels, target):
    network.to(dtype)
    network.zero_grad(set_to_none=True)
    output = network(sample.to(dtype), timestep, labels)
    F.mse_loss(output, target.to(dtype)).backward()
    return output.detach()


def make(name):
    (cls, options), size, timesteps, labels = CONFIGURATIONS[name]
    network = cls(**options).eval()
    common.fill_model(network)
    batch = len(timesteps)
    channels = options.get("out_ch", options.get("out_channels"))
    tensors = {
        "input.sample": torch.from_numpy(common.hash_unit("input.sample", (batch, options["in_channels"], *size))),
        "input.timestep": torch.tensor(timesteps),
        "input.target": torch.from_numpy(common.hash_unit("input.target", (batch, channels, *size))),
    }
    if labels is not None:
        tensors["input.class_labels"] = torch.tensor(labels)
    inputs = [tensors["input.sample"], tensors["input.timestep"], tensors.get("input.class_labels"),
              tensors["input.target"]]
    o32 = run(network, torch.float32, *inputs)
    g32 = common.gradients_of(network)
    o64 = run(network, torch.float64, *inputs)
    g64 = common.gradients_of(network)
    output_error, gradient_error, _ = common.float32_errors(o32, g32, o64, g64)
    tensors["output"] = o32
    tensors.update(common.model_gradient_summaries(network))
    config = {"_class_name": cls.__name__, **options}
    written = common.save(os.path.join(common.GOLDEN_DIR, f"original_{name}.safetensors"), tensors, {
        "config": json.dumps(config), "output_error": f"{output_error:.3g}", "gradient_error": f"{gradient_error:.3g}"})
    print(f"{name}: {sum(p.numel() for p in network.parameters())} parameters, {len(g64)} tensors, {written} bytes, "
          f"float32 error: output {output_error:.1e}, gradients {gradient_error:.1e}")
    return written


if __name__ == "__main__":
    common.make_all(__doc__, CONFIGURATIONS, make)
