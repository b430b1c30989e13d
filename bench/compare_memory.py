#!/usr/bin/env python3
"""Peak memory of a training step minus persistent state: Langevin against PyTorch eager.

    python bench/compare_memory.py --config ddpm_cifar10 --batch-size 32

Each side is a process of its own that trains a few steps; its peak is the kernel's own figure (VmHWM). Persistent state is
weights, gradients, the two moments and the averaged weights, 5 * 4 bytes a parameter, and is taken off both sides. From
PyTorch's side everything that was resident before the first step is taken off too (the interpreter and the libraries);
from Langevin's side nothing else is. Needs torch and diffusers, but not for the build or the tests."""
import argparse
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
MIB = 1 << 20


def status(field):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith(field + ":"))


def torch_worker(config, batch, bf16, steps):
    """Prints the peak of training steps beyond what was resident before the first, all state already made."""
    import torch
    from diffusers import DDPMScheduler, UNet2DModel
    from diffusers.training_utils import EMAModel

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with open(config) as f:
        model = UNet2DModel.from_config(json.load(f))
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    for p in parameters:
        p.grad = torch.zeros_like(p)
    optimizer.step()  # makes the moments
    ema = EMAModel(parameters, decay=0.9999, foreach=True)
    schedule = DDPMScheduler()
    shape = (batch, model.config.in_channels, model.config.sample_size, model.config.sample_size)
    x0 = torch.rand(shape)
    before = status("VmRSS")
    for _ in range(steps):
        noise, t = torch.randn(shape), torch.randint(0, 1000, (batch,))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = model(schedule.add_noise(x0, noise, t), t).sample
        loss = torch.nn.functional.mse_loss(out.float(), noise)
        del out
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)  # keeps the gradients, which are counted as state
        ema.step(parameters)
    print(json.dumps({"activations": status("VmHWM") - before,
                      "state": 20 * sum(p.numel() for p in parameters), "total": status("VmHWM")}))


def run(command):
    """The last line of the child's output as JSON, and its peak resident memory."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    text = child.stdout.read()
    _, code, usage = os.wait4(child.pid, 0)
    child.returncode = code
    if code:
        sys.exit(f"compare_memory: '{' '.join(command)}' ended with status {code}")
    return text.strip().splitlines()[-1], usage.ru_maxrss * 1024


def langevin_side(args, config):
    options = ["--mixed-precision", args.mixed_precision] if args.mixed_precision != "no" else []
    plan = json.loads(subprocess.check_output(
        [args.langevin, "plan", config, "--mode", "train", "--batch-size", str(args.batch_size), "--json", *options]))
    _, peak = run([args.langevin, "bench", config, "--mode", "train", "--batch-size", str(args.batch_size),
                   "--rounds", "1", "--json", *options])
    state = plan["parameters"] * 20
    return {"activations": peak - state, "state": state, "total": peak, "planned": plan["total_bytes"] - state}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--langevin", default=os.path.join(os.path.dirname(HERE), "build", "langevin"))
    parser.add_argument("--config", default="ddpm_cifar10", help="a name in bench/configs, or a file")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--mixed-precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--steps", type=int, default=2, help="training steps of PyTorch")
    parser.add_argument("--no-torch", action="store_true", help="Langevin only")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    config = args.config if args.config.endswith(".json") else os.path.join(HERE, "configs", args.config + ".json")
    if args.worker:
        torch_worker(config, args.batch_size, args.mixed_precision == "bf16", args.steps)
        return
    ours = langevin_side(args, config)
    print(f"{os.path.basename(config)}, training, batch {args.batch_size}, mixed precision {args.mixed_precision}")
    print(f"  Langevin  {ours['activations'] / MIB:8.0f} MiB beyond the state (planned {ours['planned'] / MIB:.0f}), "
          f"total {ours['total'] / MIB:.0f} MiB", flush=True)
    if args.no_torch:
        return
    line, _ = run([sys.executable, os.path.abspath(__file__), "--worker", "--config", config, "--batch-size",
                   str(args.batch_size), "--steps", str(args.steps), "--mixed-precision",
                   args.mixed_precision])
    theirs = json.loads(line)
    print(f"  PyTorch   {theirs['activations'] / MIB:8.0f} MiB beyond the state, total {theirs['total'] / MIB:.0f} MiB")
    print(f"  ratio     {ours['activations'] / theirs['activations']:.3f}")


if __name__ == "__main__":
    main()
