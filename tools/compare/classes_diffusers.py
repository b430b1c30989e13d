"""classes_diffusers.py - a class-conditional run of PyTorch and diffusers as long as one of `langevin train --class-conditional`,
and guided samples of it, to lay beside ours in one feature space.

Usage:
    langevin train --class-conditional --data IDX --output RUN ...
    python tools/compare/classes_diffusers.py --run RUN --data IDX --output DIR [--samples 1000] [--scales 1,3]
    langevin eval DIR/ddim-50-3 --data IDX --split validation --features CLASSIFIER

Network, batch, steps, optimizer and averaging are those of RUN (langevin.json and unet/config.json); draws are PyTorch's.
--data is a folder with train-images-idx3-ubyte and train-labels-idx1-ubyte, .gz or not. DIR/ddim-STEPS-SCALE/CLASS/ gets the pictures
of each class as PNG, so that eval knows the classes. A GPU is used where there is one.
"""

import argparse
import gzip
import json
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


def train(model, schedule, x, labels, null, options, device):
    average = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=options["learning_rate"],
                                  betas=(options["adam_beta1"], options["adam_beta2"]), eps=options["adam_epsilon"],
                                  weight_decay=max(options["adam_weight_decay"], 0))
    batch = options["train_batch_size"] * options["gradient_accumulation_steps"]
    drop, begin = options.get("class_dropout_prob", 0.1), time.time()
    for step in range(options["max_train_steps"]):
        for group in optimizer.param_groups:
            group["lr"] = options["learning_rate"] * min(1, (step + 1) / max(options["lr_warmup_steps"], 1))
        index = torch.randint(0, len(x), (batch,), device=device)
        label = torch.where(torch.rand(batch, device=device) < drop, null, labels[index])
        noise, t = torch.randn_like(x[index]), torch.randint(0, 1000, (batch,), device=device)
        out = model(schedule.add_noise(x[index], noise, t), t, class_labels=label).sample
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
def sample(model, config, count, classes, null, steps, scale, device):
    from diffusers import DDIMScheduler

    schedule, rows = DDIMScheduler.from_config(config), []
    generator = torch.Generator(device).manual_seed(0)
    schedule.set_timesteps(steps)
    for first in range(0, count, 250):
        label = torch.arange(first, min(first + 250, count), device=device) % classes
        x = torch.randn(len(label), 1, model.config.sample_size, model.config.sample_size, device=device,
                        generator=generator)
        for t in schedule.timesteps:
            answer = model(x, t, class_labels=label).sample
            if scale != 1:
                free = model(x, t, class_labels=torch.full_like(label, null)).sample
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
    parser.add_argument("--inference-steps", default="10,20,50")
    args = parser.parse_args()
    from diffusers import DDPMScheduler, UNet2DModel
    from PIL import Image

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with open(os.path.join(args.run, "langevin.json")) as f:
        run = json.load(f)
    with open(os.path.join(args.run, "unet", "config.json")) as f:
        config = json.load(f)
    torch.manual_seed(0)
    model = UNet2DModel.from_config(config).to(device)
    schedule = DDPMScheduler()
    x, labels = (v.to(device) for v in load(args.data, model.config.sample_size))
    null = run["null_label"]
    train(model, schedule, x, labels, torch.tensor(null, device=device), run["options"], device)
    for steps in map(int, args.inference_steps.split(",")):
        for scale in map(float, args.scales.split(",")):
            pictures = sample(model, schedule.config, args.samples, len(run["class_names"]), null, steps, scale, device)
            for i, picture in enumerate(pictures):
                folder = os.path.join(args.output, f"ddim-{steps}-{scale:g}", run["class_names"][i % len(run["class_names"])])
                os.makedirs(folder, exist_ok=True)
                Image.fromarray(picture).save(os.path.join(folder, f"{i:06d}.png"))
            print(f"{args.samples} samples, {steps} steps, scale {scale:g}", flush=True)


if __name__ == "__main__":
    main()
