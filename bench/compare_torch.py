"""compare_torch.py - seconds per step of Langevin and of PyTorch/diffusers, side by side in one run.

Usage:
    python bench/compare_torch.py [--langevin build/langevin] [--configs demo,ddpm_cifar10] [--modes train,sample]
                                  [--batch-size N] [--rounds 7] [--steps 3] [--threads N] [--variants ...]
                                  [--no-langevin] [--json FILE] [--work name:mode:batch:precision,...]

Every contender is a process of its own that loads the network (bench/configs/NAME.json), warms up and then waits;
rounds go round-robin through them, a few steps each, so that a slow minute of the machine hits all alike.
Printed per configuration and mode: the median over rounds of each contender's seconds per step, pictures per
second, and the ratio of PyTorch's fastest variant (by median) to Langevin with the smallest and largest
ratio of the rounds.

Both sides, float32.  A training step: noise and timesteps drawn, noising, forward, mean squared error,
backward, clipping of the gradient norm at 1, AdamW, moving average of the weights.  A sampling step: one
DDIM step, network included.  PyTorch is given what makes it fast: fused AdamW, foreach clipping and averaging,
inference mode, and the variants
    eager, channels_last, compile, compile_channels_last      (torch.compile; left out with the reason if it fails)

A contender is told to run a round by a line on its standard input and answers with one line of JSON,
{"seconds_per_step": [s, ...]}; ours is
    langevin bench CONFIG.json --mode train|sample --batch-size N --rounds STEPS --threads T --json --interactive
which first prints "ready" when it has planned and run once, and ends at end of input.
"""

import argparse
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
VARIANTS = ["eager", "channels_last", "compile", "compile_channels_last"]
# Batches large enough that a step is arithmetic, small enough for two cores.
BATCH = {("demo", "train"): 32, ("demo", "sample"): 16, ("ddpm_cifar10", "train"): 4, ("ddpm_cifar10", "sample"): 4,
         ("article_unet128", "train"): 4, ("article_unet128", "sample"): 2,
         ("dit_s_4", "train"): 32, ("dit_s_4", "sample"): 16, ("dit_s_2", "train"): 8, ("dit_s_2", "sample"): 4}


# ---- the PyTorch side: one process ----

class Transformer:
    """DiT by the original's formulas (tools/golden/dit_original.py: one embedding for all blocks, PyTorch's fused
    attention) behind the interface of diffusers' networks."""

    def __new__(cls, config):
        sys.path.insert(0, os.path.join(os.path.dirname(HERE), "tools", "golden"))
        from dit_original import DiT
        from torch import nn

        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                heads, size = config["num_attention_heads"], config["sample_size"]
                self.net = DiT((size, size), config["patch_size"], config["in_channels"], config["out_channels"],
                               heads * config["attention_head_dim"], config["num_layers"], heads,
                               config["num_embeds_ada_norm"], freq_shift=1)
                self.config = argparse.Namespace(sample_size=size, in_channels=config["in_channels"])
                self.dtype_of = self.net.pos_embed

            @property
            def dtype(self):
                return self.dtype_of.dtype

            def forward(self, x, t):
                import torch

                t = t.expand(x.shape[0])
                return argparse.Namespace(sample=self.net(x, t, torch.zeros_like(t, dtype=torch.int64)))
        return Network()


def torch_steps(config_path, mode, batch, variant, precision):
    """A function that runs one step.  In bf16 training runs under autocast, and sampling with weights in bf16."""
    import diffusers
    import torch
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
    from diffusers.training_utils import EMAModel

    diffusers.logging.set_verbosity_error()
    with open(config_path) as f:
        config = json.load(f)
    torch.manual_seed(0)
    transformer = config.get("_class_name") == "DiTTransformer2DModel"
    model = Transformer(config) if transformer else UNet2DModel.from_config(config)
    memory_format = torch.channels_last if "channels_last" in variant else torch.contiguous_format
    bf16 = precision == "bf16"
    model = model.to(memory_format=memory_format, dtype=torch.bfloat16 if bf16 and mode == "sample" else torch.float32)
    size = model.config.sample_size
    shape = (batch, model.config.in_channels, size, size)
    x0 = torch.rand(shape).mul(2).sub(1).contiguous(memory_format=memory_format)

    if mode == "sample":
        model.eval()
        if "compile" in variant:
            import torch._inductor.config as inductor

            inductor.freezing = True
        run = torch.compile(model) if "compile" in variant else model
        schedule = DDIMScheduler()
        schedule.set_timesteps(50)
        state = {"x": torch.randn(shape).contiguous(memory_format=memory_format), "i": 0}

        def step():
            with torch.inference_mode():
                t = schedule.timesteps[state["i"] % 50]
                out = run(state["x"].to(model.dtype), t).sample.float()
                state["x"] = schedule.step(out, t, state["x"]).prev_sample
                state["i"] += 1
                if state["i"] % 50 == 0:
                    state["x"] = torch.randn(shape).contiguous(memory_format=memory_format)
        return step

    model.train()
    run = torch.compile(model) if "compile" in variant else model
    schedule = DDPMScheduler()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, fused=True)
    ema = EMAModel(parameters, decay=0.9999, use_ema_warmup=True, power=0.75, foreach=True)

    def step():
        noise = torch.randn(shape).contiguous(memory_format=memory_format)
        t = torch.randint(0, 1000, (batch,))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = run(schedule.add_noise(x0, noise, t), t).sample
        loss = torch.nn.functional.mse_loss(out.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(parameters)
        return loss.item()
    return step


def worker(args):
    import torch

    torch.set_num_threads(args.threads)
    step = torch_steps(args.worker[0], args.worker[1], int(args.worker[2]), args.worker[3], args.mixed_precision)
    for _ in range(2):
        step()
    print("ready", flush=True)
    for _ in sys.stdin:
        seconds = []
        for _ in range(args.steps):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        print(json.dumps({"seconds_per_step": seconds}), flush=True)


# ---- the comparison ----

class Contender:
    """A child process that answers a line with a line."""

    def __init__(self, name, command, environment, patience):
        self.name, self.rounds, self.reason, self.patience = name, [], None, patience
        self.log = tempfile.TemporaryFile("w+")
        try:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
                                            text=True, env=environment)
            self.read()
        except (OSError, EOFError) as error:
            self.fail(error)

    def read(self):
        """The next JSON object the child prints, None for the line "ready".  A child that is silent too long is stopped: compiling may
        take many minutes."""
        while True:
            # Children print whole lines, one at a time, so nothing waits in the text buffer here.
            if not select.select([self.process.stdout], [], [], self.patience)[0]:
                self.process.kill()
                raise EOFError(f"no answer in {self.patience} s")
            line = self.process.stdout.readline()
            if not line:
                raise EOFError(f"it ended with status {self.process.wait()}")
            if line.lstrip().startswith("{"):
                return json.loads(line)
            if line.strip() == "ready":
                return None

    def fail(self, error):
        self.log.seek(0)
        text = [line.strip() for line in self.log.read().splitlines() if line.strip()]
        self.reason = f"{error}; {text[-1] if text else 'no message'}"

    def round(self):
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            seconds = self.read()["seconds_per_step"]
            self.rounds.append(statistics.median(seconds if isinstance(seconds, list) else [seconds]))
        except (OSError, EOFError) as error:
            self.fail(error)

    def close(self):
        if hasattr(self, "process"):
            self.process.stdin.close()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.log.close()


def machine(threads):
    out = subprocess.run(["lscpu"], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout
    fields = dict((line.split(":", 1)[0].strip(), line.split(":", 1)[1].strip()) for line in out.splitlines() if ":" in line)
    flags = fields.get("Flags", "").split()
    levels = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile") if name in flags]
    return {"cpu": fields.get("Model name", "unknown"), "cpus": fields.get("CPU(s)", "?"), "threads": threads,
            "levels": " ".join(levels)}


class Comparison:
    """The contenders of one (config, mode, batch, precision)."""

    def __init__(self, item, args):
        config, self.mode, batch, self.precision = item
        path = config if config.endswith(".json") else os.path.join(HERE, "configs", config + ".json")
        self.name = os.path.splitext(os.path.basename(path))[0]
        self.batch = batch or args.batch_size or BATCH.get((self.name, self.mode), 4)
        precision = ["--mixed-precision", self.precision]
        self.commands = []
        if not args.no_langevin:
            self.commands.append(("langevin", [args.langevin, "bench", path, "--mode", self.mode, "--batch-size", str(self.batch),
                                               "--rounds", str(args.steps), "--threads", str(args.threads), "--json",
                                               "--interactive", *precision, *args.langevin_options.split()]))
        for variant in args.variants.split(","):
            self.commands.append((variant, [sys.executable, os.path.abspath(__file__), "--threads", str(args.threads), "--steps",
                                            str(args.steps), *precision, "--worker", path, self.mode, str(self.batch), variant]))

    def start(self, args, each):
        """each(function, list): map, one after the other or all at once."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
        self.contenders = list(each(lambda c: Contender(*c, environment, args.patience), self.commands))

    def run(self, args):
        for _ in range(args.rounds):
            for contender in self.contenders:
                if contender.reason is None:
                    contender.round()
        return report(self)


def report(comparison):
    name, mode, batch, contenders = comparison.name, comparison.mode, comparison.batch, comparison.contenders
    print(f"\n{name}, {mode}, batch {batch}, " + ("bf16" if comparison.precision == "bf16" else "float32"), flush=True)
    results = {}
    for contender in contenders:
        contender.close()
        if contender.reason is not None:
            print(f"  {contender.name:22s} left out: {contender.reason}")
            results[contender.name] = {"left_out": contender.reason}
            continue
        median = statistics.median(contender.rounds)
        results[contender.name] = {"median": median, "rounds": contender.rounds}
        print(f"  {contender.name:22s} {median * 1e3:9.2f} ms/step  ({min(contender.rounds) * 1e3:.2f} to "
              f"{max(contender.rounds) * 1e3:.2f})  {batch / median:9.2f} pictures/s")
    summary = {"config": name, "mode": mode, "batch": batch, "mixed_precision": comparison.precision,
               "contenders": results}
    torch_side = {n: r for n, r in results.items() if n != "langevin" and "median" in r}
    if torch_side and "median" in results.get("langevin", {}):
        best = min(torch_side, key=lambda n: torch_side[n]["median"])
        ours, theirs = results["langevin"], torch_side[best]
        ratios = [b / a for a, b in zip(ours["rounds"], theirs["rounds"])]
        ratio = theirs["median"] / ours["median"]
        print(f"  PyTorch's best ({best}) / Langevin: {ratio:.2f}  (rounds {min(ratios):.2f} to {max(ratios):.2f}): "
              f"Langevin runs at {ratio:.2f} times PyTorch's speed", flush=True)
        summary.update(best=best, speed_ratio=ratio, ratio_rounds=ratios)
    return summary


def work_list(args):
    """(config, mode, batch or 0, precision) of everything to compare."""
    if not args.work:
        return [(config, mode, 0, args.mixed_precision) for config in args.configs.split(",") for mode in args.modes.split(",")]
    work = []
    for item in args.work.split(","):
        fields = item.split(":")
        config, mode, batch, precision = fields + ["", "", "0", args.mixed_precision][len(fields):]
        if mode not in ("train", "sample") or not batch.isdigit() or precision not in ("no", "bf16"):
            sys.exit(f"compare_torch: --work wants name:train or sample[:batch[:no or bf16]], not '{item}'")
        work.append((config, mode, int(batch), precision))
    return work


def compare_all(work, about, args):
    """Contenders that start together share the machine while they compile, never while they are timed."""
    comparisons = [Comparison(item, args) for item in work]
    if args.start_together:
        with ThreadPoolExecutor(sum(len(c.commands) for c in comparisons) + len(comparisons)) as pool:
            list(pool.map(lambda c: c.start(args, pool.map), comparisons))
    results = []
    for comparison in comparisons:
        if not args.start_together:
            comparison.start(args, map)
        results.append(comparison.run(args))
        if args.json:
            with open(args.json, "w") as f:
                json.dump({"machine": about, "results": results}, f, indent=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--langevin", default=os.path.join(os.path.dirname(HERE), "build", "langevin"))
    parser.add_argument("--configs", default="demo,ddpm_cifar10", help="names in bench/configs, or files")
    parser.add_argument("--modes", default="train,sample")
    parser.add_argument("--work", help="instead of both: a list such as ddpm_cifar10:train:4,article_unet128:sample:2:bf16")
    parser.add_argument("--mixed-precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--start-together", action="store_true",
                        help="start all contenders of all work at once: for machines with many cores and much memory")
    parser.add_argument("--langevin-options", default="", help="further options of langevin bench")
    parser.add_argument("--batch-size", type=int, default=0, help="default: chosen for each")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="steps in a round")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--patience", type=int, default=900, help="seconds a contender may take to start or answer")
    parser.add_argument("--no-langevin", action="store_true", help="PyTorch only")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args)
        return
    if not args.no_langevin and not os.path.exists(args.langevin):
        sys.exit(f"compare_torch: '{args.langevin}' does not exist; build it or give --langevin, or --no-langevin.")
    work = work_list(args)
    import diffusers
    import torch

    about = {**machine(args.threads), "torch": torch.__version__, "diffusers": diffusers.__version__}
    print(f"{about['cpu']}, {about['cpus']} CPUs ({about['levels']}), {args.threads} threads; "
          f"torch {about['torch']}, diffusers {about['diffusers']}; {args.rounds} rounds of {args.steps} steps")
    compare_all(work, about, args)


if __name__ == "__main__":
    main()
