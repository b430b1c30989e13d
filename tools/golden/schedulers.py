"""schedulers.py - golden values of noise schedules, timesteps and the trajectories of DDPM and DDIM.

Usage:  python tools/golden/schedulers.py
Writes tests/golden/schedulers.safetensors, all numbers from diffusers' own scheduler classes:

betas, alphas_cumprod [K,1000]   row k: metadata "schedules"[k], a scheduler configuration
timesteps.<spacing>.<T> int64 [T]   row n-1: FNV-1a-64 over the int64 (little-endian) of the list for n steps
    (linspace and leading: DDPMScheduler; offset 0), as a signed number
x, q [18], z [40,18]   first image, shift of the model, noise of each step, all as [1,2,3,3]
trajectory [...]       x after each step of every case, end to end
weights [3,2,50]       loss weight at t = 20 i for epsilon, v_prediction, sample; without and with gamma 5

metadata "cases": {"cases": [{class, config, n | timesteps, eta, clipped, mode, steps, at}]}. at: row of
trajectory. The model is out = 0.9 x t/(t+1) + 0.2 q.  mode "both": diffusers' numbers, wanted with and
without compatibility; "compat": diffusers' numbers where it has one of its four defects; "fixed": the
same configuration with the defect taken out of diffusers from outside:
    DDIM under linspace and own lists: the stride that step() computes replaced by t - next t
    trailing's extra timestep cut off; steps_offset lowered to fit; fixed_large_log run as fixed_large
"""

import itertools
import json
import os

import numpy as np
import torch
from common import GOLDEN_DIR, hash_unit, save
from diffusers import DDIMInverseScheduler, DDIMScheduler, DDPMScheduler
from diffusers.schedulers import scheduling_ddpm
from diffusers.training_utils import compute_snr

CLASSES = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler, "ddim_inverse": DDIMInverseScheduler}
SHAPE = (1, 2, 3, 3)
X = torch.from_numpy(2.2 * hash_unit("sampler.x", SHAPE))
Q = torch.from_numpy(hash_unit("sampler.q", SHAPE))
Z = torch.from_numpy(1.7 * hash_unit("sampler.z", (40,) + SHAPE))
PREDICTIONS = ("epsilon", "sample", "v_prediction")
CLIPS = ({}, {"clip_sample": False}, {"clip_sample_range": 0.5},
         {"thresholding": True, "dynamic_thresholding_ratio": 0.83, "sample_max_value": 1.6})


class Stride:
    """Stands for num_inference_steps so that T // it is a given number."""

    def __init__(self, stride):
        self.stride = stride

    def __rfloordiv__(self, other):
        return self.stride


def model(x, t):
    return 0.9 * x * (float(t) / (float(t) + 1)) + 0.2 * Q if t != -1 else 0.2 * Q


def run(case, fixed):
    cls, config = case["class"], dict(case["config"])
    if fixed and config.get("variance_type") == "fixed_large_log":
        config["variance_type"] = "fixed_large"
    n, T = case.get("n"), config.get("num_train_timesteps", 1000)
    if fixed and "steps_offset" in config and n:
        config["steps_offset"] = min(config["steps_offset"], T - 1 - (n - 1) * (T // n))
    scheduler = CLASSES[cls](**config)
    if "timesteps" in case and cls == "ddpm":
        scheduler.set_timesteps(timesteps=case["timesteps"])
    else:
        scheduler.set_timesteps(n or len(case["timesteps"]))
    if "timesteps" in case and cls != "ddpm":
        scheduler.timesteps = torch.tensor(case["timesteps"])
    if fixed and config.get("timestep_spacing") == "trailing":
        scheduler.timesteps = scheduler.timesteps[:n] if cls != "ddim_inverse" else scheduler.timesteps[-n:]
    steps = scheduler.timesteps.tolist()
    next_is_stride = fixed and ("timesteps" in case or config.get("timestep_spacing") == "linspace")
    x, rows = X.clone(), []
    for i, t in enumerate(steps):
        extra = {}
        if cls == "ddim":
            extra = {"eta": case.get("eta", 0.0), "use_clipped_model_output": case.get("clipped", False)}
            if extra["eta"] > 0:
                extra["variance_noise"] = Z[i]
        if cls != "ddpm" and next_is_stride:
            if cls == "ddim":
                scheduler.num_inference_steps = Stride(t - (steps[i + 1] if i + 1 < len(steps) else -1))
            else:
                scheduler.num_inference_steps = Stride(t - (steps[i - 1] if i else -1))
        scheduling_ddpm.randn_tensor = lambda *a, **k: Z[i]
        x = scheduler.step(model(x, t), t, x, **extra).prev_sample
        rows.append(x.reshape(-1).numpy().copy())
    return np.stack(rows)


def has_defect(case):
    cls, config, n = case["class"], case["config"], case.get("n")
    T = config.get("num_train_timesteps", 1000)
    spacing = config.get("timestep_spacing", "leading")
    if cls == "ddpm" and config.get("variance_type") == "fixed_large_log":
        return True
    if cls != "ddpm" and ("timesteps" in case or spacing == "linspace"):
        return True
    if n and spacing == "trailing" and len(np.arange(T, 0, -T / n)) != n:
        return True
    return bool(n) and spacing == "leading" and (n - 1) * (T // n) + config.get("steps_offset", 0) >= T


def can_compat(case):
    """Whether diffusers runs the case at all."""
    if "timesteps" in case:
        return case["class"] == "ddpm"
    try:
        run(case, False)
        return True
    except (IndexError, ValueError):
        return False


def all_cases():
    spacings = ("leading", "linspace", "trailing")
    for p, v, c, s in itertools.product(PREDICTIONS, ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
                                        CLIPS, spacings):
        if v in ("fixed_small_log", "fixed_large_log") and (c != {} or s == "linspace"):
            continue
        yield {"class": "ddpm", "config": {"prediction_type": p, "variance_type": v, "timestep_spacing": s, **c}, "n": 6}
    for p, c, s, eta, clipped in itertools.product(PREDICTIONS, CLIPS, spacings, (0.0, 0.6, 1.0), (False, True)):
        yield {"class": "ddim", "config": {"prediction_type": p, "timestep_spacing": s, **c}, "n": 6, "eta": eta,
               "clipped": clipped}
    for p, c, s, one, offset in itertools.product(PREDICTIONS, CLIPS[:3], spacings, (True, False), (0, 1)):
        if (offset and s != "leading") or (one and p == "sample"):
            continue  # the latter divides by zero
        yield {"class": "ddim_inverse", "config": {"prediction_type": p, "timestep_spacing": s, "set_alpha_to_one": one,
               "steps_offset": offset, **c}, "n": 5}
    for cls, one, offset, p in itertools.product(("ddpm", "ddim"), (True, False), (0, 1, 3, 200), PREDICTIONS):
        config = {"prediction_type": p, "steps_offset": offset, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
                  "beta_end": 0.012, "clip_sample": False}
        if cls == "ddim":
            config["set_alpha_to_one"] = one
        elif not one:
            continue
        yield {"class": cls, "config": config, "n": 7, "eta": 0.0}
    for cls, p, c, s in itertools.product(("ddpm", "ddim", "ddim_inverse"), PREDICTIONS, CLIPS, spacings):
        if cls == "ddim_inverse" and "thresholding" in c:
            continue
        if p == "epsilon" and (c == {"clip_sample": False} or "thresholding" in c) and s != "leading":
            continue  # divides by zero
        if p == "sample" and cls == "ddim_inverse":
            continue
        yield {"class": cls, "config": {"prediction_type": p, "timestep_spacing": s, "rescale_betas_zero_snr": True, **c},
               "n": 5, "eta": 1.0}
    for cls, name in itertools.product(("ddpm", "ddim"), ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace")):
        if cls == "ddim" and name in ("sigmoid", "laplace"):
            continue
        yield {"class": cls, "config": {"beta_schedule": name}, "n": 13, "eta": 0.3}
    trained = [0.01 + 0.02 * (i % 5) for i in range(20)]
    for cls in CLASSES:
        yield {"class": cls, "config": {"trained_betas": trained, "num_train_timesteps": 20}, "n": 9}
        yield {"class": cls, "config": {"num_train_timesteps": 20, "beta_end": 0.3}, "n": 20}
        yield {"class": cls, "config": {"num_train_timesteps": 20, "beta_end": 0.3, "steps_offset": 1}, "n": 20}
        yield {"class": cls, "config": {"num_train_timesteps": 29, "timestep_spacing": "trailing"}, "n": 7}
        for n in (1, 2):
            yield {"class": cls, "config": {}, "n": n}
        # trailing with one timestep too many: 29 and 31 of 100
        yield {"class": cls, "config": {"num_train_timesteps": 100, "timestep_spacing": "trailing"}, "n": 29}
        yield {"class": cls, "config": {"num_train_timesteps": 100, "timestep_spacing": "trailing"}, "n": 31}
        own = [995, 900, 412, 411, 100, 5]
        yield {"class": cls, "config": {}, "timesteps": own if cls != "ddim_inverse" else own[::-1]}
        yield {"class": cls, "config": {}, "timesteps": [700]}


def trajectories():
    cases, rows = [], []
    for case in all_cases():
        defect = has_defect(case)
        modes = ["both"] if not defect else (["compat"] if can_compat(case) else []) + ["fixed"]
        for mode in modes:
            if mode == "fixed" and case["class"] == "ddim_inverse" and case["config"].get("timestep_spacing") == "linspace":
                continue  # diffusers has no linspace for it
            result = run(case, mode == "fixed")
            if not np.isfinite(result).all() and case["config"].get("variance_type") != "fixed_large_log":
                # zero SNR with eta 1: sqrt(1 - abar' - sigma^2) of a rounding error below zero
                print("dropped, diffusers' result is not finite:", case)
                continue
            cases.append({**case, "mode": mode, "steps": len(result), "at": sum(len(r) for r in rows)})
            rows.append(result)
    return cases, np.concatenate(rows)


SCHEDULES = [{}, {"beta_schedule": "scaled_linear"}, {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
             {"beta_schedule": "squaredcos_cap_v2"}, {"beta_schedule": "sigmoid"}, {"beta_schedule": "laplace"},
             {"rescale_betas_zero_snr": True}, {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True},
             {"beta_schedule": "squaredcos_cap_v2", "rescale_betas_zero_snr": True},
             {"beta_schedule": "sigmoid", "beta_start": 0.001, "beta_end": 0.05}, {"beta_start": 0.01, "beta_end": 0.5}]


def list_hashes(spacing, T):
    scheduler = DDPMScheduler(num_train_timesteps=T, timestep_spacing=spacing)
    out = np.zeros(T, np.uint64)
    for n in range(1, T + 1):
        scheduler.set_timesteps(n)
        h = 0xCBF29CE484222325
        for byte in scheduler.timesteps.numpy().astype("<i8").tobytes():
            h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
        out[n - 1] = h
    return out.view(np.int64)


def loss_weights():
    t = torch.arange(50) * 20
    snr = compute_snr(DDPMScheduler(), t)
    kept = torch.minimum(snr, torch.tensor(5.0))
    ones = torch.ones_like(snr)
    return torch.stack([torch.stack([ones, kept / snr]), torch.stack([ones, kept / (snr + 1)]), torch.stack([snr, kept])])


def main():
    torch.set_num_threads(1)
    made = [DDPMScheduler(**c) for c in SCHEDULES]
    cases, rows = trajectories()
    tensors = {"betas": torch.stack([s.betas for s in made]), "alphas_cumprod": torch.stack([s.alphas_cumprod for s in made]),
               "x": X.reshape(-1), "q": Q.reshape(-1), "z": Z.reshape(40, -1), "trajectory": rows.astype(np.float32),
               "weights": loss_weights()}
    for spacing, T in itertools.product(("leading", "linspace", "trailing"), (1000, 100, 37)):
        tensors[f"timesteps.{spacing}.{T}"] = list_hashes(spacing, T)
    pack = lambda value: json.dumps(value, separators=(",", ":"))
    size = save(os.path.join(GOLDEN_DIR, "schedulers.safetensors"), tensors,
                {"cases": pack({"cases": cases}), "schedules": pack({"schedules": SCHEDULES})})
    print(f"{len(cases)} cases, {len(rows)} steps, {size} bytes")


if __name__ == "__main__":
    main()
