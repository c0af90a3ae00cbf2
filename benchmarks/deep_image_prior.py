"""Deep image prior: where it stops by itself, how fast a step is, and how sure it is.

    PPL_ZOO_DATA=... OMP_NUM_THREADS=1 python benchmarks/deep_image_prior.py [--quick] [PART ...]

Parts: "f16", the crop [180:308, 180:308] of the image in `images/dip`, noise of 25 grey levels,
clipped, five seeds; "stopping", the default rule on six other images, whose truth shows what the
best point of the same three runs would have been; "speed", a step beside the same net written as
modules, in turn; "run", one run that stops by itself beside the usual code's; "tasks", other
operators ("tasks-deblur" alone); "density", pixel sd against the error ("density-normal" and
"density-langevin" alone); and, for a GPU, "gpu-f16", "gpu-set5" and "gpu-barbara" at the size and
with the net of the paper (`--quick` shrinks them).
Times are CPU seconds of one thread. Each part is written as soon as it is there.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

import ppl_zoo as zoo
from ppl_zoo.core.device import has_fast_bfloat16
from ppl_zoo.core.random import chain_seed
from ppl_zoo.imaging import Blur, Downsample, Lanczos, Mask, psnr, read_image
from ppl_zoo.models.images.skip_net import PRESETS, SkipNet
from ppl_zoo.restoration.dip import NUM_RUNS
from ppl_zoo.solvers.early_stopping.rules import View, WindowedVariance
from ppl_zoo.solvers.early_stopping.solver import EarlyStoppingChain

RESULTS = Path(__file__).parent / "results" / "deep_image_prior.json"
SIGMA = 25 / 255
#: files, and the corner of a crop of 64 x 64; no constant was chosen on them
OTHERS = (
    ("set12/01.png", 80, 80),
    ("set12/07.png", 80, 80),
    ("set12/11.png", 80, 80),
    ("bsd68_12/test003.png", 80, 80),
    ("bsd68_12/test027.png", 80, 80),
    ("bsd68_12/test051.png", 80, 80),
)
#: crops for the sd of pixels; none of them set a constant
DENSITY = (
    ("set5/baby_GT.bmp", 200, 200),
    ("set5/head_GT.bmp", 100, 100),
    ("bsd68_12/test021.png", 150, 200),
)


def keep(found: dict) -> None:
    """Write results; what other parts left there stays. A trial writes nothing."""
    print(json.dumps(found), flush=True)
    if "--quick" in sys.argv:
        return
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    versions = {name: version(name) for name in ("torch", "pyro-ppl", "numpy")}
    record["versions"] = versions | {"python": platform.python_version()}
    RESULTS.write_text(json.dumps(record | found, indent=1, default=float) + "\n")


def picture(name: str) -> torch.Tensor:
    """Read ``(height, width, channels)``."""
    image = read_image(Path(os.environ["PPL_ZOO_DATA"]) / "images" / name)
    return image if image.ndim == 3 else image[..., None]


def add_noise(x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Add noise of 25 grey levels, clipped."""
    random = torch.Generator().manual_seed(seed)
    return (x + SIGMA * torch.randn(x.shape, generator=random)).clamp(0, 1)


def f16(quick: bool) -> None:
    """Restore the crop, five seeds, as ``zoo.restore`` does by itself."""
    x = picture("dip/F16_GT.png")[180:308, 180:308]
    y, rows = add_noise(x), []
    for seed in range(1 if quick else 5):
        began = time.process_time()
        steps = 20 if quick else None
        done = zoo.restore(y, None, SIGMA, method="dip", seed=seed, steps=steps, progress=False)
        took = time.process_time() - began
        images = done.fit.solution.state_tensors["images"][:, 0]
        rows.append(
            {
                "psnr": round(psnr(done.image, x), 3),
                "each run": [round(psnr(i.movedim(0, -1), x), 3) for i in images],
                "steps": list(done.fit.solution.steps),
                "stopped": list(done.fit.solution.stopped),
                "CPU seconds": round(took, 1),
            }
        )
        values = np.array([row["psnr"] for row in rows])
        spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        keep(
            {
                "f16": {
                    "noisy": round(psnr(y, x), 3),
                    "mean psnr": round(float(values.mean()), 3),
                    "sd over seeds": round(spread, 3),
                    "seeds": rows,
                }
            }
        )


def curves(x: torch.Tensor, y: torch.Tensor, steps: int) -> dict[str, np.ndarray]:
    """Run side by side, beyond every stop, what ``restore`` averages.

    PSNR of the averaged image, and by run excess and variance; every tenth step.
    """
    truth, data = x.movedim(-1, 0)[None], y.movedim(-1, 0)[None].contiguous()
    noise, chains, windows = torch.full((1,), SIGMA), [], []
    for index in range(NUM_RUNS["fast"]):
        model = zoo.DeepImagePrior(data.shape[1:], prior_scale=None, clipped=True)
        rows = model.as_rows((data, noise))
        options = zoo.EarlyStopping(steps, margin=1.0)
        chains.append(EarlyStoppingChain(index, model, options=options))
        chains[-1].begin(rows, 0)
        windows.append(WindowedVariance(steps))
    out: dict[str, list] = {"step": [], "psnr": [], "excess": [], "variance": [], "images": []}
    view = View(model, rows.all(), None)
    for step in range(steps):
        variance = []
        for chain, window in zip(chains, windows, strict=True):
            chain.step(rows.all(), chain_seed(0, chain.index, chain.count))
            variance.append(window.score(chain.output, chain.average, view))
        if step % 10:
            continue
        images = torch.stack([chain.average for chain in chains])
        out["step"].append(step)
        out["images"].append(images)
        out["excess"].append([view.excess(image) for image in images])
        out["variance"].append(variance)
        out["psnr"].append(psnr(images.mean(0), truth))
        if step > 400 and out["psnr"][-1] < max(out["psnr"]) - 0.4:
            break
    pictures = torch.stack(out.pop("images"))
    return {k: np.array(v) for k, v in out.items()} | {"images": pictures, "truth": truth}


def stopping(quick: bool) -> None:
    """Where rules stop, against the best point of the same runs."""
    found: dict = {}
    for name, row, column in OTHERS[: 1 if quick else None]:
        x = picture(name)[row : row + 64, column : column + 64]
        c = curves(x, add_noise(x), 120 if quick else 900)
        best, top = float(c["psnr"].max()), int(c["psnr"].argmax())
        reached = c["excess"] <= -zoo.EarlyStopping().make_rule(x.numel()).margin
        stops = np.where(reached.any(0), reached.argmax(0), len(reached) - 1)
        least = np.argmin(np.nan_to_num(c["variance"], nan=np.inf), 0)
        rows = {"default": stops, "windowed variance": least}
        found[name] = {"best psnr": round(best, 3), "at step": int(c["step"][top])}
        found[name]["excess at best"] = round(float(c["excess"][top].mean()), 3)
        for rule, places in rows.items():
            kept = torch.stack([c["images"][p, i] for i, p in enumerate(places)]).mean(0)
            found[name][f"{rule} stops at"] = c["step"][places].tolist()
            found[name][f"{rule} less best"] = round(psnr(kept, c["truth"]) - best, 3)
        keep({"stopping": found})


def layer(before: int, after: int, size: int, stride: int = 1) -> nn.Module:
    """Convolve, normalise, cut, as the paper's code has it."""
    pad = [nn.ReflectionPad2d(size // 2)] if size > 1 else []
    return nn.Sequential(
        *pad, nn.Conv2d(before, after, size, stride), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)
    )


class Level(nn.Module):
    """A level of the net, written plainly."""

    def __init__(self, net: SkipNet, level: int, before: int) -> None:
        super().__init__()
        down, up, skip = net.down[level], net.up[level], net.skip[level]
        last = level + 1 == len(net.down)
        self.skip = layer(before, skip, 1) if skip else None
        inner = [] if last else [Level(net, level + 1, down)]
        self.deep = nn.Sequential(
            layer(before, down, 3, 2),
            layer(down, down, 3),
            *inner,
            nn.Upsample(scale_factor=2, mode=net.upsampling),
        )
        joined = skip + (down if last else net.num_outputs_of(level + 1))
        self.tail = nn.Sequential(
            nn.BatchNorm2d(joined), layer(joined, up, 3), layer(up, net.num_outputs_of(level), 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        deep = self.deep(x)
        return self.tail(deep if self.skip is None else torch.cat([self.skip(x), deep], 1))


class Usual:
    """The same net of plain modules, Adam, and the average of its images."""

    def __init__(self, net: SkipNet, z: torch.Tensor, y: torch.Tensor) -> None:
        self.net = nn.Sequential(
            Level(net, 0, net.num_inputs),
            nn.Conv2d(net.num_outputs_of(0), len(y[0]), 1),
            nn.Sigmoid(),
        )
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.01)
        self.z, self.y, self.average = z, y, None

    def step(self) -> None:
        self.optimizer.zero_grad()
        image = self.net(self.z + torch.randn_like(self.z) / 30)
        (image - self.y).square().mean().backward()
        self.optimizer.step()
        image = image.detach()
        first = self.average is None
        self.average = image.clone() if first else 0.99 * self.average + 0.01 * image


def begin(
    y: torch.Tensor, net: str = "fast", **options: object
) -> tuple[EarlyStoppingChain, tuple, Usual]:
    """One run of ours and the usual code, on one image ``(1, channels, height, width)``."""
    model = zoo.DeepImagePrior(y.shape[1:], net=net, prior_scale=None, clipped=True)
    data = (y, torch.full((1,), SIGMA))
    chain = EarlyStoppingChain(0, model, options=zoo.EarlyStopping(10**4, **options))
    chain.begin(model.as_rows(data), 0)
    torch.manual_seed(0)
    return chain, data, Usual(model.net, model.z, y)


def speed(quick: bool) -> None:
    """CPU milliseconds of a step, with the noise on the input and the average, in turn."""
    found: dict = {}
    for name in ("fast",) if quick else ("fast", "paper"):
        y = torch.rand(1, 3, 128, 128)
        adam, data, usual = begin(y, name, rule="none", optimizer="adam")
        muon, _, _ = begin(y, name, rule="none")
        steps = {
            "ours, Adam": functools.partial(adam.step, data, 0),
            "ours, Muon": functools.partial(muon.step, data, 0),
            "plain modules, Adam": usual.step,
        }
        took: dict[str, list[float]] = {key: [] for key in steps}
        for _ in range(4 if quick or name == "paper" else 40):
            for key, step in steps.items():
                began = time.process_time()
                step()
                took[key].append(time.process_time() - began)
        least = {k: round(1e3 * min(v[1:]), 1) for k, v in took.items()}
        middle = {k: float(np.median(v[1:])) for k, v in took.items()}
        found[name] = least | {
            "plain over ours, both Adam": round(
                least["plain modules, Adam"] / least["ours, Adam"], 2
            ),
            "of medians": round(middle["plain modules, Adam"] / middle["ours, Adam"], 2),
            "bfloat16": has_fast_bfloat16(),
            "programs that ran beside, for each core": round(
                max(0.0, os.getloadavg()[0] - 1) / (os.cpu_count() or 1), 1
            ),
        }
        keep({"speed, ms a step at 128 x 128": found})


def whole_run(quick: bool) -> None:
    """One run on the F16 crop to the default stop, beside the usual code to its best point."""
    x = picture("dip/F16_GT.png")[180:308, 180:308]
    y, truth = (t.movedim(-1, 0)[None].contiguous() for t in (add_noise(x), x))
    run, data, usual = begin(y)
    began = time.process_time()
    while run.stopped is None and not (quick and run.count > 10):
        run.step(data, chain_seed(0, 0, run.count))
    ours = time.process_time() - began
    reached, psnrs, began = None, [], time.process_time()
    while len(psnrs) < (10 if quick else 2000):
        usual.step()
        psnrs.append(psnr(usual.average, truth))
        if reached is None and psnrs[-1] >= psnr(run.kept, truth):
            reached = time.process_time() - began
    best = int(np.argmax(psnrs))
    took = time.process_time() - began
    keep(
        {
            "one run, F16 crop": {
                "ours": {
                    "steps": run.count,
                    "CPU seconds": round(ours, 1),
                    "psnr where it stops": round(psnr(run.kept, truth), 2),
                },
                "plain modules, Adam": {
                    "best psnr": round(psnrs[best], 2),
                    "at step": best,
                    "CPU seconds to there": round(took * (best + 1) / len(psnrs), 1),
                    "CPU seconds to our psnr": reached and round(reached, 1),
                },
            }
        }
    )


def tasks(quick: bool, only: str = "") -> None:
    """Other operators, beside EPLL and what one would start from."""
    side = 64 if quick else 128
    x = picture("set5/butterfly_GT.bmp")[80 : 80 + side, 80 : 80 + side]
    random, found = torch.Generator().manual_seed(0), {}
    channels = x.movedim(-1, 0)
    seen = torch.rand(x.shape[:2], generator=random) > 0.5
    cases = {
        "inpaint 50 %": (Mask(seen), 0.0, 500),
        "super-resolution x2, means": (Downsample(2), 1 / 255, 500),
        "super-resolution x4, means": (Downsample(4), 1 / 255, 500),
        "super-resolution x2, lanczos": (Lanczos(2), 1 / 255, 500),
        # a blur hides what is fine: it comes long after the rest
        "deblur 5 x 5": (Blur(torch.ones(5, 5)), 0.01, 1500),
    }
    key = f"tasks, {side} x {side}"
    if RESULTS.exists():
        found = json.loads(RESULTS.read_text()).get(key, {})
    for name, (operator, sigma, steps) in list(cases.items())[: 1 if quick else None]:
        if only not in name:
            continue
        y = operator(channels)
        y = (y + sigma * torch.randn(y.shape, generator=random)).movedim(0, -1)
        steps = 20 if quick else steps
        began = time.process_time()
        done = zoo.restore(y, operator, sigma, method="dip", steps=steps, progress=False)
        took = time.process_time() - began
        start = operator.first_guess(y.movedim(-1, 0)).movedim(0, -1)
        images = done.fit.solution.state_tensors["images"][:, 0]
        found[name] = {
            "dip": round(psnr(done.image, x), 2),
            "each run": [round(psnr(i.movedim(0, -1), x), 2) for i in images],
            "start": round(psnr(start.clamp(0, 1), x), 2),
            "steps": list(done.fit.solution.steps),
            "CPU seconds": round(took, 1),
        }
        if name != "super-resolution x2, lanczos":
            restored = zoo.restore(y, operator, sigma, progress=False).image
            found[name]["epll"] = round(psnr(restored, x), 2)
        keep({key: found})


def density(quick: bool, methods: tuple[str, ...] = ("dip-normal", "dip-langevin")) -> None:
    """Pixel sd against the error, on images that set no constant."""
    for method in methods:
        rows, squares = {}, []
        for name, row, column in DENSITY[: 1 if quick else None]:
            x = picture(name)[row : row + 64, column : column + 64]
            began = time.process_time()
            steps = {"steps": 20} if quick else {}
            y = add_noise(x)
            done = zoo.restore(
                y, None, SIGMA, method=method, num_draws=32, progress=False, **steps
            )
            image, sd = (t.reshape(x.shape) for t in (done.image, done.sd))
            error = (image - x).abs()
            squares.append((sd.square().mean(), error.square().mean()))
            rows[name] = {
                "psnr": round(psnr(image, x), 2),
                "rms sd over rms error": round(float((squares[-1][0] / squares[-1][1]).sqrt()), 3),
                "90 % intervals cover": round(float((error < 1.645 * sd).float().mean()), 3),
                "rank correlation of sd and error": round(rank_correlation(sd, error), 3),
                "CPU seconds": round(time.process_time() - began, 1),
            }
            total = torch.tensor(squares).sum(0)
            cover = np.mean([r["90 % intervals cover"] for r in rows.values()])
            found = {
                "pooled rms sd over rms error": round(float((total[0] / total[1]).sqrt()), 3),
                "90 % intervals cover": round(float(cover), 3),
                "images": rows,
            }
            key = "density, 64 x 64"
            before = json.loads(RESULTS.read_text()).get(key, {}) if RESULTS.exists() else {}
            keep({key: before | {method: found}})


def rank_correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Spearman's."""
    ranks = [t.flatten().argsort().argsort().float() for t in (a, b)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def paper(name: str, x: torch.Tensor, operator: object, sigma: float, steps: int) -> dict:
    """Restore with the paper's net; PSNR of all channels, and of the brightness."""
    quick = "--quick" in sys.argv
    x = x[:64, :64] if quick else x
    y = operator(x.movedim(-1, 0)).movedim(0, -1) if operator is not None else add_noise(x)
    net = PRESETS["paper"] if not quick else {"down": (8, 8), "up": (8, 8), "skip": (4, 4)}
    rule = "none" if operator is not None else "discrepancy"
    solver = zoo.EarlyStopping(20 if quick else steps, rule=rule, optimizer="adam")
    done = zoo.restore(y, operator, sigma, method=solver, net=net, progress=False)
    grey = torch.tensor((65.481, 128.553, 24.966)) / 255
    inner = slice(4, -4)
    a, b = (((t[inner, inner] * grey).sum(-1) if t.shape[-1] == 3 else t) for t in (done.image, x))
    out = {"psnr": round(psnr(done.image, x), 2), "brightness": round(psnr(a, b), 2)}
    return {name: out | {"steps": list(done.fit.solution.steps)}}


def gpu_f16(quick: bool) -> None:
    """F16, 512 x 512, as the paper has it: 30.43 dB."""
    keep({"gpu f16": paper("F16", picture("dip/F16_GT.png"), None, SIGMA, 3000)})


def gpu_set5(quick: bool) -> None:
    """Set5 x4: 29.90 dB on average, brightness."""
    found: dict = {}
    for name in ("baby", "bird", "butterfly", "head", "woman"):
        x = picture(f"set5/{name}_GT.bmp")
        x = x[: x.shape[0] // 32 * 32, : x.shape[1] // 32 * 32]
        found |= paper(name, x, Lanczos(4), 0.0, 2000)
        keep({"gpu set5 x4": found})


def gpu_barbara(quick: bool) -> None:
    """Barbara with half of the pixels: 32.22 dB."""
    x = picture("dip/barbara.png")
    side = 64 if quick else None
    x = x[:side, :side]
    seen = torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(0)) > 0.5
    keep({"gpu barbara": paper("barbara", x, Mask(seen), 0.0, 11000)})


PARTS = {
    "f16": f16,
    "stopping": stopping,
    "speed": speed,
    "run": whole_run,
    "tasks": tasks,
    "tasks-deblur": functools.partial(tasks, only="deblur"),
    "density": density,
    "density-normal": functools.partial(density, methods=("dip-normal",)),
    "density-langevin": functools.partial(density, methods=("dip-langevin",)),
    "gpu-f16": gpu_f16,
    "gpu-set5": gpu_set5,
    "gpu-barbara": gpu_barbara,
}


def main() -> None:
    """Run the parts asked for; those for a GPU only where they are named."""
    names = [a for a in sys.argv[1:] if a in PARTS]
    for name in names or [n for n in PARTS if not n.startswith(("gpu", "density-", "tasks-"))]:
        PARTS[name]("--quick" in sys.argv)


if __name__ == "__main__":
    main()
