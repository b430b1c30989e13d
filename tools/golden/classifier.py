"""classifier.py - golden values of a classifier of pictures with noise: encoder half of UNet2DModel, attention pooling.

Usage:  python tools/golden/classifier.py
Writes tests/golden/noisy_classifier.safetensors: a network of three channels at 16x16 with hash weights (common.py), its first
half diffusers' own modules, its pooling written here after the description of AttentionPool2d (guided-diffusion). float64.

sample [3,3,16,16] = r("classifier.sample"), timestep 3, 250, 900, labels 2, 0, 4
features [3,32]    the pooled vector, before the last layer
logits [3,5]
grad [3,3,16,16]   of the sum over pictures of log softmax(logits)[label] for the sample
metadata "config": config.json of the encoder
"""

import json
import os

import torch
from common import GOLDEN_DIR, hash_parameter, hash_unit, save
from diffusers import UNet2DModel

CONFIG = dict(sample_size=16, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(16, 32),
              down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
              norm_num_groups=8, attention_head_dim=8)
CLASSES = 5


def parameter(name, *shape):
    return torch.from_numpy(hash_parameter(name, shape)).double()


def pool(x, head_dim):
    """x [N,C,H,W] -> [N,C]: the answer of attention for the mean of the positions."""
    n, c = x.shape[:2]
    tokens = x.flatten(2).transpose(1, 2)
    tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
    tokens = tokens + parameter("pool.positional_embedding", 1, tokens.shape[1], c)
    qkv = torch.nn.functional.linear(tokens, parameter("pool.qkv_proj.weight", 3 * c, c),
                                     parameter("pool.qkv_proj.bias", 3 * c))
    q, k, v = (t.unflatten(2, (c // head_dim, head_dim)).transpose(1, 2) for t in qkv.chunk(3, 2))
    weight = torch.softmax(q @ k.transpose(2, 3) / head_dim**0.5, -1)
    return (weight @ v).transpose(1, 2).flatten(2)[:, 0]


def encoder(config):
    """diffusers' own modules with hash weights; float64."""
    unet = UNet2DModel(**config).eval()
    with torch.no_grad():
        for name, p in unet.named_parameters():
            p.copy_(torch.from_numpy(hash_parameter(name, tuple(p.shape))))
    return unet.double()


def classify(unet, x, t, classes):
    """x [N,C,H,W] float64, t [N] -> features [N,32], logits [N,classes]."""
    emb = unet.time_embedding(unet.time_proj(t).double())
    h = unet.conv_in(x)
    for block in unet.down_blocks:
        h, _ = block(h, emb)
    h = unet.mid_block(h, emb)
    h = torch.nn.functional.group_norm(h, 8, parameter("conv_norm_out.weight", 32), parameter("conv_norm_out.bias", 32),
                                       1e-5)
    features = pool(torch.nn.functional.silu(h), CONFIG["attention_head_dim"])
    return features, torch.nn.functional.linear(features, parameter("pool.c_proj.weight", classes, 32),
                                                parameter("pool.c_proj.bias", classes))


def main():
    torch.set_num_threads(1)
    unet = encoder(CONFIG)
    sample = torch.from_numpy(hash_unit("classifier.sample", (3, 3, 16, 16)))
    x = sample.double().requires_grad_()
    t = torch.tensor([3, 250, 900])
    labels = torch.tensor([2, 0, 4])
    features, logits = classify(unet, x, t, CLASSES)
    torch.log_softmax(logits, -1).gather(1, labels[:, None]).sum().backward()
    size = save(os.path.join(GOLDEN_DIR, "noisy_classifier.safetensors"),
                {"sample": sample, "features": features.float(), "logits": logits.float(), "grad": x.grad.float()},
                {"config": json.dumps({"_class_name": "UNet2DModel", **CONFIG})})
    print(size, "bytes; logits", logits.detach().numpy().round(3).tolist(), "largest gradient", x.grad.abs().max().item())


if __name__ == "__main__":
    main()
