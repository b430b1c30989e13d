"""guidance.py - golden pictures of classifier-free guidance in diffusers' terms.

Usage:  python tools/golden/guidance.py
Writes tests/golden/guidance.safetensors: trajectories [steps,3,3,8,8] of the class-conditional network of
scheduler_pipeline.py (five labels, of which 4 stands for no class), labels 1, 0, 2, generators manual_seed(7), (8), (9).
Computed in float64: guidance and 1/sqrt(alpha_bar) multiply the network's rounding, PyTorch's as well as ours.

guided        ddim, 5 steps, scale 3: u + 3 (c - u)
rescaled      the same with rescale_noise_cfg(guidance_rescale=0.7)
interval      ddim, 10 steps, scale 3 in the steps int(0.3 * 10) <= i < int(0.7 * 10), as diffusers' guiders
ddpm          ddpm, 12 steps, scale 1.5
mixed         ddim, 5 steps, scale 3, labels 1, 4, 2: the second picture shows no class
image         ddim, 10 steps, scale 3, the last 5 of them from r("guidance.image") noised (strength 0.5)
"""

import os

import torch
from common import GOLDEN_DIR, hash_unit, save
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.guiders.guider_utils import rescale_noise_cfg
from diffusers.utils.torch_utils import randn_tensor
from scheduler_pipeline import SHAPE, generators, network

NULL = 4


def step(scheduler, out, t, x, generator):
    """The scheduler's step, with noise drawn in float32 as for float32 pictures."""
    from diffusers.schedulers import scheduling_ddpm

    original = scheduling_ddpm.randn_tensor
    scheduling_ddpm.randn_tensor = lambda shape, generator, **_: randn_tensor(shape, generator=generator).double()
    x = scheduler.step(out, t, x, generator=generator).prev_sample
    scheduling_ddpm.randn_tensor = original
    return x


def begin(scheduler, n, generator, strength):
    """The first x and the timesteps: noise, or with a strength below 1 a picture with noise."""
    noise = randn_tensor(SHAPE, generator=generator).double()
    scheduler.set_timesteps(n)
    timesteps = scheduler.timesteps[n - int(n * strength):]
    if strength == 1:
        return noise, timesteps
    image = torch.from_numpy(hash_unit("guidance.image", SHAPE)).double()
    return scheduler.add_noise(image, noise, timesteps[:1]), timesteps


@torch.no_grad()
def loop(model, scheduler, n, scale, labels=(1, 0, 2), rescale=0.0, start=0.0, stop=1.0, strength=1.0):
    generator = generators()
    labels = torch.tensor(labels)
    x, timesteps = begin(scheduler, n, generator, strength)
    rows = []
    for i, t in enumerate(timesteps):
        cond, uncond = model(torch.cat([x, x]), t, class_labels=torch.cat([labels, labels * 0 + NULL])).sample.chunk(2)
        if int(start * n) <= i < int(stop * n):
            out = uncond + scale * (cond - uncond)
            if rescale:
                out = rescale_noise_cfg(out, cond, rescale)
        else:
            out = cond
        x = step(scheduler, out, t, x, generator)
        rows.append(x)
    return torch.stack(rows).float()


def main():
    torch.set_num_threads(1)
    model = network(num_class_embeds=5).double()
    ddpm = DDPMScheduler(variance_type="fixed_large")
    ddim = DDIMScheduler.from_config(ddpm.config)
    tensors = {
        "guided": loop(model, ddim, 5, 3.0),
        "rescaled": loop(model, ddim, 5, 3.0, rescale=0.7),
        "interval": loop(model, ddim, 10, 3.0, start=0.3, stop=0.7),
        "ddpm": loop(model, ddpm, 12, 1.5),
        "mixed": loop(model, ddim, 5, 3.0, labels=(1, NULL, 2)),
        "image": loop(model, ddim, 10, 3.0, strength=0.5),
    }
    size = save(os.path.join(GOLDEN_DIR, "guidance.safetensors"), tensors)
    print(size, "bytes;", {name: round(t[-1].abs().max().item(), 3) for name, t in tensors.items()})


if __name__ == "__main__":
    main()
