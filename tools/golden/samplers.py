"""samplers.py - golden trajectories of every sampler beyond DDPM and DDIM (schedulers.py has those).

Usage:  python tools/golden/samplers.py      (DPMSolverSDEScheduler asks for the package torchsde)
Writes tests/golden/samplers.safetensors, all numbers from diffusers' own scheduler classes:

x, q [6], z [64,6]   first image (before init_noise_sigma), shift of the model, noise of each call, as [1,2,1,3]
trajectory [...]     x after each call of every case, end to end, [6] each
time [...]           the timestep of each call

metadata "cases": {"cases": [{class, config, n | timesteps, options, calls, at, tolerance}]}. at: call of trajectory. The model is
out = 0.9 x r(t) + 0.2 q with r(t) = t/(t+1) for t >= 0, else 0.3 + 0.1 t; where the scheduler reads a variance the
second half of out is 0.5 + 0.4 q. options: eta, s_churn, s_tmin, s_tmax, s_noise, mu, skip (steps left out at the front).
"""

import itertools
import json
import logging
import os
import sys
import warnings

import diffusers
import numpy as np
import torch
from common import GOLDEN_DIR, hash_unit, save

warnings.filterwarnings("ignore")
diffusers.utils.logging.set_verbosity(logging.CRITICAL)
SHAPE = (1, 2, 1, 3)
X = torch.from_numpy(2.2 * hash_unit("sampler.x", SHAPE))
Q = torch.from_numpy(hash_unit("sampler.q", SHAPE))
Z = torch.from_numpy(1.7 * hash_unit("sampler.z", (64,) + SHAPE))
COUNTS = (1, 2, 3, 5, 10, 20)
SPACINGS = [{"timestep_spacing": "leading"}, {"timestep_spacing": "leading", "steps_offset": 1},
            {"timestep_spacing": "linspace"}, {"timestep_spacing": "trailing"}]
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
BETAS = ({"beta_start": 0.0001, "beta_end": 0.02}, SD, {"beta_schedule": "squaredcos_cap_v2"})
SIGMAS = ({"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True})
THRESHOLD = {"thresholding": True, "dynamic_thresholding_ratio": 0.83, "sample_max_value": 1.6}


def model(x, t, variance):
    t = float(t)
    r = t / (t + 1) if t >= 0 else 0.3 + 0.1 * t
    out = 0.9 * x * r + 0.2 * Q
    return torch.cat([out, 0.5 + 0.4 * Q], 1) if variance else out


def run(case):
    config, options = case["config"], case.get("options", {})
    cls = getattr(diffusers, case["class"])
    scheduler = cls(**config)
    extra = {"mu": options["mu"]} if "mu" in options else {}
    if "timesteps" in case:
        scheduler.set_timesteps(timesteps=case["timesteps"], **extra)
    else:
        scheduler.set_timesteps(case["n"], **extra)
    begin = options.get("skip", 0) * getattr(scheduler, "order", 1)
    x = X.clone()
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)  # else the second of two equal timesteps is taken for the first
    if not begin:
        x = x * getattr(scheduler, "init_noise_sigma", 1.0)
    module = sys.modules[cls.__module__]
    rows, times = [], []
    step = {k: options[k] for k in ("eta", "s_churn", "s_tmin", "s_tmax", "s_noise") if k in options}
    for i, t in enumerate(scheduler.timesteps[begin:]):
        module.randn_tensor = lambda *a, **k: Z[i]
        if case["class"] == "DPMSolverSDEScheduler":
            scheduler.noise_sampler = lambda a, b: Z[i]
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(model(seen, t, case.get("variance")), t, x, **step).prev_sample.float()
        rows.append(x.reshape(-1).numpy().copy())
        times.append(float(t))
    return np.stack(rows), np.array(times, np.float32)


def case(cls, config, n, **options):
    return {"class": cls, "config": config, "n": n, **({"options": options} if options else {})}


def solver_cases(cls, predictions, more):
    """What the multistep solvers have in common."""
    for n, order in itertools.product(COUNTS, (1, 2, 3)):
        yield case(cls, {"solver_order": order, **more}, n)
        yield case(cls, {"solver_order": order, "prediction_type": "v_prediction", **SD, **more}, n)
    for p, order in itertools.product(predictions, (2, 3)):
        yield case(cls, {"prediction_type": p, "solver_order": order, **more}, 7)
        yield case(cls, {"prediction_type": p, "solver_order": order, **THRESHOLD, **more}, 6)
        yield case(cls, {"prediction_type": p, "solver_order": order, "lower_order_final": False, **more}, 9)
    for betas, sigmas, n in itertools.product(BETAS, SIGMAS, (1, 6, 17)):
        yield case(cls, {**betas, **sigmas, "solver_order": 3, **more}, n)
    if cls != "DPMSolverSinglestepScheduler":
        for spacing, n in itertools.product(SPACINGS, (2, 6, 16)):
            yield case(cls, {**spacing, **SD, **more}, n)
    for shift, n, order in itertools.product((1.0, 3.0), (1, 4, 18), (2, 3)):
        if more.get("algorithm_type", "dpmsolver++") in ("dpmsolver", "sde-dpmsolver"):
            continue
        yield case(cls, {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift,
                         "solver_order": order, **more}, n)


def dpm_cases():
    cls, three = "DPMSolverMultistepScheduler", ("epsilon", "sample", "v_prediction")
    for algorithm, kind in itertools.product(("dpmsolver++", "sde-dpmsolver++", "dpmsolver"), ("midpoint", "heun")):
        final = {"final_sigmas_type": "sigma_min"} if algorithm == "dpmsolver" else {}
        yield from solver_cases(cls, three, {"algorithm_type": algorithm, "solver_type": kind, **final})
    for kind, p, n, order in itertools.product(("midpoint", "heun"), three, (1, 3, 8, 17), (1, 2)):
        yield case(cls, {"algorithm_type": "sde-dpmsolver", "solver_type": kind, "final_sigmas_type": "sigma_min",
                         "prediction_type": p, "solver_order": order}, n)
    for final, n, order in itertools.product(("zero", "sigma_min"), (3, 8, 17), (2, 3)):
        config = {"final_sigmas_type": final, "solver_order": order}
        yield case(cls, {**config, "euler_at_final": True}, n)
        yield case(cls, {**config, "lower_order_final": False}, n)
        for betas in BETAS:
            yield case(cls, {**config, **betas, "use_lu_lambdas": True}, n)
        for spacing in ("linspace", "leading", "trailing"):
            yield case(cls, {**config, "beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1,
                             "timestep_spacing": spacing}, n)
    for n in (3, 7):
        yield case(cls, {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction",
                         "timestep_spacing": "trailing"}, n)
        yield case(cls, {"solver_type": "bh2", "algorithm_type": "deis", "final_sigmas_type": "sigma_min"}, n)  # names of other classes
        yield case(cls, {"use_dynamic_shifting": True, "use_flow_sigmas": True, "prediction_type": "flow_prediction"},
                   n, mu=0.7)
    yield {"class": cls, "config": {}, "timesteps": [999, 700, 411, 100, 5]}
    for order, n, skip in ((2, 8, 3), (3, 8, 3), (3, 20, 4), (2, 5, 4)):
        yield case(cls, {"solver_order": order}, n, skip=skip)
        yield case(cls, {"solver_order": order, "algorithm_type": "sde-dpmsolver++"}, n, skip=skip)


def singlestep_cases():
    cls, three = "DPMSolverSinglestepScheduler", ("epsilon", "sample", "v_prediction")
    for algorithm, kind in itertools.product(("dpmsolver++", "sde-dpmsolver++"), ("midpoint", "heun")):
        for made in solver_cases(cls, three, {"algorithm_type": algorithm, "solver_type": kind}):
            yield made
    for kind, p, n, order in itertools.product(("midpoint", "heun"), three, (3, 4, 6, 7, 12), (1, 2, 3)):
        for lower in (False, True):
            yield case(cls, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "prediction_type": p,
                             "solver_type": kind, "solver_order": order, "lower_order_final": lower}, n)
            yield case(cls, {"final_sigmas_type": "sigma_min", "prediction_type": p, "solver_type": kind,
                             "solver_order": order, "lower_order_final": lower}, n)
    yield {"class": cls, "config": {}, "timesteps": [999, 700, 411, 100, 5]}
    yield case(cls, {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}, 6)
    for order, n, skip in ((2, 8, 3), (3, 9, 3), (3, 9, 4), (2, 6, 4)):
        yield case(cls, {"solver_order": order}, n, skip=skip)


def unipc_cases():
    cls = "UniPCMultistepScheduler"
    for kind, image in itertools.product(("bh1", "bh2"), (True, False)):
        more = {"solver_type": kind, "predict_x0": image}
        if not image:
            more["final_sigmas_type"] = "sigma_min"
        for made in solver_cases(cls, ("epsilon", "sample", "v_prediction"), more):
            if image or ("flow" not in made["config"].get("prediction_type", "")):
                yield made
    for final, off, n in itertools.product(("zero", "sigma_min"), ([], [0], [0, 1, 4]), (4, 8)):
        yield case(cls, {"final_sigmas_type": final, "disable_corrector": off, "solver_order": 3}, n)
    for n in (4, 9):
        yield case(cls, {"solver_order": 4}, n)
        yield case(cls, {"solver_order": 5, "solver_type": "bh1"}, n)
        yield case(cls, {"use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 50.0}, n)
        yield case(cls, {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction",
                         "timestep_spacing": "trailing"}, n)
        flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
        yield case(cls, {**flow, "shift_terminal": 0.1, "flow_shift": 2.0}, n)
        yield case(cls, {**flow, "use_dynamic_shifting": True}, n, mu=0.7)
        yield case(cls, {**flow, "use_dynamic_shifting": True, "time_shift_type": "linear"}, n, mu=1.7)
        yield case(cls, {**flow, "use_karras_sigmas": True}, n)
    for order, n, skip in ((2, 8, 3), (3, 8, 3), (2, 5, 4)):
        yield case(cls, {"solver_order": order}, n, skip=skip)


def deis_cases():
    cls = "DEISMultistepScheduler"
    yield from solver_cases(cls, ("epsilon", "sample", "v_prediction"), {})
    yield case(cls, {"algorithm_type": "dpmsolver++", "solver_type": "midpoint"}, 5)
    for order, n, skip in ((2, 8, 3), (3, 8, 3), (3, 17, 4)):
        yield case(cls, {"solver_order": order}, n, skip=skip)


def k_cases():
    churns = ({}, {"s_churn": 3.0}, {"s_churn": 40.0, "s_noise": 1.1, "s_tmin": 0.1, "s_tmax": 10.0})
    for cls, p in (("EulerDiscreteScheduler", "epsilon sample v_prediction"),
                   ("EulerAncestralDiscreteScheduler", "epsilon v_prediction"),
                   ("HeunDiscreteScheduler", "epsilon sample v_prediction"),
                   ("KDPM2DiscreteScheduler", "epsilon v_prediction"),
                   ("KDPM2AncestralDiscreteScheduler", "epsilon v_prediction"),
                   ("LMSDiscreteScheduler", "epsilon sample v_prediction"),
                   ("DPMSolverSDEScheduler", "epsilon v_prediction")):
        euler = cls == "EulerDiscreteScheduler"
        for prediction, n, betas in itertools.product(p.split(), COUNTS, BETAS):
            yield case(cls, {"prediction_type": prediction, **betas}, n)
        for spacing, n in itertools.product(SPACINGS, (2, 6)):
            yield case(cls, {**spacing, **SD}, n)
        if cls != "EulerAncestralDiscreteScheduler":
            for betas, sigmas, n in itertools.product(BETAS, SIGMAS, (1, 2, 6)):
                yield case(cls, {**betas, **sigmas}, n)
        if euler or "Ancestral" in cls and cls.startswith("Euler"):
            yield case(cls, {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction",
                             "timestep_spacing": "trailing"}, 5)
        if cls == "HeunDiscreteScheduler":
            for prediction in p.split():
                yield case(cls, {"prediction_type": prediction, "clip_sample": True, "clip_sample_range": 1.5}, 6)
            yield case(cls, {"beta_schedule": "exp"}, 6)
        if euler:
            for churn, prediction, n in itertools.product(churns, p.split(), (3, 9)):
                yield case(cls, {"prediction_type": prediction, **SD}, n, **churn)
                yield case(cls, {"prediction_type": prediction, "interpolation_type": "log_linear"}, n, **churn)
                yield case(cls, {"prediction_type": prediction, "final_sigmas_type": "sigma_min"}, n, **churn)
            for sigmas in SIGMAS:
                yield case(cls, {**sigmas, "interpolation_type": "log_linear"}, 6)
                yield case(cls, {**sigmas, "sigma_min": 0.1, "sigma_max": 50.0}, 6)
                yield case(cls, {**sigmas, "timestep_type": "continuous", "prediction_type": "v_prediction"}, 6)
        if euler or cls.startswith("Heun"):
            yield {"class": cls, "config": {}, "timesteps": [999, 700, 411, 100, 5]}
        if not cls.startswith("LMS"):  # whose coefficients then do not fit its derivatives
            yield case(cls, {}, 7, skip=3)


def other_cases():
    for skip_prk, n, p, one in itertools.product((True, False), COUNTS + (4,), ("epsilon", "v_prediction"), (True, False)):
        if skip_prk or n > 3:
            yield case("PNDMScheduler", {"skip_prk_steps": skip_prk, "prediction_type": p, "set_alpha_to_one": one}, n)
    for skip_prk, spacing in itertools.product((True, False), SPACINGS):
        yield case("PNDMScheduler", {"skip_prk_steps": skip_prk, **spacing, **SD}, 9)
    for cls in ("LCMScheduler", "TCDScheduler"):
        etas = ({"eta": 0.0}, {"eta": 0.3}, {"eta": 1.0}) if cls[0] == "T" else ({},)
        for n, p, eta in itertools.product((1, 2, 4, 7), ("epsilon", "sample", "v_prediction"), etas):
            yield case(cls, {"prediction_type": p}, n, **eta)
        for more in ({"clip_sample": True}, THRESHOLD, {"original_inference_steps": 20},
                     {"timestep_scaling": 3.0}, {"beta_schedule": "linear", "set_alpha_to_one": False},
                     {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}):
            yield case(cls, more, 4, **etas[-1 if cls[0] == "L" else 1])
        yield {"class": cls, "config": {}, "timesteps": [999, 759, 99], **({"options": {"eta": 0.3}} if cls[0] == "T" else {})}
    for p, sigmas, final, n in itertools.product(("epsilon", "v_prediction"), ("karras", "exponential"),
                                                 ("zero", "sigma_min"), (1, 2, 5, 18)):
        config = {"prediction_type": p, "sigma_schedule": sigmas, "final_sigmas_type": final}
        yield case("EDMEulerScheduler", config, n)
        yield case("EDMEulerScheduler", {**config, "sigma_data": 1.0, "rho": 5.0, "sigma_max": 30.0}, n, s_churn=8.0,
                   s_tmin=0.05, s_tmax=20.0, s_noise=1.007)
        for order, kind in itertools.product((1, 2, 3), ("midpoint", "heun")):
            more = {**config, "solver_order": order, "solver_type": kind}
            yield case("EDMDPMSolverMultistepScheduler", more, n)
            if order < 3:
                yield case("EDMDPMSolverMultistepScheduler", {**more, "algorithm_type": "sde-dpmsolver++"}, n)
        yield case("EDMDPMSolverMultistepScheduler", {**config, **THRESHOLD, "euler_at_final": True}, n)
    for n, shift in itertools.product(COUNTS, (1.0, 3.0)):
        for more in ({}, {"stochastic_sampling": True}, {"shift_terminal": 0.1}, {"invert_sigmas": True}) + SIGMAS:
            if "shift_terminal" in more and n == 1:
                continue
            yield case("FlowMatchEulerDiscreteScheduler", {"shift": shift, **more}, n)
        yield case("FlowMatchHeunDiscreteScheduler", {"shift": shift}, n)
    for kind, mu in itertools.product(("exponential", "linear"), (0.6, 1.1)):
        yield case("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True, "time_shift_type": kind}, 7, mu=mu)
    yield case("FlowMatchEulerDiscreteScheduler", {}, 7, skip=3)
    for variance, p, spacing in itertools.product(("learned", "learned_range"), ("epsilon", "sample", "v_prediction"),
                                                  SPACINGS):
        yield {**case("DDPMScheduler", {"variance_type": variance, "prediction_type": p, **spacing}, 6), "variance": True}


def ill(made):
    """Where diffusers' own float32 arithmetic is further from its formula than 1e-5: derivatives divided by a noise level
    of 0.01 after one step from 157, ln sigma of near levels, e^h of h = 5."""
    cls, config, n = made["class"], made["config"], made.get("n", 0)
    beta, cosine = config.get("use_beta_sigmas"), config.get("beta_schedule") == "squaredcos_cap_v2"
    if cls == "HeunDiscreteScheduler":
        return n == 2 and config.get("prediction_type", "epsilon") == "epsilon" or n == 6 and beta and cosine
    if cls == "DEISMultistepScheduler":
        return beta and config.get("solver_order") == 3 or config.get("flow_shift") == 3.0 and n == 4
    return cls == "DPMSolverSinglestepScheduler" and config.get("algorithm_type") == "dpmsolver" and n == 3


def main():
    torch.set_num_threads(1)
    cases, rows, times, calls, dropped = [], [], [], 0, 0
    seen = set()
    for made in itertools.chain(dpm_cases(), singlestep_cases(), unipc_cases(), deis_cases(), k_cases(), other_cases()):
        if ill(made):
            made["tolerance"] = 0.01
        key = json.dumps(made, sort_keys=True)
        if key in seen or "tolerance" in made and made["class"][0] == "D" and made["n"] == 17:
            continue
        seen.add(key)
        try:
            result, time = run(made)
        except torch.linalg.LinAlgError:
            result = np.array([np.nan])
        if not np.isfinite(result).all():  # most often a last level that repeats the one before
            dropped += 1
            continue
        cases.append({**made, "calls": len(result), "at": calls})
        calls += len(result)
        rows.append(result)
        times.append(time)
    tensors = {"x": X.reshape(-1), "q": Q.reshape(-1), "z": Z.reshape(64, -1),
               "trajectory": np.concatenate(rows).astype(np.float32), "time": np.concatenate(times)}
    pack = json.dumps({"cases": cases}, separators=(",", ":"))
    size = save(os.path.join(GOLDEN_DIR, "samplers.safetensors"), tensors, {"cases": pack})
    print(f"{len(cases)} cases, {dropped} dropped, {calls} calls, {size} bytes")


if __name__ == "__main__":
    main()
