"""classes_diffusers.py - a class-conditional run of PyTorch and diffusers as long as one of `langevin train --class-conditional`,
and guided samples of it, to lay beside ours in one feature space.

Usage:
    langevin train --class-conditional --data IDX --output RUN ...
    python tools/compare/classes_diffusers.py --run RUN --data IDX --output DIR [--samples 1000] [--scales 1,3]
    langevin eval DIR/ddim-50-3 --data IDX --split validation --features CLASSIFIER

Network (U-Net or DiT), noise schedule, batch, steps, learning rate, optimizer and averaging are those of RUN (langevin.json and the
config.json of network and scheduler); draws are PyTorch's. --data is a folder with train-images-idx3-ubyte and
train-labels-idx1-ubyte, .gz or not. DIR/SAMPLER-STEPS-SCALE/CLASS/ gets the pictures of each class as PNG, so that eval knows the classes.
A GPU is used where there is one.
"""

import argparse
import gzip
import json
import math
import os
import struct
import time

import numpy as np
import torch


def read_idx(folder, name):
    path = os.path.join(folder, name)
    with (open(path, "rb") if os.path.exists(path) else gzip.open(path + ".gz")) as f:
        count = struct.unpack(">I", f.read(8)[4:])[0]
        shape = struct.unpack(">II", f.read(8)) if "images" in name else ()
        return np.frombuffer(f.read(), np.uint8).reshape(count, *shape)


def load(folder, side):
    pictures = read_idx(folder, "train-images-idx3-ubyte")
    pad = (side - pictures.shape[1]) // 2
    pictures = np.pad(pictures, ((0, 0), (pad, side - pad - pictures.shape[1]), (pad, side - pad - pictures.shape[2])))
    x = torch.from_numpy(pictures).float() / 127.5 - 1
    return x[:, None], torch.from_numpy(read_idx(folder, "train-labels-idx1-ubyte").astype(np.int64))


def network(run, device):
    """The network of the run, untrained; DiT's with adaLN-Zero (arXiv 2212.09748, section 3.2), which diffusers leaves out."""
    from diffusers import DiTTransformer2DModel, UNet2DModel

    dit = os.path.exists(os.path.join(run, "transformer"))
    with open(os.path.join(run, "transformer" if dit else "unet", "config.json")) as f:
        config = json.load(f)
    if not dit:
        return UNet2DModel.from_config(config).to(device)
    model = DiTTransformer2DModel.from_config(config).to(device)
    for linear in [b.norm1.linear for b in model.transformer_blocks] + [model.proj_out_1, model.proj_out_2]:
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    return model.eval()  # in training mode it drops labels of its own


def learning_rate(options, step):
    """What langevin train takes for this step: a linear warmup, then constant or half a cosine."""
    warmup, steps = options["lr_warmup_steps"], options["max_train_steps"]
    if step < warmup:
        return options["learning_rate"] * (step + 1) / warmup
    if options["lr_scheduler"] == "cosine":
        return options["learning_rate"] * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    if options["lr_scheduler"] not in ("constant", "constant_with_warmup"):
        raise SystemExit(f"--lr-scheduler {options['lr_scheduler']} is not known here")
    return options["learning_rate"]


def train(model, schedule, x, labels, null, options, device):
    average = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=options["learning_rate"],
                                  betas=(options["adam_beta1"], options["adam_beta2"]), eps=options["adam_epsilon"],
                                  weight_decay=max(options["adam_weight_decay"], 0))
    batch = options["train_batch_size"] * options["gradient_accumulation_steps"]
    drop, begin = options.get("class_dropout_prob", 0.1), time.time()
    for step in range(options["max_train_steps"]):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(options, step)
        index = torch.randint(0, len(x), (batch,), device=device)
        label = torch.where(torch.rand(batch, device=device) < drop, null, labels[index])
        noise, t = torch.randn_like(x[index]), torch.randint(0, 1000, (batch,), device=device)
        out = model(schedule.add_noise(x[index], noise, t), timestep=t, class_labels=label).sample
        loss = torch.nn.functional.mse_loss(out, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        decay = min(options["ema_decay"], 1 - (1 + step) ** -0.75)
        with torch.no_grad():
            torch._foreach_lerp_(average, list(model.parameters()), 1 - decay)
        if step % 500 == 0:
            print(f"step {step}, loss {loss.item():.4f}, {time.time() - begin:.0f} s", flush=True)
    with torch.no_grad():
        for p, a in zip(model.parameters(), average):
            p.copy_(a)


@torch.no_grad()
def sample(model, schedule, count, classes, null, steps, scale, device):
    rows, generator = [], torch.Generator(device).manual_seed(0)
    for first in range(0, count, 250):
        schedule.set_timesteps(steps)
        label = torch.arange(first, min(first + 250, count), device=device) % classes
        x = torch.randn(len(label), 1, model.config.sample_size, model.config.sample_size, device=device,
                        generator=generator)
        for t in schedule.timesteps:
            rows_t = t.to(device).expand(len(label))
            answer = model(x, timestep=rows_t, class_labels=label).sample
            if scale != 1:
                free = model(x, timestep=rows_t, class_labels=torch.full_like(label, null)).sample
                answer = free + scale * (answer - free)
            x = schedule.step(answer, t, x).prev_sample
        rows.append(((x / 2 + 0.5).clamp(0, 1) * 255).round().byte().cpu())
    return torch.cat(rows)[:, 0].numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("run", "data", "output"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--scales", default="1,3")
    parser.add_argument("--samplers", default="ddim:10,ddim:20,ddim:50,dpmpp_2m:10,dpmpp_2m:20")
    args = parser.parse_args()
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
    from PIL import Image

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with open(os.path.join(args.run, "langevin.json")) as f:
        run = json.load(f)
    torch.manual_seed(0)
    model, schedule = network(args.run, device), DDPMScheduler.from_pretrained(args.run, subfolder="scheduler")
    x, labels = (v.to(device) for v in load(args.data, model.config.sample_size))
    null, names = run["null_label"], run["class_names"]
    train(model, schedule, x, labels, torch.tensor(null, device=device), run["options"], device)
    for sampler, steps in (entry.split(":") for entry in args.samplers.split(",")):
        kind = {"ddim": DDIMScheduler, "dpmpp_2m": DPMSolverMultistepScheduler}[sampler]
        for scale in map(float, args.scales.split(",")):
            pictures = sample(model, kind.from_config(schedule.config), args.samples, len(names), null, int(steps), scale, device)
            for i, picture in enumerate(pictures):
                folder = os.path.join(args.output, f"{sampler}-{steps}-{scale:g}", names[i % len(names)])
                os.makedirs(folder, exist_ok=True)
                Image.fromarray(picture).save(os.path.join(folder, f"{i:06d}.png"))
            print(f"{args.samples} samples, {sampler}, {steps} steps, scale {scale:g}", flush=True)


if __name__ == "__main__":
    main()
