"""known.py - golden pictures of sampling that begins with a picture: image-to-image, masks, resampling.

Usage:  python tools/golden/known.py
Writes tests/golden/known.safetensors: the network and the DDPMScheduler of scheduler_pipeline.py (metadata "config",
"scheduler"); three pictures [3,3,8,8].

image, noise  [3,3,8,8]: the pictures to begin with and the noise they get; mask uint8 [8,8], 1 is painted
ddim, dpmpp_2m, euler, heun    x after each network call of 10 steps (heun 5), image-to-image as diffusers' pipelines do it, with
              the strengths in metadata "strength"
masked        ddim, 5 steps, from noise alone; what the mask leaves out is the picture at the level of each step
repaint       ddim, 6 steps, jump_length 2, jump_n_sample 2. diffusers' own RePaint takes the betas of other timesteps to
              go back up (its undo_step begins one step too late); here sqrt(abar_t/abar_s) does, as in arXiv 2201.09865
For the last two all noise is drawn from generators manual_seed(7), (8), (9): first x, then in each step that of the
known part, then that of a jump.
"""

import json
import os

import torch
from common import GOLDEN_DIR, hash_unit, save
from diffusers import (DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler,
                       HeunDiscreteScheduler)
from diffusers.utils.torch_utils import randn_tensor

from scheduler_pipeline import SHAPE, generators, network


@torch.no_grad()
def image_to_image(model, scheduler, n, strength, image, noise):
    scheduler.set_timesteps(n)
    start = n - min(int(n * strength), n)
    times = scheduler.timesteps[start * scheduler.order:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start * scheduler.order)
    x = scheduler.add_noise(image, noise, times[:1].repeat(3))
    rows = []
    for t in times:
        out = model(scheduler.scale_model_input(x, t), t).sample
        x = scheduler.step(out, t, x).prev_sample
        rows.append(x)
    return torch.stack(rows)


@torch.no_grad()
def inpaint(model, ddim, n, length, again, image, mask):
    source = generators()
    x = randn_tensor(SHAPE, generator=source)
    ddim.set_timesteps(n)
    times = ddim.timesteps.tolist()  # descending
    abar = ddim.alphas_cumprod.double()
    left = {j: again - 1 for j in range(0, n - length, length)} if length else {}
    rows, i = [], n
    while i >= 1:
        i -= 1
        t = times[n - 1 - i]
        x = ddim.step(model(x, t).sample, t, x).prev_sample
        level = abar[times[n - i]] if i else torch.tensor(1.0).double()
        known = level.sqrt() * image + (1 - level).sqrt() * randn_tensor(SHAPE, generator=source)
        x = torch.where(mask.bool(), x, known.float())
        if left.get(i, 0) > 0:
            left[i] -= 1
            i += length
            ratio = abar[times[n - i]] / level
            x = (ratio.sqrt() * x + (1 - ratio).sqrt() * randn_tensor(SHAPE, generator=source)).float()
        rows.append(x)
    return torch.stack(rows)


def main():
    torch.set_num_threads(1)
    model = network()
    # as from a file: every value counts as stated
    ddpm = DDPMScheduler.from_config(json.loads(DDPMScheduler(variance_type="fixed_large").to_json_string()))
    image = torch.from_numpy(0.9 * hash_unit("known.image", SHAPE))
    noise = torch.from_numpy(1.5 * hash_unit("known.noise", SHAPE))
    mask = torch.zeros(8, 8, dtype=torch.uint8)
    mask[2:7, 3:] = 1
    strength = {"ddim": 0.5, "dpmpp_2m": 0.65, "euler": 0.65, "heun": 0.6}
    cases = {"ddim": (DDIMScheduler, 10), "dpmpp_2m": (DPMSolverMultistepScheduler, 10),
             "euler": (EulerDiscreteScheduler, 10), "heun": (HeunDiscreteScheduler, 5)}
    tensors = {"image": image, "noise": noise, "mask": mask}
    for name, (kind, n) in cases.items():
        scheduler = kind.from_config(ddpm.config)
        tensors[name] = image_to_image(model, scheduler, n, strength[name], image, noise)
    ddim = DDIMScheduler.from_config(ddpm.config)
    tensors["masked"] = inpaint(model, ddim, 5, 0, 0, image, mask)
    tensors["repaint"] = inpaint(model, ddim, 6, 2, 2, image, mask)
    size = save(os.path.join(GOLDEN_DIR, "known.safetensors"), tensors,
                {"config": model.to_json_string(), "scheduler": ddpm.to_json_string(), "strength": json.dumps(strength)})
    print(size, "bytes", {k: tuple(v.shape) for k, v in tensors.items()})


if __name__ == "__main__":
    main()
