"""Deep image prior: where it stops by itself, how fast a step is, and how sure it is.

    PPL_ZOO_DATA=... OMP_NUM_THREADS=1 python benchmarks/deep_image_prior.py [--quick] [PART ...]

Parts: "f16", the crop [180:308, 180:308] of the image in `images/dip`, noise of 25 grey levels,
clipped, five seeds; "stopping", the default rule on six other images, whose truth shows what the
best point would have been; "speed", a step beside the same net written as modules, in turn;
"tasks", other operators; "density", pixel sd against the error ("density-normal" and
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
from ppl_zoo.imaging import Blur, Downsample, Lanczos, Mask, psnr, read_image
from ppl_zoo.models.images.skip_net import PRESETS, SkipNet
from ppl_zoo.solvers.early_stopping_run import Run, View
from ppl_zoo.solvers.solution import chain_seed
from ppl_zoo.solvers.stopping_rules import WindowedVariance

RESULTS = Path(__file__).parent / "results" / "deep_image_prior.json"
SIGMA = 25 / 255
#: files, and the corner of a crop of 64 x 64; no constant was chosen on them
OTHERS = (
    ("set5/butterfly_GT.bmp", 80, 80),
    ("set5/bird_GT.bmp", 60, 60),
    ("set5/woman_GT.bmp", 30, 60),
    ("dip/barbara.png", 300, 300),
    ("set12/02.png", 80, 80),
    ("set12/04.png", 80, 80),
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


def curves(
    x: torch.Tensor, y: torch.Tensor, steps: int, rule: str, seed: int = 0
) -> dict[str, np.ndarray]:
    """Run beyond every stop; PSNR of the average, excess, variance and held-out loss by step."""
    truth, data = x.movedim(-1, 0)[None], y.movedim(-1, 0)[None]
    model = zoo.DeepImagePrior(data.shape[1:], prior_scale=None, clipped=True)
    rows = model.as_rows((data, torch.full((1,), SIGMA)))
    options = zoo.EarlyStopping(steps, rule=rule, margin=1.0, patience=steps, truth=truth)
    run = Run(0, model, options=options, truth=truth)
    run.begin(rows, seed)
    window, out = WindowedVariance(steps), {"variance": [], "excess": []}
    view = View(model, rows.all(), run.shown)
    while run.stopped is None:
        run.step(rows.all(), chain_seed(seed, 0, run.count))
        out["variance"].append(window.score(run.output, run.average, view))
        out["excess"].append(view.excess(run.average) if run.count % 10 == 1 else np.nan)
        if run.count > 600 and run.psnr[-1] < max(run.psnr) - 0.4:
            break
    return {k: np.array(v) for k, v in (out | {"psnr": run.psnr, "scores": run.scores}).items()}


def stopping(quick: bool) -> None:
    """Where rules stop, against the best point of the same run."""
    found: dict = {}
    for name, row, column in OTHERS[: 1 if quick else None]:
        x = picture(name)[row : row + 64, column : column + 64]
        steps = 120 if quick else 2000
        c = curves(x, add_noise(x), steps, "discrepancy")
        best = float(c["psnr"].max())
        reached = np.flatnonzero(c["excess"] <= -zoo.EarlyStopping().margin)
        stop = int(reached[0]) if len(reached) else len(c["psnr"]) - 1
        least = int(np.nanargmin(c["variance"]))
        found[name] = {
            "best psnr": round(best, 3),
            "at step": int(c["psnr"].argmax()),
            "default stops at": stop,
            "default less best": round(float(c["psnr"][stop]) - best, 3),
            "excess at best": round(float(c["excess"][10 * (int(c["psnr"].argmax()) // 10)]), 3),
            "windowed variance is least at": least,
            "there less best": round(float(c["psnr"][least]) - best, 3),
        }
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
        joined = skip + (down if last else net._handed(level + 1))
        self.tail = nn.Sequential(
            nn.BatchNorm2d(joined), layer(joined, up, 3), layer(up, net._handed(level), 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        deep = self.deep(x)
        return self.tail(deep if self.skip is None else torch.cat([self.skip(x), deep], 1))


def speed(quick: bool) -> None:
    """CPU milliseconds of a step, with the noise on the input and Adam, in turn."""
    found: dict = {}
    for name in ("fast",) if quick else ("fast", "paper"):
        net, side = SkipNet(**PRESETS[name]), 128
        y = torch.rand(1, 3, side, side)
        model = zoo.DeepImagePrior((3, side, side), net=name, prior_scale=None)
        data = (y, torch.full((1,), SIGMA))
        rows = model.as_rows(data)
        run = Run(0, model, options=zoo.EarlyStopping(10**6, rule="none"))
        run.begin(rows, 0)
        plain = nn.Sequential(
            Level(net, 0, net.num_inputs), nn.Conv2d(net._handed(0), 3, 1), nn.Sigmoid()
        )
        optimizer = torch.optim.Adam(plain.parameters(), lr=0.01)

        def ours(run: Run = run, data: tuple = data) -> None:
            run.step(data, 0)

        def theirs(plain=plain, optimizer=optimizer, y=y, z=model.z, out=[None]) -> None:  # noqa: B006
            optimizer.zero_grad()
            image = plain(z + torch.randn_like(z) / 30)
            (image - y).square().mean().backward()
            optimizer.step()
            image = image.detach()
            out[0] = image.clone() if out[0] is None else 0.99 * out[0] + 0.01 * image

        took: dict[str, list[float]] = {"ours": [], "plain modules": []}
        for _ in range(4 if quick or name == "paper" else 40):
            for key, step in (("ours", ours), ("plain modules", theirs)):
                began = time.process_time()
                step()
                took[key].append(time.process_time() - began)
        ms = {k: round(1e3 * min(v[1:]), 1) for k, v in took.items()}
        middle = {k: float(np.median(v[1:])) for k, v in took.items()}
        found[name] = ms | {
            "ratio": round(ms["plain modules"] / ms["ours"], 2),
            "ratio of medians": round(middle["plain modules"] / middle["ours"], 2),
            "programs that ran beside, for each core": round(
                max(0.0, os.getloadavg()[0] - 1) / (os.cpu_count() or 1), 1
            ),
        }
        keep({"speed, ms a step at 128 x 128": found})


def tasks(quick: bool) -> None:
    """Other operators, beside EPLL and what one would start from."""
    x = picture("set5/butterfly_GT.bmp")[80:144, 80:144]
    random, found = torch.Generator().manual_seed(0), {}
    channels = x.movedim(-1, 0)
    seen = torch.rand(x.shape[:2], generator=random) > 0.5
    kernel = torch.ones(5, 5)
    cases = {
        "inpaint 50 %": (Mask(seen), 0.0),
        "super-resolution x2, means": (Downsample(2), 1 / 255),
        "super-resolution x4, means": (Downsample(4), 1 / 255),
        "super-resolution x2, lanczos": (Lanczos(2), 1 / 255),
        "deblur 5 x 5": (Blur(kernel), 0.01),
    }
    for name, (operator, sigma) in list(cases.items())[: 1 if quick else None]:
        y = operator(channels)
        y = (y + sigma * torch.randn(y.shape, generator=random)).movedim(0, -1)
        options = {"method": "dip", "steps": 20 if quick else 800, "progress": False}
        options["method"] = zoo.EarlyStopping(options.pop("steps"), rule="held-out", patience=200)
        began = time.process_time()
        done = zoo.restore(y, operator, sigma, **options)
        took = time.process_time() - began
        start = operator.first_guess(y.movedim(-1, 0)).movedim(0, -1)
        found[name] = {
            "dip": round(psnr(done.image, x), 2),
            "start": round(psnr(start.clamp(0, 1), x), 2),
            "steps": list(done.fit.solution.steps),
            "CPU seconds": round(took, 1),
        }
        if name != "super-resolution x2, lanczos":
            restored = zoo.restore(y, operator, sigma, progress=False).image
            found[name]["epll"] = round(psnr(restored, x), 2)
        keep({"tasks": found})


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
    solver = zoo.EarlyStopping(20 if quick else steps, rule=rule)
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
    "tasks": tasks,
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
    for name in names or [n for n in PARTS if not n.startswith(("gpu", "density-"))]:
        PARTS[name]("--quick" in sys.argv)


if __name__ == "__main__":
    main()
