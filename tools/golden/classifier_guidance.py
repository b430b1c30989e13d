"""classifier_guidance.py - golden pictures of guidance by a noisy classifier (arXiv 2105.05233, algorithms 1 and 2).

Usage:  python tools/golden/classifier_guidance.py
Writes tests/golden/classifier_guidance.safetensors: trajectories [steps,3,3,8,8] of the networks of scheduler_pipeline.py, guided by the
classifier of classifier.py at 8x8 with four classes (metadata "config": config.json of its encoder), labels 1, 0, 2, generators
manual_seed(7), (8), (9). The steps are diffusers', guidance is written here after the paper; float64, because the scale multiplies the
network's rounding, PyTorch's as well as ours.

ddim, ddim_v, ddim_sample   5 steps; the network's answer taken as epsilon, v and the picture itself; the picture that the network
              predicts alone is clipped
ddim_unclipped   clip_sample false
ddim_eta      eta 0.7
ddim_clipped_eps  use_clipped_model_output: the network's eps follows from the clipped picture
ddim_free     of the class-conditional network (label 4 stands for no class), with classifier-free guidance of scale 2
ddim_mixed    labels 1, none, 2: the second picture is not guided
ddim_interval 10 steps, guided where int(0.3 * 10) <= i < int(0.7 * 10)
ddim_image    10 steps, the last 5 of them from r("guidance.image") noised (strength 0.5)
ddpm, ddpm_v  6 steps, variance fixed_large
ddpm_small    variance fixed_small
ddpm_learned  of the network that predicts its variance (learned_range): Sigma of each element
"""

import json
import os

import torch
from classifier import CONFIG, classify, encoder
from common import GOLDEN_DIR, save
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from guidance import NULL, begin, step
from scheduler_pipeline import SHAPE, generators, network

CLASSES, SCALE = 4, 20.0
SMALL = {**CONFIG, "sample_size": 8}


def gradient(classifier, x, t, labels):
    """Of log p(label | x) for x; 0 where the label is None."""
    x = x.clone().requires_grad_()
    _, logits = classify(classifier, x, t.expand(len(x)), CLASSES)
    chosen = torch.tensor([label or 0 for label in labels])
    log_p = torch.log_softmax(logits, -1).gather(1, chosen[:, None])[:, 0]
    (log_p * torch.tensor([label is not None for label in labels])).sum().backward()
    return x.grad


def eps_of(kind, out, x, signal, noise):
    if kind == "epsilon":
        return out
    return signal * out + noise * x if kind == "v_prediction" else (x - signal * out) / noise


def answer(model, x, t, labels, free):
    if not free:
        return model(x, t).sample
    given = torch.tensor(labels)
    cond, uncond = model(torch.cat([x, x]), t, class_labels=torch.cat([given, given * 0 + NULL])).sample.chunk(2)
    return uncond + free * (cond - uncond)


def ddim_step(scheduler, out, t, x, g, generator, eta, clipped_eps):
    """Algorithm 2: the guided eps stands for the network's in the picture and in the direction (arXiv 2010.02502, eq. 12)."""
    previous = t - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    abar, kind = scheduler.alphas_cumprod[t], scheduler.config.prediction_type
    following = scheduler.alphas_cumprod[previous] if previous >= 0 else scheduler.final_alpha_cumprod
    sigma = eta * scheduler._get_variance(t, previous) ** 0.5
    signal, noise = abar.sqrt().double(), (1 - abar).sqrt().double()
    eps = eps_of(kind, out, x, signal, noise)
    picture = (x - noise * eps) / signal
    if scheduler.config.clip_sample:
        picture = picture.clamp(-1, 1)
    if clipped_eps:
        eps = (x - signal * picture) / noise
    guided = eps - noise * SCALE * g
    picture = picture - noise / signal * (guided - eps)
    x = following.sqrt() * picture + (1 - following - sigma**2).sqrt() * guided
    return x + sigma * randn_tensor(SHAPE, generator=generator).double() if eta else x


def ddpm_step(scheduler, out, t, x, g, generator):
    """Algorithm 1: the mean moves by Sigma times the gradient."""
    following = step(scheduler, out, t, x, generator)
    if t == 0:  # no noise is drawn
        return following
    variance = scheduler._get_variance(t, predicted_variance=out[:, 3:] if out.shape[1] == 6 else None)
    if out.shape[1] == 6:
        variance = variance.exp()  # learned_range is a logarithm there
    return following + SCALE * variance * g


def loop(model, classifier, scheduler, n, labels=(1, 0, 2), free=0.0, eta=0.0, clipped_eps=False, start=0.0, stop=1.0,
         strength=1.0):
    generator = generators()
    x, timesteps = begin(scheduler, n, generator, strength)
    rows = []
    for i, t in enumerate(timesteps):
        with torch.no_grad():
            out = answer(model, x, t, labels, free)
        g = gradient(classifier, x, t, labels if int(start * n) <= i < int(stop * n) else [None] * 3)
        with torch.no_grad():
            x = (ddim_step(scheduler, out, t, x, g, generator, eta, clipped_eps) if isinstance(scheduler, DDIMScheduler)
                 else ddpm_step(scheduler, out, t, x, g, generator))
        rows.append(x)
    return torch.stack(rows).float()


def main():
    torch.set_num_threads(1)
    classifier = encoder(SMALL)
    plain, classes, learned = (network(**o).double() for o in ({}, {"num_class_embeds": 5}, {"out_channels": 6}))

    def ddim(kind="epsilon", clip=True):
        return DDIMScheduler.from_config(DDPMScheduler(prediction_type=kind, clip_sample=clip).config)

    def ddpm(variance="fixed_large", kind="epsilon"):
        return DDPMScheduler(variance_type=variance, prediction_type=kind)

    tensors = {
        "ddim": loop(plain, classifier, ddim(), 5),
        "ddim_v": loop(plain, classifier, ddim("v_prediction"), 5),
        "ddim_sample": loop(plain, classifier, ddim("sample"), 5),
        "ddim_unclipped": loop(plain, classifier, ddim(clip=False), 5),
        "ddim_eta": loop(plain, classifier, ddim(), 5, eta=0.7),
        "ddim_clipped_eps": loop(plain, classifier, ddim(), 5, clipped_eps=True),
        "ddim_free": loop(classes, classifier, ddim(), 5, free=2.0),
        "ddim_mixed": loop(plain, classifier, ddim(), 5, labels=(1, None, 2)),
        "ddim_interval": loop(plain, classifier, ddim(), 10, start=0.3, stop=0.7),
        "ddim_image": loop(plain, classifier, ddim(), 10, strength=0.5),
        "ddpm": loop(plain, classifier, ddpm(), 6),
        "ddpm_v": loop(plain, classifier, ddpm(kind="v_prediction"), 6),
        "ddpm_small": loop(plain, classifier, ddpm("fixed_small"), 6),
        "ddpm_learned": loop(learned, classifier, ddpm("learned_range"), 6),
    }
    size = save(os.path.join(GOLDEN_DIR, "classifier_guidance.safetensors"), tensors,
                {"config": json.dumps({"_class_name": "UNet2DModel", **SMALL})})
    print(size, "bytes;", {name: round(t[-1].abs().max().item(), 3) for name, t in tensors.items()})


if __name__ == "__main__":
    main()
