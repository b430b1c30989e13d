"""scheduler_pipeline.py - golden pictures of the whole sampling loop: network, scheduler, generators.

Usage:  python tools/golden/scheduler_pipeline.py
Writes tests/golden/pipeline.safetensors: a small UNet2DModel with hash weights (common.py), metadata
"config" (config.json) and "scheduler" (scheduler_config.json of a DDPMScheduler). Pictures are [3,3,8,8].

ddim          trajectory [5,3,3,8,8]: x after each of 5 steps, eta 0, generators manual_seed(7), (8), (9)
ddim_eta      the same with eta 0.7 and use_clipped_model_output
ddim_batch    eta 0.7, one generator manual_seed(7) for the whole batch
ddpm          [12,...]: DDPMScheduler, 12 steps, a list of generators as above
pixels        uint8 [3,8,8,3]: DDIMPipeline(batch_size=3, generator=list, num_inference_steps=5), as PIL
labels        ddim with the class-conditional network ("config_labels"), labels 4, 0, 2
learned, learned_solver   [6,...]: a network with 6 channels ("config_learned", "scheduler_learned"): DDPMScheduler with its variance,
              DPMSolverMultistepScheduler without
noise, step_noise   given noise of the case "given" (ddpm, 12 steps): [3,3,8,8], [12,3,3,8,8]
"""

import json
import os

import numpy as np
import torch
from common import GOLDEN_DIR, fill_model, hash_unit, save
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from diffusers.schedulers import scheduling_ddpm
from diffusers.utils.torch_utils import randn_tensor

SHAPE = (3, 3, 8, 8)


def network(**options):
    options.setdefault("out_channels", 3)
    model = UNet2DModel(sample_size=8, in_channels=3, layers_per_block=1, block_out_channels=(16, 32),
                        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
                        norm_num_groups=8, **options).eval()
    fill_model(model)
    return model


def generators():
    return [torch.Generator().manual_seed(seed) for seed in (7, 8, 9)]


@torch.no_grad()
def loop(model, scheduler, n, generator, noise=None, labels=None, **step):
    x = randn_tensor(SHAPE, generator=generator) if noise is None else noise
    scheduler.set_timesteps(n)
    rows = []
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t, class_labels=labels).sample, t, x, generator=generator, **step).prev_sample
        rows.append(x)
    return torch.stack(rows)


def given(model, ddpm, noise, step_noise):
    calls = iter(range(12))
    original, scheduling_ddpm.randn_tensor = scheduling_ddpm.randn_tensor, lambda *a, **k: step_noise[next(calls)]
    rows = loop(model, ddpm, 12, None, noise=noise)
    scheduling_ddpm.randn_tensor = original
    return rows


def main():
    torch.set_num_threads(1)
    model, labelled = network(), network(num_class_embeds=5)
    ddpm = DDPMScheduler(variance_type="fixed_large")
    ddim = DDIMScheduler.from_config(ddpm.config)
    noise = torch.from_numpy(1.5 * hash_unit("pipeline.noise", SHAPE))
    step_noise = torch.from_numpy(1.5 * hash_unit("pipeline.step_noise", (12,) + SHAPE))
    pipeline = DDIMPipeline(unet=model, scheduler=ddim)
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline(batch_size=3, generator=generators(), num_inference_steps=5).images
    variance = network(out_channels=6)
    learned = DDPMScheduler(variance_type="learned_range")
    solver = DPMSolverMultistepScheduler.from_config(json.loads(learned.to_json_string()))  # as from a folder
    tensors = {
        "learned": loop(variance, learned, 6, generators()),
        "learned_solver": loop(variance, solver, 6, generators()),
        "ddim": loop(model, ddim, 5, generators()),
        "ddim_eta": loop(model, ddim, 5, generators(), eta=0.7, use_clipped_model_output=True),
        "ddim_batch": loop(model, ddim, 5, torch.Generator().manual_seed(7), eta=0.7),
        "ddpm": loop(model, ddpm, 12, generators()),
        "labels": loop(labelled, ddim, 5, generators(), labels=torch.tensor([4, 0, 2])),
        "given": given(model, ddpm, noise, step_noise),
        "noise": noise, "step_noise": step_noise,
        "pixels": np.stack([np.asarray(p) for p in pictures]),
    }
    size = save(os.path.join(GOLDEN_DIR, "pipeline.safetensors"), tensors,
                {"config": model.to_json_string(), "config_labels": labelled.to_json_string(),
                 "config_learned": variance.to_json_string(), "scheduler": ddpm.to_json_string(),
                 "scheduler_learned": learned.to_json_string()})
    print(size, "bytes", tensors["ddim"][-1].abs().max().item(), tensors["ddpm"][-1].abs().max().item())


if __name__ == "__main__":
    main()
