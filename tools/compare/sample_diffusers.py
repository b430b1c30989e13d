"""sample_diffusers.py - samples a pipeline folder with diffusers from given noise, and compares with Langevin's result.

Usage:
    1. python tools/compare/sample_diffusers.py MODEL --noise N.safetensors [--sampler ddim|ddpm|model]
           [--num-inference-steps 50] [--eta 0] [--num-images 4] [--seed 0] [--save-tensors REF.safetensors]
    2. langevin sample MODEL --init-noise N.safetensors --save-tensors OURS.safetensors --output PICTURES/
           [the same --sampler, --num-inference-steps, --eta] --num-images 4 --no-metadata
    3. the first command again with --compare OURS.safetensors [--pictures PICTURES/]
MODEL is what DDPMPipeline.from_pretrained takes: a folder that `langevin train` wrote, or any of diffusers.

The noise file is made from --seed when it does not exist: noise [N,C,H,W] and step_noise [calls,N,C,H,W], one
entry per model call, which the stochastic samplers use instead of drawing.  REF holds sample [N,C,H,W] (before
8 bits, not clipped) and trajectory [calls,N,C,H,W] (x after each call).
Comparing prints the largest differences of trajectory and sample and of the 8-bit pictures (round((x/2+.5) * 255),
clipped, half to even); exit status 0 when no picture differs by more than 1/255 anywhere, 1 otherwise.
"""

import argparse
import glob
import os
import sys

import numpy as np
import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden"))
import common  # noqa: E402


def read(path):
    from safetensors.torch import load_file

    return load_file(path)


def noise_file(path, calls, shape, seed):
    if not os.path.exists(path):
        g = torch.Generator().manual_seed(seed)
        common.save(path, {"noise": torch.randn(shape, generator=g),
                           "step_noise": torch.randn((calls, *shape), generator=g)})
    tensors = read(path)
    if tuple(tensors["noise"].shape) != tuple(shape) or tensors["step_noise"].shape[0] != calls:
        sys.exit(f"sample_diffusers: '{path}' holds noise {tuple(tensors['noise'].shape)} for "
                 f"{tensors['step_noise'].shape[0]} calls, wanted {tuple(shape)} for {calls}; remove it.")
    return tensors["noise"], tensors["step_noise"]


def sample(model, scheduler, noise, step_noise, eta):
    """(sample, trajectory); random draws of the scheduler are replaced by step_noise of that call."""
    import diffusers.schedulers.scheduling_ddim as ddim
    import diffusers.schedulers.scheduling_ddpm as ddpm

    call = 0
    for module in (ddim, ddpm):
        module.randn_tensor = lambda shape, **kwargs: step_noise[call].clone()
    extra = {"eta": eta} if isinstance(scheduler, ddim.DDIMScheduler) else {}
    x, trajectory = noise.clone(), []
    with torch.inference_mode():
        for call, t in enumerate(scheduler.timesteps):
            x = scheduler.step(model(x, t).sample, t, x, **extra).prev_sample
            trajectory.append(x.clone())
    return x, torch.stack(trajectory)


def to_bytes(x):
    """uint8 [N,H,W,C], as diffusers' pipelines do it."""
    x = (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().numpy()
    return (x * 255).round().astype(np.uint8)


def compare(ours, theirs, pictures):
    difference = lambda a, b: (a.float() - b.float()).abs().max().item()
    if "trajectory" in ours:
        steps = [difference(a, b) for a, b in zip(ours["trajectory"], theirs["trajectory"])]
        print(f"trajectory: {len(steps)} calls, largest difference {max(steps):.2e} (first call {steps[0]:.2e})")
    print(f"sample: largest difference {difference(ours['sample'], theirs['sample']):.2e}")
    reference = to_bytes(theirs["sample"])
    levels = np.abs(to_bytes(ours["sample"]).astype(int) - reference.astype(int))
    worst = levels.max()
    print(f"pictures from the sample: largest difference {worst}/255, {np.mean(levels > 0):.2e} of the values differ")
    if pictures:
        from PIL import Image

        files = sorted(glob.glob(os.path.join(pictures, "*.png")))[-len(reference):]
        if len(files) != len(reference):
            sys.exit(f"sample_diffusers: '{pictures}' holds {len(files)} pictures, wanted {len(reference)}.")
        for path, expected in zip(files, reference):
            read_back = np.asarray(Image.open(path)).reshape(expected.shape)
            worst = max(worst, np.abs(read_back.astype(int) - expected.astype(int)).max())
        print(f"pictures in {pictures}: largest difference {worst}/255")
    print("pass" if worst <= 1 else "FAIL")
    return worst <= 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--noise", required=True)
    parser.add_argument("--sampler", default="ddim", choices=["ddim", "ddpm", "model"])
    parser.add_argument("--num-inference-steps", type=int, default=50)
    parser.add_argument("--eta", type=float, default=0.0)
    parser.add_argument("--num-images", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-tensors", metavar="REF.safetensors")
    parser.add_argument("--compare", metavar="OURS.safetensors")
    parser.add_argument("--pictures", metavar="FOLDER")
    args = parser.parse_args()

    import diffusers
    from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler

    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    pipe = DDPMPipeline.from_pretrained(args.model)
    scheduler = pipe.scheduler
    if args.sampler != "model":
        scheduler = {"ddim": DDIMScheduler, "ddpm": DDPMScheduler}[args.sampler].from_config(scheduler.config)
    scheduler.set_timesteps(args.num_inference_steps)
    size = pipe.unet.config.sample_size
    size = (size, size) if isinstance(size, int) else tuple(size)
    shape = (args.num_images, pipe.unet.config.in_channels, *size)
    noise, step_noise = noise_file(args.noise, len(scheduler.timesteps), shape, args.seed)
    x, trajectory = sample(pipe.unet.eval(), scheduler, noise, step_noise, args.eta)
    print(f"{type(scheduler).__name__}, {len(scheduler.timesteps)} calls, {tuple(shape)}: sample in "
          f"[{x.min():.3f}, {x.max():.3f}]")
    theirs = {"sample": x, "trajectory": trajectory}
    if args.save_tensors:
        common.save(args.save_tensors, theirs)
    if args.compare and not compare(read(args.compare), theirs, args.pictures):
        sys.exit(1)


if __name__ == "__main__":
    main()
