"""dump_reference.py - runs a UNet2DModel or DiTTransformer2DModel of diffusers once and writes what `langevin verify` compares with.

Usage:
    python tools/golden/dump_reference.py MODEL OUT.safetensors [--batch-size N] [--seed N] [--size H W]
                                          [--modules] [--gradients] [--save-model DIR]
MODEL is a folder holding config.json and weights, a pipeline folder with unet/ or transformer/, or a config.json alone:
then the model is initialised from --seed, and --save-model keeps it for the other side. Then
    langevin verify MODEL --reference OUT.safetensors

The file holds, in PyTorch's layout and float32 unless said:
    input.sample        [N, C, H, W]  standard normal
    input.timestep      [N]  int64, all different where the range allows; float32 noise levels when the
                        time embedding is Fourier
    input.class_labels  int64 [N], or float32 [N, D] for class_embed_type "identity"; only if the model takes them
    output              [N, C', H, W]
    --modules    module.<path> for every module that ran once and whose output is one tensor of its own, as
                 diffusers gives it: (N,C,H,W); token tensors (N,L,C); attention's group_norm (N,C,L).
                 Left out and listed in the metadata "left_out": modules that ran several times (shared
                 activations, the weightless samplers of a residual block), that return tuples, or that
                 return their input (dropout outside training).
    --gradients  input.target [N, C', H, W], and grad.<parameter>: gradients of the mean squared error
                 between output and target, whole tensors
The model is in evaluation mode.  The same MODEL, options and package versions give the same bytes.
"""

import argparse
import json
import os
import sys

import torch

import common


def load(path, seed):
    from diffusers import DiTTransformer2DModel, UNet2DModel

    file, folder = path, None
    if os.path.isdir(path):
        places = [os.path.join(path, name) for name in ("", "unet", "transformer")]
        folder = next((p for p in places if os.path.isfile(os.path.join(p, "config.json"))), None)
        if folder is None:
            sys.exit(f"dump_reference: '{path}' holds no config.json; give a model folder, a pipeline folder "
                     "with unet/ or transformer/ or a config.json.")
        file = os.path.join(folder, "config.json")
    with open(file) as f:
        config = json.load(f)
    kind = DiTTransformer2DModel if config.get("_class_name") == "DiTTransformer2DModel" else UNet2DModel
    if folder:
        return kind.from_pretrained(folder, torch_dtype=torch.float32)
    torch.manual_seed(seed)
    model = kind.from_config(config)
    if kind is DiTTransformer2DModel:  # fresh modulations would do, but nobody fresh has them all alike
        for name, parameter in model.named_parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def inputs(model, batch, size, seed):
    config = model.config
    g = torch.Generator().manual_seed(seed)
    out = {"input.sample": torch.randn(batch, config.in_channels, *size, generator=g)}
    if not hasattr(config, "time_embedding_type"):
        out["input.timestep"] = torch.randperm(1000, generator=g)[:batch].clone()
        out["input.class_labels"] = torch.randint(config.num_embeds_ada_norm + 1, (batch,), generator=g)
        out["input.target"] = torch.randn(batch, model.out_channels, *size, generator=g)
        return out
    if config.time_embedding_type == "fourier":
        out["input.timestep"] = torch.exp(torch.randn(batch, generator=g))
    else:
        limit = config.num_train_timesteps or 1000
        draw = torch.randperm(limit, generator=g) if batch <= limit else torch.randint(limit, (batch,), generator=g)
        out["input.timestep"] = draw[:batch].clone()
    if model.class_embedding is not None:
        if config.class_embed_type == "identity":
            width = model.time_embedding.linear_2.out_features
            out["input.class_labels"] = torch.randn(batch, width, generator=g)
        elif config.class_embed_type == "timestep":
            # Fourier embeddings take the logarithm, so no zero; a learned table has num_train_timesteps rows.
            limit = min(config.num_train_timesteps or 1000, 1000)
            out["input.class_labels"] = torch.randint(1, limit, (batch,), generator=g)
        else:
            out["input.class_labels"] = torch.randint(config.num_class_embeds, (batch,), generator=g)
    out["input.target"] = torch.randn(batch, config.out_channels, *size, generator=g)
    return out


def watch_modules(model):
    """Hooks every module; returns (tensors by path, reasons by path of those left out), filled by a forward."""
    values, left_out = {}, {}

    def hook(path):
        def call(module, args, kwargs, result):
            taken = [x for x in list(args) + list(kwargs.values()) if isinstance(x, torch.Tensor)]
            if path in left_out:
                return
            if path in values:
                left_out[path] = "ran several times"
                del values[path]
            elif not isinstance(result, torch.Tensor):
                left_out[path] = "returns " + type(result).__name__
            elif any(x is result for x in taken):
                left_out[path] = "returns its input"
            else:
                values[path] = result.detach().clone()  # later code may work in place
        return call

    for path, module in model.named_modules():
        if path:
            module.register_forward_hook(hook(path), with_kwargs=True)
    return values, left_out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder, pipeline folder or config.json")
    parser.add_argument("out", help="safetensors file to write")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="default: the model's sample_size, else 32")
    parser.add_argument("--modules", action="store_true", help="add the output of every module")
    parser.add_argument("--gradients", action="store_true", help="add a target and all parameter gradients")
    parser.add_argument("--save-model", metavar="DIR", help="also save the model as a diffusers folder")
    args = parser.parse_args()

    import diffusers

    diffusers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    model = load(args.model, args.seed).eval()
    size = args.size or model.config.sample_size or 32
    size = [size, size] if isinstance(size, int) else list(size)
    if args.save_model:
        model.save_pretrained(args.save_model)

    tensors = inputs(model, args.batch_size, size, args.seed)
    target = tensors.pop("input.target")
    values, left_out = watch_modules(model) if args.modules else ({}, {})
    with torch.set_grad_enabled(args.gradients):
        output = model(tensors["input.sample"], timestep=tensors["input.timestep"],
                       class_labels=tensors.get("input.class_labels")).sample
    tensors["output"] = output.detach().clone()
    tensors.update({"module." + path: value.contiguous() for path, value in values.items()})
    if args.gradients:
        torch.nn.functional.mse_loss(output, target).backward()
        tensors["input.target"] = target
        tensors.update({"grad." + name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    written = common.save(args.out, tensors, {
        "model": json.dumps({k: v for k, v in model.config.items() if not k.startswith("_")}),
        "left_out": left_out})
    print(f"{args.out}: {len(tensors)} tensors, {written} bytes; {len(values)} modules, {len(left_out)} left out; "
          f"input {tuple(tensors['input.sample'].shape)}, output {tuple(output.shape)}")


if __name__ == "__main__":
    main()
