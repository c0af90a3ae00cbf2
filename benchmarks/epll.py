"""Restoring photographs by EPLL: quality on test images, and speed against a plain loop.

    PPL_ZOO_DATA=... OMP_NUM_THREADS=1 python benchmarks/epll.py [--quick] [--parts speed ...]

Denoising of the images in `images/bsd68_12` and `images/set12` with the shipped prior; "exact"
chooses components by all products of coefficients, on the same patches as "best", and "one scale"
looks at the image in its own size alone. The plain loop is the published algorithm with
the same prior: every patch, one component after the other. Then deblurring under the protocol of
the authors' code, inpainting and up-scaling, and the calibration of posterior standard
deviations. Peers that are not installed are left out. Times are CPU seconds of one thread. Each
part is written as soon as it is there.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

import ppl_zoo as zoo
from ppl_zoo.imaging import Blur, Downsample, Identity, Mask, PatchGrid, psnr, read_image
from ppl_zoo.models.images.patch_mixture import PatchMixture
from ppl_zoo.restoration.half_quadratic import QUALITIES, Schedule, split
from ppl_zoo.restoration.split_gibbs import fit_power_law, local_sd

RESULTS = Path(__file__).parent / "results" / "epll.json"
CROP = 192
PUBLISHED = {"set12": {15: 32.14, 25: 29.69, 50: 26.47}}
LEVELS = (15, 25, 50)
WAYS = {name: Schedule(**QUALITIES[name]) for name in ("best", "fast", "fastest")}


def keep(found: dict) -> None:
    """Write results; what other parts left there stays. A trial writes nothing."""
    if "--quick" in sys.argv:
        return
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    versions = {name: version(name) for name in ("torch", "numpy")}
    record["versions"] = versions | {"python": platform.python_version()}
    RESULTS.write_text(json.dumps(record | found, indent=1, default=float) + "\n")


def images(name: str, most: int) -> list[torch.Tensor]:
    """Read grey images of a folder: the first ones, or every so-manieth of many."""
    folder = Path(os.environ["PPL_ZOO_DATA"]) / "images" / name
    paths = sorted([*folder.glob("*.png"), *folder.glob("*.jpg")])
    paths = paths[:: max(1, len(paths) // most)] if len(paths) > 12 else paths
    return [read_image(path, grey=True) for path in paths[:most]]


def add_noise(x: torch.Tensor, sd: float, seed: int) -> torch.Tensor:
    """Add white Gaussian noise, neither clipped nor quantised."""
    return x + sd * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


def timed(function: object) -> tuple[torch.Tensor, float]:
    """Return a result and its CPU seconds."""
    began = time.process_time()
    result = function()
    return result, time.process_time() - began


def denoise(y: torch.Tensor, sd: float, mixture: PatchMixture, schedule: Schedule) -> torch.Tensor:
    """Run a schedule."""

    def data_step(average: torch.Tensor, pull: float) -> torch.Tensor:
        return Identity().fit(y, sd**-2, average, pull)

    variances = [sd**2 / beta for beta in schedule.betas]
    return split(y, mixture, data_step, variances, schedule).clamp(0, 1)


def plain_loop(
    y: torch.Tensor,
    sd: float,
    mixture: PatchMixture,
    betas: tuple[float, ...] = (1.0, 4.0, 8.0, 16.0, 32.0),
) -> torch.Tensor:
    """Run the published algorithm as it is written: Cholesky factors, one component at a time."""
    grid, x = PatchGrid(tuple(y.shape)), y
    basis = zoo.imaging.cosine_basis(8)[1:]
    for beta in betas:
        patches = grid.extract(x)
        mean = patches.mean(1, keepdim=True)
        code = (patches - mean) @ basis.T
        noisy = mixture.covariances + sd**2 / beta * torch.eye(63)
        factors = torch.linalg.cholesky(noisy)
        best = torch.full((len(code),), -torch.inf)
        component = torch.zeros(len(code), dtype=torch.long)
        for k, factor in enumerate(factors.float()):
            white = torch.linalg.solve_triangular(factor, code.T, upper=False)
            score = mixture.weights[k].log().float() - factor.diagonal().log().sum()
            score = score - 0.5 * white.square().sum(0)
            component = torch.where(score > best, k, component)
            best = torch.maximum(score, best)
        out = torch.empty_like(code)
        for k in component.unique().tolist():
            rows = component == k
            gain = torch.linalg.solve(noisy[k], mixture.covariances[k]).float()
            out[rows] = code[rows] @ gain
        x = (y + beta * grid.average(out @ basis + mean)) / (1 + beta)
    return x.clamp(0, 1)


def denoising(
    mixture: PatchMixture, most: int, rows: list[str] | None, names: list[str] | None
) -> dict:
    """PSNR by folder, noise level and way; rows that were not asked for stay as they are."""
    ways = {
        **WAYS,
        "exact": Schedule(**(QUALITIES["best"] | {"block": None})),
        "one scale": Schedule(**(QUALITIES["best"] | {"scales": 1})),
    }
    ways = {name: way for name, way in ways.items() if names is None or name in names}
    out: dict = {}
    if rows is not None and RESULTS.exists():
        out |= json.loads(RESULTS.read_text()).get("denoising", {})
    for folder in ("set12", "bsd68_12"):
        for level in LEVELS:
            if rows is not None and f"{folder} {level}" not in rows:
                continue
            values: dict[str, list] = {name: [] for name in ways}
            for name, schedule in ways.items():
                for index, x in enumerate(images(folder, most)):
                    y = add_noise(x, level / 255, index)
                    restored = denoise(y, level / 255, mixture, schedule)
                    values[name].append(psnr(restored, x))
            row: dict = {name: round(float(np.mean(found)), 3) for name, found in values.items()}
            for name, other in (("best", "exact"), ("fastest", "best")):
                if {name, other} <= set(values):
                    less = np.array(values[name]) - values[other]
                    row[f"{name} less {other}, each"] = less.round(3).tolist()
            if most >= 12:
                row["published"] = PUBLISHED.get(folder, {}).get(level)
            out[f"{folder} {level}"] = row
            print(folder, level, row, flush=True)
            keep({"denoising": out})
    return out


def speed(mixture: PatchMixture) -> dict:
    """CPU seconds at 481 x 321, warm, side by side with the plain loop."""
    x = images("bsd68_12", 1)[0]
    y, out = add_noise(x, 25 / 255, 0), {}
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(25):  # in turn, so that all meet the same machine
        for name, schedule in WAYS.items():
            restored, took = timed(lambda s=schedule: denoise(y, 25 / 255, mixture, s))
            seconds[name].append(took)
            out[f"{name} psnr"] = round(psnr(restored, x), 3)
    out |= {name: round(min(took[1:]), 3) for name, took in seconds.items()}
    # its five levels cost the same
    took = 5.0 * timed(lambda: plain_loop(y, 25 / 255, mixture, (1.0,)))[1]
    out["plain loop, five times one level"] = round(took, 2)
    out["ratios"] = {name: round(took / out[name], 1) for name in WAYS}
    print(out, flush=True)
    return out


def by_bm3d(y: torch.Tensor, sd: float, mixture: PatchMixture) -> torch.Tensor:
    """Denoise by the authors' program, from PyPI."""
    import bm3d

    return torch.from_numpy(np.asarray(bm3d.bm3d(y.numpy(), sd))).float().clamp(0, 1)


def by_deepinv(y: torch.Tensor, sd: float, mixture: PatchMixture) -> torch.Tensor:
    """Denoise by deepinv's EPLL with the same prior; the mean of a patch all but free."""
    from deepinv.optim.epll import EPLL
    from deepinv.optim.utils import GaussianMixtureModel
    from deepinv.physics import Denoising, GaussianNoise

    peer = GaussianMixtureModel(len(mixture.weights), 64)
    basis = zoo.imaging.cosine_basis(8, dtype=torch.float64)
    covariance = torch.nn.functional.pad(mixture.covariances, (1, 0, 1, 0))
    covariance[:, 0, 0] = 100.0
    peer.set_cov((basis.mT @ covariance @ basis).float())
    peer.set_weights(mixture.weights.float())
    solve = EPLL(peer, pretrained=None, patch_size=8)
    with torch.no_grad():
        found = solve(y[None, None], Denoising(GaussianNoise(sd)), sigma=sd, batch_size=4000)
    return found[0, 0].clamp(0, 1)


def peers(mixture: PatchMixture, most: int, size: int = 128) -> dict:
    """PSNR and CPU seconds on the middles of images at sigma 25, beside programs of others."""
    sd, ways = 25 / 255, {"best": lambda y, sd, m: denoise(y, sd, m, WAYS["best"])}
    ways |= {"fastest": lambda y, sd, m: denoise(y, sd, m, WAYS["fastest"])}
    ways |= {"plain loop": plain_loop}
    ways |= {n: way for n, way in (("deepinv", by_deepinv), ("bm3d", by_bm3d)) if has(n)}
    out: dict = {"images": most, "pixels": [size, size]}
    for seed, x in enumerate(images("bsd68_12", most)):
        top, left = (x.shape[0] - size) // 2, (x.shape[1] - size) // 2
        x = x[top : top + size, left : left + size].contiguous()
        y = add_noise(x, sd, seed)
        for schedule in WAYS.values():  # constants of the noise level are there
            denoise(y, sd, mixture, schedule)
        for name, way in ways.items():
            restored, took = timed(lambda w=way, y=y: w(y, sd, mixture))
            found = out.setdefault(name, {"psnr": [], "seconds": []})
            found["psnr"].append(round(psnr(restored, x), 3))
            found["seconds"].append(round(took, 3))
    return out


def has(name: str) -> bool:
    """Whether a peer is installed, and can be imported."""
    try:
        importlib.import_module(name)
    except (ImportError, RuntimeError):  # torchvision beside another build of torch
        return False
    return True


def taper(y: torch.Tensor, blur: Blur) -> torch.Tensor:
    """Blend the border into a circular blur of itself, for a circular step on valid data."""
    out, circular = y, Blur(blur.kernel, "circular")
    fade = []
    for dim, length in ((1, y.shape[0]), (0, y.shape[1])):
        power = torch.fft.fft(blur.kernel.sum(dim), length - 1).abs().square()
        line = torch.fft.ifft(power).real
        fade.append(1 - torch.cat([line, line[:1]]) / line.max())
    weight = (fade[0][:, None] * fade[1]).to(y)
    for _ in range(4):
        out = weight * out + (1 - weight) * circular(out)
    return out


def cubic(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Interpolate seen pixels by a piecewise cubic over triangles."""
    from scipy.interpolate import griddata

    places = np.argwhere(np.ones(x.shape))
    seen = mask.numpy().ravel()
    value = griddata(places[seen], x.numpy().ravel()[seen], places, method="cubic")
    value = torch.from_numpy(value.reshape(x.shape)).float()
    return torch.where(value.isnan(), x[mask].mean(), value).clamp(0, 1)


def other_tasks(most: int) -> dict:
    """Deblurring, inpainting and up-scaling, with what scikit-image and scipy do of the last."""
    from skimage.restoration import inpaint_biharmonic

    folder = Path(os.environ["PPL_ZOO_DATA"]) / "images" / "kernels"
    kernels = np.load(folder / "levin09.npz")
    values: dict[str, list[float]] = {}

    def note(name: str, image: torch.Tensor, x: torch.Tensor) -> None:
        values.setdefault(name, []).append(psnr(image, x))

    for seed, x in enumerate(images("bsd68_12", most)):
        random = torch.Generator().manual_seed(seed)
        for name in ("kernel1", "kernel2"):
            kernel = torch.from_numpy(np.asarray(kernels[name])).float()
            side = f"deblur {kernel.shape[0]}x{kernel.shape[1]}"
            blur, around = Blur(kernel), Blur(kernel, "circular")
            y = add_noise(blur(x), 0.01, seed).mul(255).round().clamp(0, 255) / 255
            note(f"{side}, valid step", zoo.restore(y, blur, 0.01, progress=False).image, x)
            wide = taper(blur.first_guess(y), blur).clamp(0, 1)
            restored = zoo.restore(wide, around, 0.01, progress=False).image
            note(f"{side}, circular step on tapered data", restored, x)
            note(f"{side}, unrestored", blur.first_guess(y), x)
        for missing in (0.5, 0.8):
            mask = torch.rand(x.shape, generator=random) > missing
            restored = zoo.restore(x * mask, Mask(mask), 0.0, progress=False).image
            note(f"inpaint {missing}", restored, x)
            note(f"inpaint {missing} cubic", cubic(x, mask), x)
            peer = inpaint_biharmonic((x * mask).numpy(), (~mask).numpy())
            note(f"inpaint {missing} biharmonic", torch.from_numpy(peer), x)
        even = x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2]
        half = Downsample(2)
        y = half(even).mul(255).round() / 255
        note("up-scale 2", zoo.restore(y, half, 1 / 255, progress=False).image, even)
        note("up-scale 2 bicubic", half.first_guess(y).clamp(0, 1), even)
        print(seed, {name: round(v[-1], 2) for name, v in values.items()}, flush=True)
    return {"images": most} | {name: round(float(np.mean(v)), 2) for name, v in values.items()}


def posterior(most: int) -> dict:
    """Calibration of the pixel sd on the middles of test images; no constant comes of them."""
    out: dict = {"images": most, "pixels": [CROP, CROP]}
    for level in LEVELS:
        rows = []
        for seed, x in enumerate(images("bsd68_12", most)):
            top, left = (x.shape[0] - CROP) // 2, (x.shape[1] - CROP) // 2
            x = x[top : top + CROP, left : left + CROP]
            y, sd = add_noise(x, level / 255, seed), level / 255
            options = {"sigma": sd, "method": "posterior", "num_draws": 16, "progress": False}
            done = zoo.restore(y, None, seed=seed, **options)
            mode = zoo.restore(y, None, sd, progress=False).image
            error = (done.image - x).square()
            inside = (error.sqrt() < 1.6449 * done.sd).float().mean()
            draws = done.fit.posterior(8)["image"].flatten(0, 2)
            spread = draws.var(0).mean()
            rows.append(
                (
                    psnr(done.image, x) - psnr(mode, x),
                    float((done.sd.square().mean() / error.mean()).sqrt()),
                    float(inside),
                    float((spread / error.mean()).sqrt()),
                )
            )
        names = ("psnr over map", "sd over error", "90 % intervals cover", "draws over error")
        out[level] = {n: round(float(v), 3) for n, v in zip(names, np.mean(rows, 0), strict=True)}
        print(level, out[level], flush=True)
    return out


def behind_operators(folder: str, most: int, size: int, tempering: float | None) -> dict:
    """Spread of split Gibbs' draws against the error of the mode, on the middles of images.

    "pooled" is the root of the mean variance over that of the mean squared error of all images;
    "each" are the ratios of single images. With ``tempering`` 1 the draws are as they come, and
    the power law that brings them to the error is fitted.
    """
    kernels = np.load(Path(os.environ["PPL_ZOO_DATA"]) / "images" / "kernels" / "levin09.npz")
    kernel = torch.from_numpy(np.asarray(kernels["kernel1"])).float()
    num_draws = 16
    out: dict = {"images": most, "pixels": [size, size], "draws": num_draws}
    for task in ("deblur", "inpaint", "up-scale"):
        rows, pixels = [], []
        for seed, x in enumerate(images(folder, most)):
            top, left = (x.shape[0] - size) // 2, (x.shape[1] - size) // 2
            x = x[top : top + size, left : left + size]
            seen = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) > 0.5
            operator, sd = {
                "deblur": (Blur(kernel), 0.01),
                "inpaint": (Mask(seen), 0.01),
                "up-scale": (Downsample(2), 1 / 255),
            }[task]
            y = add_noise(operator(x), sd, seed)
            solver = zoo.SplitGibbs(num_samples=num_draws, tempering=tempering)
            model = zoo.EPLL.of(zoo.load("gmm200-patches"), operator)
            fit = zoo.fit(model, (y[None], torch.tensor([sd])), solver, seed=seed, progress=False)
            mean, spread = (fit.solution.state_tensors[name][0] for name in ("mean", "sd"))
            mode = zoo.restore(y, operator, sd, progress=False).image
            error, off = (mean - x).square(), (mode - x).square().mean()
            inside = (error.sqrt() < 1.6449 * spread).float()
            parts = (seen, ~seen) if task == "inpaint" else (seen | True,)
            covers = [float(inside[part].mean()) for part in parts]
            values = error.mean(), spread.square().mean(), inside.mean(), off
            rows.append([*(float(v) for v in values), *covers])
            local = [local_sd(spread, part)[part] for part in parts]
            pixels.append([(error.sqrt()[p], s) for p, s in zip(parts, local, strict=True)])
        error, variance, inside, off, *covers = np.array(rows).T
        out[task] = {
            "psnr over map": round(float(np.mean(10 * np.log10(off / error))), 3),
            "sd over error, pooled": round(float(np.sqrt(variance.mean() / error.mean())), 3),
            "sd over error, each": np.sqrt(variance / error).round(2).tolist(),
            "90 % intervals cover": round(float(inside.mean()), 3),
            "90 % intervals cover, each": inside.round(3).tolist(),
        }
        if task == "inpaint":
            names = ("seen pixels", "missing pixels")
            out[task]["90 % intervals cover, by kind"] = {
                n: round(float(v.mean()), 3) for n, v in zip(names, covers, strict=True)
            }
        if tempering is not None:
            *seen_pixels, (errors, spreads) = (
                tuple(torch.cat(t) for t in zip(*part, strict=True))
                for part in zip(*pixels, strict=True)
            )
            fitted = fit_power_law(errors, spreads)
            out[task]["law"] = {name: round(v, 2) for name, v in fitted._asdict().items()}
            for e, s_ in seen_pixels:
                out[task]["gain of seen pixels"] = round(float(e.norm() / s_.norm()), 2)
        print(task, out[task], flush=True)
    return out


def large(height: int = 4000, width: int = 6000) -> dict:
    """Denoise a colour photograph of 24 megapixels, a mosaic, in a process of its own."""
    command = [sys.executable, __file__, "--large", str(height), str(width)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])


def large_here(height: int, width: int) -> dict:
    """Denoise a mosaic of training photographs, and see how much memory that takes."""
    folder = Path(os.environ["PPL_ZOO_DATA"]) / "images" / "bsds300_train_jpg"
    rows, paths = [], itertools.cycle(sorted(folder.glob("*.jpg")))
    parts = (p for p in map(read_image, paths) if p.shape[0] < p.shape[1])
    while sum(len(row) for row in rows) < height:
        row = [next(parts) for _ in range(-(-width // 481))]
        rows.append(torch.cat(row, 1)[:, :width])
    x = torch.cat(rows)[:height].contiguous()
    del rows
    y = add_noise(x, 25 / 255, 0)
    zoo.load("gmm200-patches")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done, took = timed(lambda: zoo.restore(y, None, 25 / 255, quality="fast", progress=False))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "megapixels": round(x.shape[0] * x.shape[1] / 1e6, 1),
        "channels": 3,
        "quality": "fast",
        "psnr": round(psnr(done.image, x), 2),
        "cpu seconds": round(took, 1),
        "image, MB": round(x.numel() * 4 / 2**20),
        "peak memory before, MB": round(before / 1024),
        "peak memory, MB": round(after / 1024),
    }


def megapixel(mixture: PatchMixture) -> dict:
    """Seconds for a megapixel on a GPU, warm; a sixteenth of one on a CPU, where there is none.

    The goal, .1 s, is one for a GPU: `python benchmarks/epll.py --parts megapixel`.
    """
    cuda = torch.cuda.is_available()
    device, side = torch.device("cuda" if cuda else "cpu"), 1000 if cuda else 250
    x = images("bsd68_12", 1)[0].repeat(3, 4)[:side, :side].contiguous()
    y, prior = add_noise(x, 25 / 255, 0).to(device), mixture.to(device)
    out: dict = {"device": device.type, "megapixels": side**2 / 1e6}
    for name, schedule in WAYS.items():
        seconds = []
        for _ in range(4):
            began = time.perf_counter()
            restored = denoise(y, 25 / 255, prior, schedule)
            if cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        out[name] = {"seconds": round(min(seconds), 4), "psnr": round(psnr(restored.cpu(), x), 3)}
    return out


def patches() -> dict:
    """Log likelihood of the shipped prior on the patches of RNADE, in nats.

    RNADE takes off the mean and drops the last pixel: a linear map of the 63 cosine
    coefficients, of determinant 1 / 8.
    """
    x = zoo.data.load("bsds300-patches").test.double()
    whole = torch.cat([x, -x.sum(1, keepdim=True)], 1)
    basis = zoo.imaging.cosine_basis(8, dtype=torch.float64)[1:]
    code, model = (whole @ basis.mT).float(), zoo.load("gmm200-patches")
    nats = torch.cat([model.log_prob(part) for part in code.split(5000)]).double()
    nats = nats - torch.linalg.slogdet(basis.mT[:-1])[1]
    return {
        "rnade coordinates, test": round(float(nats.mean()), 2),
        "standard error": round(float(nats.std() / len(nats) ** 0.5), 2),
        "patches": len(nats),
        "published": 152.8,
    }


def main() -> None:
    """Run all parts and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two images, nothing is written")
    parser.add_argument("--most", type=int, default=12, help="images of a folder")
    parser.add_argument("--parts", nargs="*", help="which parts; all by default")
    parser.add_argument(
        "--rows", nargs="*", help='of denoising, such as "set12 25"; all by default'
    )
    parser.add_argument("--ways", nargs="*", help="of denoising, such as best exact")
    parser.add_argument("--large", type=int, nargs=2, help="for the part of this name alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.large:
        print(json.dumps(large_here(*given.large)))
        return
    most = 2 if given.quick else given.most
    mixture = PatchMixture.of(zoo.load("gmm200-patches"))
    mixture.eigen()
    parts = {
        "patches": patches,
        "speed": lambda: speed(mixture),
        "other": lambda: other_tasks(min(most, 3)),
        "posterior": lambda: posterior(min(most, 6)),
        "tempering": lambda: behind_operators("bsds300_train_jpg", 2 * most, 96, 1.0),
        "operators": lambda: behind_operators("bsd68_12", min(most, 6), 128, None),
        "denoising": lambda: denoising(mixture, most, given.rows, given.ways),
        "peers": lambda: peers(mixture, min(most, 2)),
        "megapixel": lambda: megapixel(mixture),
        "large": lambda: large(400, 600) if given.quick else large(),
    }
    for name in given.parts or parts:
        result = parts[name]()
        print(name, result, flush=True)
        keep({name: result})


if __name__ == "__main__":
    main()
