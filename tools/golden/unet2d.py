"""unet2d.py - golden outputs and gradients of small UNet2DModel networks, one file per configuration.

Usage:  python tools/golden/unet2d.py [--only NAME[,NAME...]] [--list]
Writes  tests/golden/unet2d_<name>.safetensors, deterministic for given package versions.

Each file holds (weights: hash values, see common.py; layout: PyTorch's, float32 unless said)
    input.sample         [N, C, H, W]
    input.timestep       [N]  int64, or float32 where the configuration wants real noise levels
    input.class_labels   int64 [N], or float32 [N, 4*C0] for class_embed_type "identity"; else absent
    output               of the float32 run
    input.target, grad.<parameter>, grad_max    mean squared error between output and target, float64
                         run; summaries as documented in common.py
and metadata
    config               the model's whole config.json as a string
    output_error         max|o32 - o64| / max|o64|: how far PyTorch's own float32 run is from float64
    gradient_error       the largest of max|g32 - g64| / max(max|g64|, 0.01 G) over the parameters
    zero_gradients       JSON list of parameters whose float64 gradient is below 1e-9 G: mathematically
                         zero, PyTorch's value is rounding
The model is in evaluation mode (dropout off).

The whole of what diffusers 0.42.1 accepts for UNet2DModel, found by trying:
  down  DownBlock2D ResnetDownsampleBlock2D AttnDownBlock2D SkipDownBlock2D AttnSkipDownBlock2D KDownBlock2D
  up    UpBlock2D ResnetUpsampleBlock2D AttnUpBlock2D SkipUpBlock2D AttnSkipUpBlock2D KUpBlock2D
  any of them with the prefix "UNetRes"; every pairing of down and up works unless listed here.
Accepted by the constructor and then failing in diffusers itself:
  DownEncoderBlock2D, AttnDownEncoderBlock2D, UpDecoderBlock2D, AttnUpDecoderBlock2D (wrong call),
  KCrossAttn* (need cross attention), KDownBlock2D before the last level unless all levels up are KUpBlock2D,
  KUpBlock2D unless all levels down are KDownBlock2D (their skips differ), a down-sampling Skip block with
  in_channels != 3 or after a down-sampling block that is not one, an up-sampling Skip block with
  out_channels != 3 or followed by a block that is not one, downsample_padding other than 0 and 1,
  attention_head_dim larger than a block's channels (no head left), layers_per_block 0,
  downsample_type/upsample_type other than conv, resnet and None (None means conv), height or width not
  divisible by 2^(levels - 1).
Refused by the constructor: CrossAttn* and SimpleCrossAttn*, resnet_time_scale_shift other than default and
  scale_shift, norm_num_groups None unless all blocks are Skip blocks (then conv_norm_out has min(C0/4, 32)
  groups and the mid block min(C/4, 32)), AttnSkip* with channels not divisible by 32, act_fn other than
  silu, swish, mish, gelu, relu (in any case of letters), time_embedding_type learned without
  num_train_timesteps.
Accepted and without effect: any mid_block_type string means UNetMidBlock2D; an unknown class_embed_type
  means no class embedding, even with num_class_embeds; downsample_type and upsample_type outside Attn*Block2D;
  "timestep" class embedding sends the labels through time_proj, whatever its kind.
"""

import json
import os
import warnings

import numpy as np
import torch

import common
from common import GOLDEN_DIR

warnings.filterwarnings("ignore")


def config(channels, down, up, **options):
    """A UNet2DModel configuration; down and up are space-separated short block names."""
    base = dict(in_channels=3, out_channels=3, block_out_channels=tuple(channels),
                down_block_types=tuple(name + "Block2D" for name in down.split()),
                up_block_types=tuple(name + "Block2D" for name in up.split()),
                norm_num_groups=8, layers_per_block=1)
    base.update(options)
    return base


# name: (configuration, (H, W), timesteps, class labels or None)
CONFIGURATIONS = {
    # The plainest network: no attention anywhere.
    "plain": (config((16, 32), "Down Down", "Up Up", add_attention=False), (16, 16), [3, 977], None),
    # google/ddpm-cifar10-32 with an eighth of its channels.
    "ddpm_cifar10": (config((16, 32, 32, 32), "Down AttnDown Down Down", "Up Up AttnUp Up",
                            layers_per_block=2, attention_head_dim=None, downsample_padding=0,
                            flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6),
                     (32, 32), [0, 999], None),
    # The shape of the demonstration network: one channel, 32x32.
    "demo": (config((32, 64, 64), "Down Down AttnDown", "AttnUp Up Up", in_channels=1, out_channels=1,
                    norm_num_groups=32), (32, 32), [250, 999], None),
    # Attention at all levels, several heads, two layers; None as sampler types means conv.
    "attention": (config((16, 32), "AttnDown AttnDown", "AttnUp AttnUp", layers_per_block=2,
                         attention_head_dim=8, downsample_type=None, upsample_type=None),
                  (16, 16), [1, 500], None),
    # A head dimension that divides no channel count (inner 15 and 30), non-square input.
    "head_dim": (config((16, 32), "Down AttnDown", "AttnUp Up", attention_head_dim=5),
                 (8, 16), [10, 600], None),
    # Samplers that are residual blocks, of both sorts; scale-shift in them.
    "resnet_samplers": (config((16, 32, 32), "ResnetDownsample AttnDown AttnDown",
                               "AttnUp AttnUp ResnetUpsample", downsample_type="resnet",
                               upsample_type="resnet", resnet_time_scale_shift="scale_shift"),
                        (16, 16), [42, 777], None),
    "resnet_samplers_default": (config((16, 24), "AttnDown ResnetDownsample", "ResnetUpsample AttnUp",
                                       downsample_type="resnet", upsample_type="resnet",
                                       layers_per_block=2), (16, 8), [5, 300], None),
    # NCSN++: Fourier embedding of a noise level, FIR samplers, the picture pyramid, RGB.  The noise levels
    # are near 1: 2 pi W ln t reaches hundreds otherwise and the test would measure ln's last bit.
    "skip": (config((32, 32, 64), "SkipDown AttnSkipDown SkipDown", "SkipUp AttnSkipUp SkipUp",
                    time_embedding_type="fourier", center_input_sample=True, norm_eps=1e-6,
                    mid_block_scale_factor=2.0 ** 0.5), (16, 16), [0.75, 1.75], None),
    # Skip blocks need no norm_num_groups; no mid block; unequal channels reach AttnSkipUp's group count.
    "skip_nogroups": (config((32, 96), "AttnSkipDown AttnSkipDown", "AttnSkipUp AttnSkipUp",
                             norm_num_groups=None, mid_block_type=None), (8, 16), [7, 800], None),
    # Skip blocks with scale-shift after plain ones; the last level's Skip block does not down-sample, so the
    # input may have one channel.
    "skip_mixed": (config((16, 32), "Down SkipDown", "Up SkipUp", in_channels=1,
                          resnet_time_scale_shift="scale_shift", layers_per_block=2),
                   (16, 16), [100, 900], None),
    # Learned table, own embedding width, three layers, mish.
    "learned": (config((16, 24), "Down AttnDown", "Up AttnUp", time_embedding_type="learned",
                       num_train_timesteps=50, time_embedding_dim=40, layers_per_block=3, act_fn="mish"),
                (8, 8), [0, 49], None),
    # Class table, gelu, dropout (off in evaluation).
    "class_table": (config((16, 32), "Down AttnDown", "AttnUp Up", num_class_embeds=10, act_fn="gelu",
                           dropout=0.1), (16, 16), [20, 640], [9, 0]),
    # Classes as timesteps, relu, 4 channels in and 8 out.
    "class_timestep": (config((16, 32), "Down Down", "Up Up", in_channels=4, out_channels=8,
                              class_embed_type="timestep", act_fn="relu"), (16, 16), [20, 640], [3, 7]),
    # A class vector, swish, 5 channels.
    "class_identity": (config((16, 16), "Down Down", "Up Up", in_channels=5, out_channels=5,
                              class_embed_type="identity", act_fn="swish"), (8, 8), [20, 640], "vector"),
    # Fourier embedding without Skip blocks (output divided by t), classes through the same frequencies.
    "fourier_class": (config((16, 16), "Down Down", "Up Up", time_embedding_type="fourier",
                             class_embed_type="timestep"), (8, 8), [0.5, 1.25], [2, 1]),
    # Scale-shift: the mid attention has a norm only when attn_norm_num_groups is given.
    "scale_shift": (config((16, 32), "Down AttnDown", "AttnUp Up", resnet_time_scale_shift="scale_shift"),
                    (16, 16), [30, 450], None),
    "scale_shift_norm": (config((16, 32), "Down AttnDown", "AttnUp Up",
                                resnet_time_scale_shift="scale_shift", attn_norm_num_groups=4,
                                mid_block_scale_factor=1.5), (16, 16), [30, 450], None),
    # No mid block, padding 0, the old prefix, large eps, freq_shift 1 with flip.
    "no_mid": (config((16, 24, 32), "UNetResDown Down Down", "Up Up UNetResUp", mid_block_type=None,
                      downsample_padding=0, norm_eps=1e-3, freq_shift=1), (16, 24), [11, 222], None),
    # An odd number of channels: the time embedding's last entry is zero; one group per three channels.
    "odd_channels": (config((9, 18), "Down AttnDown", "AttnUp Up", norm_num_groups=3,
                            attention_head_dim=4, attn_norm_num_groups=6, mid_block_scale_factor=0.5),
                     (8, 8), [64, 512], None),
    # One level only: nothing is halved, so any size will do.
    "one_level": (config((16,), "AttnDown", "AttnUp", layers_per_block=2, in_channels=2, out_channels=1,
                         norm_num_groups=4), (9, 7), [64, 512], None),
    # The K-diffusion blocks (only together, or KDown alone as the last level): AdaGroupNorm, no attention.
    "k_blocks": (config((32, 64), "KDown KDown", "KUp KUp", layers_per_block=2, norm_num_groups=32),
                 (8, 8), [64, 512], None),
}


def run(model, dtype, sample, timestep, labels, target):
    """The output of one pass in the given precision; the gradients stay in model."""
    model.to(dtype)
    model.zero_grad(set_to_none=True)
    cast = lambda x: x.to(dtype) if x is not None and x.is_floating_point() else x
    # diffusers forgets to cast the float32 embedding of "timestep" class labels to the model's type.
    hook = model.time_proj.register_forward_hook(lambda module, args, result: result.to(dtype))
    output = model(cast(sample), cast(timestep), cast(labels)).sample
    torch.nn.functional.mse_loss(output, cast(target)).backward()
    hook.remove()
    return output.detach()


def make(name):
    import diffusers
    from diffusers import UNet2DModel

    diffusers.logging.set_verbosity_error()
    options, size, timesteps, labels = CONFIGURATIONS[name]
    model = UNet2DModel(sample_size=list(size), **options).eval()
    common.fill_model(model)
    batch = len(timesteps)
    tensors = {
        "input.sample": torch.from_numpy(common.hash_unit("input.sample", (batch, options["in_channels"], *size))),
        "input.timestep": torch.tensor(timesteps),
        "input.target": torch.from_numpy(common.hash_unit("input.target", (batch, options["out_channels"], *size))),
    }
    if labels == "vector":
        shape = (batch, model.time_embedding.linear_2.out_features)
        tensors["input.class_labels"] = torch.from_numpy(common.hash_unit("input.class_labels", shape))
    elif labels is not None:
        tensors["input.class_labels"] = torch.tensor(labels)
    inputs = [tensors["input.sample"], tensors["input.timestep"], tensors.get("input.class_labels"),
              tensors["input.target"]]

    o32 = run(model, torch.float32, *inputs)
    g32 = common.gradients_of(model)
    o64 = run(model, torch.float64, *inputs)
    g64 = common.gradients_of(model)
    tensors["output"] = o32
    tensors.update(common.model_gradient_summaries(model))

    output_error, gradient_error, largest = common.float32_errors(o32, g32, o64, g64)
    zero = [k for k in g64 if g64[k].abs().max().item() < 1e-9 * largest]
    full_config = {"_class_name": "UNet2DModel"}
    full_config.update({k: v for k, v in model.config.items() if not k.startswith("_")})
    path = os.path.join(GOLDEN_DIR, f"unet2d_{name}.safetensors")
    size_written = common.save(path, tensors, {
        "config": json.dumps(full_config), "output_error": f"{output_error:.3g}",
        "gradient_error": f"{gradient_error:.3g}", "zero_gradients": zero})
    count = sum(p.numel() for p in model.parameters())
    print(f"{name}: {count} parameters, {size_written} bytes, output {tuple(o32.shape)} "
          f"max {o64.abs().max():.3g}, float32 error: output {output_error:.1e}, gradients "
          f"{gradient_error:.1e}; G {largest:.3g}, zero gradients {len(zero)}")
    return size_written


if __name__ == "__main__":
    common.make_all(__doc__, CONFIGURATIONS, make)
