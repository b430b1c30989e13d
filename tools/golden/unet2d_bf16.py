"""unet2d_bf16.py - how far PyTorch's bf16 autocast is from float64, for networks of unet2d.py.

Usage:  python tools/golden/unet2d_bf16.py
Writes  tests/golden/unet2d_bf16.safetensors

Per network <name> (weights, inputs and target as in unet2d.py) one tensor <name>, float32 [3], each figure against
the float64 run of the same network:
    output      root mean square of the difference / that of the output
    gradients   the same over the gradients of all parameters, laid end to end
    typical     the geometric mean over the parameters of each one's own relative error (those whose gradient is
                mathematically zero left out)
The network runs under torch.autocast("cpu", torch.bfloat16) with float32 weights, the loss in float32, as training
scripts do.  Whether PyTorch has bf16 arithmetic of its own on the machine is in the metadata (it adds in float32
either way).
"""

import os
import warnings

import torch

import common
import unet2d
from common import GOLDEN_DIR

warnings.filterwarnings("ignore")
NAMES = ["ddpm_cifar10", "demo", "attention", "scale_shift", "resnet_samplers"]


def inputs_of(name):
    options, size, timesteps, labels = unet2d.CONFIGURATIONS[name]
    assert labels is None
    batch = len(timesteps)
    return (torch.from_numpy(common.hash_unit("input.sample", (batch, options["in_channels"], *size))),
            torch.tensor(timesteps),
            torch.from_numpy(common.hash_unit("input.target", (batch, options["out_channels"], *size))))


def relative(a, b):
    return ((a - b).square().sum() / b.square().sum()).sqrt().item()


def run(model, output_of, inputs, target):
    model.zero_grad(set_to_none=True)
    output = output_of(*inputs)
    torch.nn.functional.mse_loss(output.to(target.dtype), target).backward()
    return output.detach().double(), common.gradients_of(model)


def figures(name, model, output_of, inputs, target):
    """The three figures of a network whose output is output_of(*inputs), the sample being the first input."""
    with torch.autocast("cpu", torch.bfloat16):
        low, g_low = run(model.to(torch.float32), output_of, inputs, target)
    exact, g = run(model.to(torch.float64), output_of, [inputs[0].double(), *inputs[1:]], target.double())
    largest = max(v.abs().max().item() for v in g.values())
    live = [k for k in g if g[k].abs().max().item() >= 1e-9 * largest]
    flat = lambda d: torch.cat([d[k].flatten() for k in g])
    typical = torch.tensor([relative(g_low[k], g[k]) for k in live]).log().mean().exp().item()
    result = [relative(low, exact), relative(flat(g_low), flat(g)), typical]
    print(f"{name}: output {result[0]:.2e}, gradients {result[1]:.2e}, typical {result[2]:.2e}")
    return torch.tensor(result, dtype=torch.float32)


def make(name):
    from diffusers import UNet2DModel

    options, size, _, _ = unet2d.CONFIGURATIONS[name]
    model = UNet2DModel(sample_size=list(size), **options).eval()
    common.fill_model(model)
    sample, timestep, target = inputs_of(name)
    return figures(name, model, lambda x, t: model(x, t).sample, [sample, timestep], target)


def save(file, tensors):
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    common.save(os.path.join(GOLDEN_DIR, file), tensors,
                {"native_bf16": str(bool(native)), "processor": torch.backends.cpu.get_cpu_capability()})


def main():
    import diffusers

    diffusers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    save("unet2d_bf16.safetensors", {name: make(name) for name in NAMES})


if __name__ == "__main__":
    main()
