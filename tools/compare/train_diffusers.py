"""train_diffusers.py - the usual PyTorch/diffusers training script, small, to lay beside `langevin train --rng torch`.

Usage:
    python tools/compare/train_diffusers.py --data IDX --model CONFIG.json --output DIR [options]
    langevin train --rng torch --data IDX --model CONFIG.json --output DIR2 [the same options]
    python tools/compare/compare_losses.py DIR2/log.jsonl DIR/log.jsonl

Options carry langevin's names and defaults (see --help).  --data is an IDX images file, .gz or not, or a
folder holding train-images-idx3-ubyte[.gz]; pictures are taken in file order, padded with zeros (centred) to
the resolution, x / 127.5 - 1.  --model is a config.json (default initialisation) or a diffusers folder with
weights.  DIR gets log.jsonl, one line per step (step, loss, lr, grad_norm, ema_decay, seconds), and at the end the
trained model as a DDPMPipeline (the EMA weights when EMA is on; the last weights in DIR/raw).

Every random number comes from the default CPU generator, in this order:
    torch.manual_seed(seed); UNet2DModel(config); per epoch a DataLoader(shuffle=True, drop_last=True) iterator;
    per step torch.randn(N, C, H, W), then torch.randint(0, T, (N,))
and a step is add_noise, loss, backward, clip_grad_norm_, AdamW, learning-rate schedule, EMA.
"""

import argparse
import gzip
import json
import math
import os
import struct
import sys
import time

import numpy as np
import torch


def read_idx(path):
    """uint8 [count, rows, columns] of an IDX images file or of the training file in a folder."""
    if os.path.isdir(path):
        names = ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"]
        found = [os.path.join(path, n) for n in names if os.path.exists(os.path.join(path, n))]
        if not found:
            sys.exit(f"train_diffusers: '{path}' holds no train-images-idx3-ubyte[.gz].")
        path = found[0]
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as f:
        magic, count, rows, columns = struct.unpack(">IIII", f.read(16))
        if magic != 0x803:
            sys.exit(f"train_diffusers: '{path}' is not an IDX file of pictures (magic {magic:#x}).")
        return np.frombuffer(f.read(count * rows * columns), np.uint8).reshape(count, rows, columns)


def load_pictures(path, resolution, channels):
    """uint8 [count, channels, resolution, resolution], zero-padded around the middle."""
    pictures = read_idx(path)
    rows, columns = pictures.shape[1:]
    if rows > resolution or columns > resolution:
        sys.exit(f"train_diffusers: the pictures are {columns}x{rows}; give --resolution {max(rows, columns)} or more.")
    top, left = (resolution - rows) // 2, (resolution - columns) // 2
    padded = np.zeros((len(pictures), 1, resolution, resolution), np.uint8)
    padded[:, 0, top:top + rows, left:left + columns] = pictures
    return torch.from_numpy(padded).expand(-1, channels, -1, -1)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", "--train-data-dir", required=True)
    add("--output", "--output-dir", "-o", required=True)
    add("--model", required=True, help="config.json or diffusers folder")
    add("--resolution", type=int, help="default: the model's sample_size")
    add("--max-train-steps", type=int, default=200)
    add("--train-batch-size", type=int, default=32)
    add("--learning-rate", type=float, default=1e-4)
    add("--lr-scheduler", default="constant_with_warmup")
    add("--lr-warmup-steps", type=int, default=500)
    add("--adam-beta1", type=float, default=0.95)
    add("--adam-beta2", type=float, default=0.999)
    add("--adam-weight-decay", type=float, default=1e-6)
    add("--adam-epsilon", type=float, default=1e-8)
    add("--max-grad-norm", type=float, default=1.0)
    add("--ema-decay", type=float, default=0.9999, help="0: off")
    add("--prediction-type", default="epsilon", choices=["epsilon", "sample", "v_prediction"])
    add("--beta-schedule", default="linear")
    add("--num-train-timesteps", type=int, default=1000)
    add("--snr-gamma", type=float, default=0.0, help="min-SNR weighting; 0: off")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=0, help="0: PyTorch's choice")
    add("--save-initial", metavar="DIR", help="save the model before the first step")
    return parser.parse_args()


def make_model(path):
    from diffusers import UNet2DModel

    if os.path.isfile(path):
        with open(path) as f:
            return UNet2DModel.from_config(json.load(f))
    return UNet2DModel.from_pretrained(path, subfolder="unet" if os.path.isdir(os.path.join(path, "unet")) else None)


def step_loss(model, schedule, x0, noise, t, options):
    """Mean squared error of the prediction, weighted by min-SNR (arXiv 2303.09556) if asked."""
    noisy = schedule.add_noise(x0, noise, t)
    kind = options.prediction_type
    target = {"epsilon": lambda: noise, "sample": lambda: x0,
              "v_prediction": lambda: schedule.get_velocity(x0, noise, t)}[kind]()
    error = (model(noisy, t).sample - target) ** 2
    if not options.snr_gamma:
        return error.mean()
    snr = schedule.alphas_cumprod[t] / (1 - schedule.alphas_cumprod[t])
    clipped = snr.clamp(max=options.snr_gamma)
    weight = {"epsilon": clipped / snr, "sample": clipped, "v_prediction": clipped / (snr + 1)}[kind]
    return (error.mean(dim=(1, 2, 3)) * weight).mean()


def main():
    options = parse()
    import diffusers
    from diffusers import DDPMPipeline, DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    diffusers.logging.set_verbosity_error()
    if options.threads:
        torch.set_num_threads(options.threads)

    torch.manual_seed(options.seed)
    model = make_model(options.model).train()
    if options.save_initial:
        model.save_pretrained(options.save_initial)
    size = options.resolution or model.config.sample_size or 32
    size = max(size) if not isinstance(size, int) else size
    pictures = load_pictures(options.data, size, model.config.in_channels)
    schedule = DDPMScheduler(num_train_timesteps=options.num_train_timesteps, beta_schedule=options.beta_schedule,
                             prediction_type=options.prediction_type)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate,
                                  betas=(options.adam_beta1, options.adam_beta2),
                                  weight_decay=options.adam_weight_decay, eps=options.adam_epsilon)
    lr_schedule = get_scheduler(options.lr_scheduler, optimizer, num_warmup_steps=options.lr_warmup_steps,
                                num_training_steps=options.max_train_steps)
    ema = None
    if options.ema_decay > 0:
        ema = EMAModel(model.parameters(), decay=options.ema_decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(pictures),
                                         batch_size=options.train_batch_size, shuffle=True, drop_last=True)
    if len(loader) == 0:
        sys.exit(f"train_diffusers: {len(pictures)} pictures do not fill one batch of {options.train_batch_size}.")

    os.makedirs(options.output, exist_ok=True)
    step = 0
    with open(os.path.join(options.output, "log.jsonl"), "w") as log:
        for _ in range(math.ceil(options.max_train_steps / len(loader))):
            for (batch,) in loader:
                if step == options.max_train_steps:
                    break
                start = time.perf_counter()
                x0 = batch.float() / 127.5 - 1.0
                noise = torch.randn(x0.shape)
                t = torch.randint(0, options.num_train_timesteps, (x0.shape[0],))
                loss = step_loss(model, schedule, x0, noise, t, options)
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options.max_grad_norm)
                rate = optimizer.param_groups[0]["lr"]
                optimizer.step()
                lr_schedule.step()
                optimizer.zero_grad()
                if ema:
                    ema.step(model.parameters())
                step += 1
                line = {"step": step, "loss": loss.item(), "lr": rate, "grad_norm": norm.item(),
                        "ema_decay": ema.cur_decay_value if ema else 0.0, "seconds": time.perf_counter() - start}
                log.write(json.dumps(line) + "\n")
                log.flush()
                if step % 20 == 0 or step == 1:
                    print(f"step {step}  loss {line['loss']:.6f}  {line['seconds']:.3f} s", flush=True)

    if ema:
        model.save_pretrained(os.path.join(options.output, "raw"))
        ema.copy_to(model.parameters())
    DDPMPipeline(unet=model, scheduler=schedule).save_pretrained(options.output)
    print(f"saved {options.output}")


if __name__ == "__main__":
    main()
