"""train_steps.py - golden values of training: optimizer, learning-rate schedules, ten whole steps.

Usage:  python tools/golden/train_steps.py
Writes to tests/golden/, deterministic for given package versions (weights: see common.py):

optimizer_default.safetensors, optimizer_other.safetensors
    clip_grad_norm_, torch.optim.AdamW and diffusers' EMAModel fed with given gradients, ten steps, in the
    order of train_unconditional.py: clip, AdamW, learning-rate schedule, EMA.
    Tensors a [5,7], b [3], c [2,3,3,3], d [1], in that order of registration; row k of
        param.X, exp_avg.X, exp_avg_sq.X, ema.X     [11, shape of X]  is the state after k steps (row 0: start)
        grad.X   [10, shape of X]   row k: the gradient given to step k+1, before clipping
        lr [10] float64: rate used by each step; norm [10]: norm before clipping (float32, PyTorch's);
        ema_decay [10] float64
    metadata "options": JSON with lr, lr_scheduler, lr_warmup_steps, betas, weight_decay, eps,
    max_grad_norm and EMAModel's arguments.
    Row 0 of param.X is 0.5f * r("param.X"), a gradient is factor * r("grad.X.k"), k = 0..9, which is what
    the file holds.

lr_schedules.safetensors
    float64 [120] per schedule: the rate of step k (0-based), base rate 1e-4, 10 steps of warm-up, 100 steps
    of training (the last 20 entries lie beyond the end): constant, constant_with_warmup, linear, cosine,
    cosine_with_restarts (3 cycles), polynomial (power 1, end 1e-7), polynomial_power2. Values are
    get_scheduler's; constant ignores the warm-up.

train_plain.safetensors, train_loader.safetensors, train_hybrid.safetensors
    Ten whole steps of a small UNet2DModel in float32, training mode, batch 4, one thread. Draws, all from
    the default CPU generator:
      1. torch.manual_seed(seed)
      2. UNet2DModel(config): default initialisation, in constructor order (metadata "draw_order")
      3. train_loader only, at the start of each epoch: the two int64 of a shuffled DataLoader
         (20 pictures, batch 4, drop_last, so 2 epochs of 5 steps)
      4. each step: torch.randn(4, C, H, W), then torch.randint(0, 1000, (4,))
      5. train_classes only, each step after that: torch.rand(4) < 0.3 loses the label
    train_classes has num_class_embeds 4: picture k is of class k // 4, 3 stands for no class (labels int64 [10, 4]:
    as the network is told).
    Pictures: data [n, C, H, W] = r("train.data"); train_plain has 12 and takes rows (4 s .. 4 s + 3) mod 12
    in step s. Noisy input: DDPMScheduler() defaults (linear betas), epsilon prediction, mean squared error,
    clip 1.0, AdamW (metadata "options"), then the schedule's step, then EMA. train_hybrid: a network of six output
    channels, its loss the hybrid one (mean squared error of the first three plus T/1000 times the term of the
    variational bound in bits, the mean detached; bound.py).
    Tensors
        init.P        20-entry summary (as of a gradient, common.py) of parameter P after initialisation
        indices       int64 [10, 4]: picture numbers of each step
        timesteps     int64 [10, 4]
        noise_head    [10, 16]: the first 16 entries of each step's noise
        loss, norm    float64 [10]: loss; gradient norm before clipping
        final.P       parameter P after ten steps, whole
        ema.P         20-entry summary of P's moving average after ten steps
    metadata "config", "options", "seed", "draw_order", and what PyTorch's own float32 loses against a
    float64 run with the same draws: "loss_error" (largest relative), "final_error" (largest over the
    tensors of RMS difference / RMS, those with zero gradient excepted), "zero_gradients" (those tensors),
    "final_errors" (JSON {parameter: RMS difference / RMS}, the ten largest).
"""

import json
import os

import numpy as np
import torch

import bound
import common
from common import GOLDEN_DIR


def scheduler_of(optimizer, options, steps):
    from diffusers.optimization import get_scheduler

    return get_scheduler(options["lr_scheduler"], optimizer, num_warmup_steps=options["lr_warmup_steps"],
                         num_training_steps=steps)


def optimizer_case(name, options, factors):
    from diffusers.training_utils import EMAModel

    shapes = {"a": (5, 7), "b": (3,), "c": (2, 3, 3, 3), "d": (1,)}
    parameters = {k: torch.nn.Parameter(torch.from_numpy(np.float32(0.5) * common.hash_unit("param." + k, s)))
                  for k, s in shapes.items()}
    steps = len(factors)
    optimizer = torch.optim.AdamW(parameters.values(), lr=options["lr"], betas=tuple(options["betas"]),
                                  weight_decay=options["weight_decay"], eps=options["eps"])
    schedule = scheduler_of(optimizer, options, steps)
    ema = EMAModel(parameters.values(), **options["ema"])
    rows = {f"{kind}.{k}": [] for kind in ("param", "exp_avg", "exp_avg_sq", "ema", "grad") for k in shapes}
    lr, norm, decay = [], [], []

    def record():
        for (k, p), shadow in zip(parameters.items(), ema.shadow_params):
            state = optimizer.state[p]
            rows["param." + k].append(p.detach().clone())
            rows["exp_avg." + k].append(state["exp_avg"].clone() if state else torch.zeros_like(p))
            rows["exp_avg_sq." + k].append(state["exp_avg_sq"].clone() if state else torch.zeros_like(p))
            rows["ema." + k].append(shadow.clone())

    record()
    for step, factor in enumerate(factors):
        for k, p in parameters.items():
            p.grad = torch.from_numpy(np.float32(factor) * common.hash_unit(f"grad.{k}.{step}", shapes[k]))
            rows["grad." + k].append(p.grad.clone())
        lr.append(optimizer.param_groups[0]["lr"])
        norm.append(torch.nn.utils.clip_grad_norm_(parameters.values(), options["max_grad_norm"]).item())
        optimizer.step()
        schedule.step()
        ema.step(parameters.values())
        decay.append(ema.cur_decay_value)
        record()
    tensors = {k: torch.stack([t.detach() for t in v]) for k, v in rows.items()}
    tensors.update(lr=np.array(lr), norm=np.array(norm, dtype=np.float32), ema_decay=np.array(decay))
    size = common.save(os.path.join(GOLDEN_DIR, f"optimizer_{name}.safetensors"), tensors,
                       {"options": json.dumps(options)})
    print(f"optimizer_{name}: {size} bytes, norms {min(norm):.3g} to {max(norm):.3g}, "
          f"decay {decay[0]:.3g} to {decay[-1]:.3g}")


def lr_schedules():
    from diffusers.optimization import get_scheduler

    cases = {name: {} for name in ("constant", "constant_with_warmup", "linear", "cosine", "polynomial")}
    cases["cosine_with_restarts"] = {"num_cycles": 3}
    cases["polynomial_power2"] = {"power": 2.0}
    tensors = {}
    for name, extra in cases.items():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
        schedule = get_scheduler(name.replace("_power2", ""), optimizer, num_warmup_steps=10,
                                 num_training_steps=100, **extra)
        values = []
        for _ in range(120):
            values.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        tensors[name] = np.array(values)
    size = common.save(os.path.join(GOLDEN_DIR, "lr_schedules.safetensors"), tensors,
                       {"options": json.dumps({"lr": 1e-4, "lr_warmup_steps": 10, "max_train_steps": 100})})
    print(f"lr_schedules: {size} bytes")


def with_draw_order(make_model):
    """(model, [[parameter, draw], ...]): which parameter each random draw of the constructor filled."""
    draws, saved = [], {}

    def spy(name):
        saved[name] = getattr(torch.nn.init, name)

        def call(tensor, *args, **kwargs):
            draws.append((tensor, name))
            return saved[name](tensor, *args, **kwargs)
        setattr(torch.nn.init, name, call)

    # kaiming_uniform_ does not call uniform_, so nothing is counted twice.
    for name in ("kaiming_uniform_", "uniform_", "normal_"):
        spy(name)
    try:
        model = make_model()
    finally:
        for name, function in saved.items():
            setattr(torch.nn.init, name, function)
    names = {id(p): n for n, p in model.named_parameters()}
    return model, [[names[id(tensor)], name] for tensor, name in draws]


DROPOUT = 0.3  # of labels


def ten_steps(config, options, seed, loader, dtype):
    """One run; noise, timesteps and weights are drawn in float32 whatever the dtype is."""
    from diffusers import DDPMScheduler, UNet2DModel
    from diffusers.training_utils import EMAModel

    steps, batch, count = 10, 4, 20 if loader else 12
    torch.manual_seed(seed)
    model, draw_order = with_draw_order(lambda: UNet2DModel(**config))
    model.train()
    size = (config["in_channels"], *config["sample_size"])
    data = torch.from_numpy(common.hash_unit("train.data", (count, *size)))
    record = {"init." + n: common.gradient_summary(n, p) for n, p in model.named_parameters()}
    model.to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options["lr"], betas=tuple(options["betas"]),
                                  weight_decay=options["weight_decay"], eps=options["eps"])
    schedule = scheduler_of(optimizer, options, steps)
    ema = EMAModel(model.parameters(), **options["ema"])
    noise_schedule = DDPMScheduler()
    abar = bound.abar_of(noise_schedule)

    def batches():
        while True:
            if loader:
                numbers = torch.utils.data.TensorDataset(torch.arange(count))
                for (index,) in torch.utils.data.DataLoader(numbers, batch, shuffle=True, drop_last=True):
                    yield index
            else:
                for start in range(0, count, batch):
                    yield torch.arange(start, start + batch)

    indices, times, heads, losses, norms, told = [], [], [], [], [], []
    classes = config.get("num_class_embeds")
    for step, index in zip(range(steps), batches()):
        noise = torch.randn(batch, *size)
        t = torch.randint(0, noise_schedule.config.num_train_timesteps, (batch,))
        labels = torch.where(torch.rand(batch) < DROPOUT, classes - 1, index // 4) if classes else None
        noisy = noise_schedule.add_noise(data[index], noise, t)
        answer = model(noisy.to(dtype), t, class_labels=labels).sample
        loss = torch.nn.functional.mse_loss(answer[:, :size[0]], noise.to(dtype))
        if answer.shape[1] != size[0]:
            loss = loss + torch.stack([
                bound.vb_bits(answer[i], noisy[i].to(dtype), data[index][i].to(dtype), abar, k, k - 1,
                              min(k + 1, 999), "learned", detach=True)
                for i, k in enumerate(t.tolist())]).mean()
        loss.backward()
        if step == 0:
            gradients = {n: p.grad.abs().max().item() for n, p in model.named_parameters()}
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), options["max_grad_norm"]).item())
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        ema.step(model.parameters())
        indices.append(index.clone())
        times.append(t)
        told.append(labels)
        heads.append(noise.reshape(-1)[:16].clone())
        losses.append(loss.item())
    for (n, p), shadow in zip(model.named_parameters(), ema.shadow_params):
        record["final." + n] = p.detach().clone()
        record["ema." + n] = common.gradient_summary(n, shadow)
    record.update(indices=torch.stack(indices), timesteps=torch.stack(times), noise_head=torch.stack(heads),
                  loss=np.array(losses), norm=np.array(norms))
    if classes:
        record["labels"] = torch.stack(told)
    return record, draw_order, gradients


def training_case(name, seed, loader, out_channels=3, **more):
    config = dict(sample_size=[16, 16], in_channels=3, out_channels=out_channels, block_out_channels=[16, 16],
                  down_block_types=["DownBlock2D", "AttnDownBlock2D"],
                  up_block_types=["AttnUpBlock2D", "UpBlock2D"], layers_per_block=1, norm_num_groups=4,
                  attention_head_dim=8, **more)
    options = dict(lr=1e-4, lr_scheduler="constant_with_warmup", lr_warmup_steps=3, betas=[0.95, 0.999],
                   weight_decay=1e-6, eps=1e-8, max_grad_norm=1.0,
                   ema=dict(decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75))
    f32, draw_order, _ = ten_steps(config, options, seed, loader, torch.float32)
    f64, _, gradients = ten_steps(config, options, seed, loader, torch.float64)
    largest = max(gradients.values())
    zero = [n for n, g in gradients.items() if g < 1e-9 * largest]
    rms = lambda x: x.double().pow(2).mean().sqrt().item()
    errors = {n: rms(f32["final." + n].double() - f64["final." + n]) / rms(f64["final." + n])
              for n in gradients if n not in zero}
    loss_error = np.max(np.abs(f32["loss"] / f64["loss"] - 1))
    worst = dict(sorted(errors.items(), key=lambda item: -item[1])[:10])
    size = common.save(os.path.join(GOLDEN_DIR, f"train_{name}.safetensors"), f32, {
        "config": json.dumps({"_class_name": "UNet2DModel", **config}), "options": json.dumps(options),
        "seed": str(seed), "draw_order": draw_order, "loss_error": f"{loss_error:.3g}",
        "final_error": f"{max(errors.values()):.3g}", "zero_gradients": zero,
        "final_errors": {n: float(f"{e:.3g}") for n, e in worst.items()}})
    print(f"train_{name}: {size} bytes, losses {f32['loss'][0]:.6f} to {f32['loss'][-1]:.6f}, norms "
          f"{f32['norm'].min():.3g} to {f32['norm'].max():.3g}, float32 error: losses {loss_error:.1e}, "
          f"parameters {max(errors.values()):.1e}; zero gradients {zero}")
    print("   largest:", ", ".join(f"{n} {e:.1e}" for n, e in list(worst.items())[:6]))


def main():
    import diffusers

    diffusers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    warm = dict(use_ema_warmup=True, inv_gamma=1.0, power=0.75, decay=0.9999)
    factors = [0.05, 0.02, 1.0, 0.05, 0.1, 1e-4, 0.05, 0.3, 0.01, 0.05]  # the third and the eighth are clipped
    optimizer_case("default", dict(lr=1e-4, lr_scheduler="constant_with_warmup", lr_warmup_steps=4,
                                   betas=[0.95, 0.999], weight_decay=1e-6, eps=1e-8, max_grad_norm=1.0,
                                   ema=warm), factors)
    optimizer_case("other", dict(lr=3e-3, lr_scheduler="cosine", lr_warmup_steps=0, betas=[0.9, 0.99],
                                 weight_decay=0.1, eps=1e-6, max_grad_norm=0.5,
                                 ema=dict(decay=0.45, use_ema_warmup=False, update_after_step=2)), factors)
    lr_schedules()
    training_case("plain", 0, loader=False)
    training_case("loader", 1234, loader=True)
    training_case("hybrid", 5, loader=False, out_channels=6)
    training_case("classes", 5, loader=False, num_class_embeds=4)


if __name__ == "__main__":
    main()
