"""bound.py - golden values of the variational bound: its terms, their gradients, and the bits per dimension
of a small network.

Usage:  python tools/golden/bound.py
Writes to tests/golden/, deterministic for given package versions (weights: see common.py):

bound_terms.safetensors
    Rows at the timesteps t of DDPMScheduler()'s 1000 linear betas, float64 formulas below on float32 inputs.
        t [6] int64; x0 [6,3,4,4] on the grid of 256 levels, both ends included; x_t; out [6,6,4,4]
        learned, small, large [6] float64: bits per element with learned_range, fixed_small, fixed_large variance
            (the latter two from the first three channels); clipped: learned, with x0 clipped to -1 .. 1
        grad, grad_detached [6,6,4,4]: gradient of the sum of `learned` for out; with the mean detached
bound_network.safetensors
    Bits per dimension of two pictures under a UNet2DModel with learned variance (metadata "config"), hash weights,
    12 timesteps (metadata "scheduler"), given noise, x0 clipped; the network runs in float64.
        pixels [2,8,8,3] uint8; noise [12,2,3,8,8]; terms [12], prior [1], picture [2] float64
        short.chain, short.terms: the same over the chain 0, 5, 11 of the timesteps

The formulas (arXiv 2006.11239, eq. 5 to 8 and 13; arXiv 2102.09672, eq. 15; the normal distribution function by its tanh
approximation) are written down here, PyTorch differentiates them.
"""

import json
import math
import os

import numpy as np
import torch

import common
from common import GOLDEN_DIR


def abar_of(scheduler):
    return np.concatenate([np.cumprod(1 - scheduler.betas.double().numpy()), [1.0]])  # [-1]: before the first


def step_numbers(abar, t, prev, after):
    """Of the step t -> prev: beta, the posterior's log variance, the weight of x0 in its mean."""
    beta = 1 - abar[t] / abar[prev]
    variance = beta * (1 - abar[prev]) / (1 - abar[t])
    if prev < 0:
        variance = (1 - abar[after] / abar[t]) * (1 - abar[t]) / (1 - abar[after])
    return beta, math.log(variance), math.sqrt(abar[prev]) * beta / (1 - abar[t])


def cdf(u):
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))


def decoder_nats(x0, mean, log_var):
    inverse = torch.exp(-0.5 * log_var)
    high, low = cdf((x0 - mean + 1 / 255) * inverse), cdf((x0 - mean - 1 / 255) * inverse)
    p = torch.where(x0 < -0.999, high, torch.where(x0 > 0.999, 1 - low, high - low))
    return -torch.log(p.clamp(min=1e-12))


def vb_bits(out, x_t, x0, abar, t, prev, after, variance, clip=False, detach=False):
    """Mean bits of one row [C,H,W]; out has 2C channels for variance "learned"."""
    beta, least, weight = step_numbers(abar, t, prev, after)
    channels = x0.shape[0]
    eps = out[:channels].detach() if detach else out[:channels]
    predicted = math.sqrt(1 / abar[t]) * x_t - math.sqrt(1 / abar[t] - 1) * eps
    if clip:
        predicted = predicted.clamp(-1, 1)
    if variance == "learned":
        fraction = (out[channels:] + 1) / 2
        log_var = fraction * math.log(beta) + (1 - fraction) * least
    else:
        value = math.log(beta) if variance == "large" and prev >= 0 else least
        log_var = torch.full_like(predicted, value)
    if prev < 0:
        nats = decoder_nats(x0, x0 - weight * (x0 - predicted), log_var)
    else:
        nats = 0.5 * (-1 + log_var - least + torch.exp(least - log_var)
                      + (weight * (x0 - predicted)) ** 2 * torch.exp(-log_var))
    return nats.mean() / math.log(2)


def grid(name, shape):
    """Levels 0 .. 255, the first two entries the ends."""
    levels = np.floor((common.hash_unit(name, shape) + 1) * 128).clip(0, 255).astype(np.uint8)
    levels.reshape(-1)[:2] = (0, 255)
    return levels


def terms():
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler()
    abar = abar_of(scheduler)
    t = torch.tensor([0, 1, 5, 500, 998, 999])
    x0 = torch.from_numpy(grid("bound.x0", (6, 3, 4, 4)).astype(np.float32) / np.float32(127.5) - np.float32(1))
    noise = torch.from_numpy(common.hash_unit("bound.noise", (6, 3, 4, 4)))
    out = torch.from_numpy(common.hash_unit("bound.out", (6, 6, 4, 4)))
    out[:, :3] += noise  # a network that is right by half
    x_t = scheduler.add_noise(x0, noise, t)
    tensors = dict(t=t, x0=x0, x_t=x_t, out=out)

    def rows(answer, variance, **options):
        return torch.stack([vb_bits(answer[i], x_t[i].double(), x0[i].double(), abar, k, k - 1, min(k + 1, 999),
                                    variance, **options) for i, k in enumerate(t.tolist())])

    for name, detach in (("grad", False), ("grad_detached", True)):
        answer = out.double().requires_grad_()
        bits = rows(answer, "learned", detach=detach)
        bits.sum().backward()
        tensors.update({"learned": bits, name: answer.grad.float()})
    tensors.update(clipped=rows(out.double(), "learned", clip=True), small=rows(out.double(), "small"),
                   large=rows(out.double(), "large"))
    size = common.save(os.path.join(GOLDEN_DIR, "bound_terms.safetensors"), tensors)
    print(f"bound_terms: {size} bytes,", [f"{v:.4g}" for v in tensors["learned"].tolist()])


def network():
    from diffusers import DDPMScheduler, UNet2DModel

    config = dict(sample_size=8, in_channels=3, out_channels=6, block_out_channels=[8, 16],
                  down_block_types=["DownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "UpBlock2D"],
                  layers_per_block=1, norm_num_groups=4, add_attention=False)
    options = dict(num_train_timesteps=12, beta_start=0.01, beta_end=0.5, variance_type="learned_range")
    model = UNet2DModel(**config).eval()
    common.fill_model(model)
    model.double()
    scheduler = DDPMScheduler(**options)
    abar = abar_of(scheduler)
    pixels = grid("bound.pixels", (2, 8, 8, 3))
    x0 = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - np.float32(1))
    noise = torch.from_numpy(common.hash_unit("bound.steps", (12, 2, 3, 8, 8)))
    picture = np.zeros(2)

    def chain(steps):
        total = []
        for i, t in enumerate(steps):
            times = torch.tensor([t, t])
            x_t = scheduler.add_noise(x0, noise[i], times).double()
            with torch.no_grad():
                out = model(x_t, times).sample
            bits = [vb_bits(out[k], x_t[k], x0[k].double(), abar, t, steps[i - 1] if i else -1,
                            steps[min(i + 1, len(steps) - 1)], "learned", clip=True).item() for k in range(2)]
            picture[:] += bits
            total.append(sum(bits) / 2)
        return np.array(total)

    short = [0, 5, 11]
    short_terms = chain(short)
    picture[:] = 0
    whole = chain(list(range(12)))
    last = abar[11]
    prior = (0.5 * (last * x0.double() ** 2 - last - math.log(1 - last)) / math.log(2)).mean(dim=(1, 2, 3)).numpy()
    size = common.save(os.path.join(GOLDEN_DIR, "bound_network.safetensors"), dict(
        pixels=pixels, noise=noise, terms=whole, prior=np.array([prior.mean()]), picture=picture + prior,
        **{"short.chain": np.array(short), "short.terms": short_terms}),
        {"config": json.dumps({"_class_name": "UNet2DModel", **config}),
         "scheduler": json.dumps({"_class_name": "DDPMScheduler", **options})})
    print(f"bound_network: {size} bytes, {whole.sum() + prior.mean():.4f} bits/dim")


if __name__ == "__main__":
    terms()
    network()
