"""How probable priors find patches of photographs, and how well each takes noise off them.

One run: every prior is trained on the same patches of BSDS300's training images and judged on
patches of its test images and of BSD68's first 12, in RNADE's 63 coordinates. Mixtures of K = 1
to 100 Gaussians give the curve against K; its last point is the prior that the package ships: 200
components, trained by tools/train_patch_prior.py on more patches of the same training images.
Denoising: patches with white noise of 25 grey levels, posterior mean (BLS) and MAP, as the PSNR of
the mean squared error of all patches, and as the mean of the patches' own PSNRs; the mean of a
patch stays as observed.

How far the mixture lies above ICA depends on the patches; the last table of the results has it for
three kinds of them, the last of which is that of 2011.

    PPL_ZOO_DATA=... nice -n 19 python benchmarks/patch_priors.py
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import math
import platform
import time
from importlib.metadata import version
from pathlib import Path

import torch

import ppl_zoo as zoo
from ppl_zoo.imaging import cosine_basis, extract_patches, read_image
from ppl_zoo.models.images import denoise_patches, start_patch_mixture

RESULTS = Path(__file__).parent / "results" / "patch_priors.json"
SIGMA, SEED = 25 / 255, 0
BASIS = cosine_basis(8)[1:]
# from orthonormal coordinates to RNADE's, the first 63 pixels, volume shrinks to an eighth
LOG_VOLUME = math.log(8.0)
# Zoran & Weiss 2011, in their 64 coordinates: log likelihood, BLS and MAP at sigma 25
PAPER = {
    "independent-pixels": (78.3, 25.5, 24.4),
    "gaussian": (91.9, 26.8, 26.8),
    "pca-laplace": (114.2, 28.0, 28.4),
    "ica": (115.9, 28.1, 28.5),
    "gmm200-shipped": (164.5, 30.3, 30.3),
}


NAMES_2011 = {"gaussian": "gaussian", "ica": "ica", "mixture": "gmm200-shipped"}


def to_pixels(x):
    """All 64 pixels of a patch without its mean, from the 63 first."""
    return torch.cat([x, -x.sum(1, keepdim=True)], 1)


def other_patches(count, continuous=True):
    """Patches of 12 images of BSD68, in RNADE's coordinates; grey levels with noise or bare."""
    generator, parts = torch.Generator().manual_seed(SEED), []
    for path in sorted((Path(os.environ["PPL_ZOO_DATA"]) / "images" / "bsd68_12").glob("*.png")):
        patches = extract_patches(255.0 * read_image(path, grey=True))
        chosen = patches[torch.randperm(len(patches), generator=generator)[: count // 12]].round()
        noise = torch.rand(chosen.shape, generator=generator)
        chosen = (chosen + noise) / 256.0 if continuous else chosen / 255.0
        parts.append((chosen - chosen.mean(1, keepdim=True))[:, :63])
    return torch.cat(parts)


def make_priors(ks, steps, x):
    """Priors and their solvers, in the papers' order."""
    yield "independent-pixels", zoo.IndependentPixels(63, 3), zoo.EM(steps=50, tol=1e-2)
    yield "gaussian", zoo.MultivariateGaussian(63), zoo.EM()
    yield "pca-laplace", zoo.PCALaplace(63), zoo.EM()
    yield "ica", zoo.ICA(63), zoo.EM(steps=2 * steps, tol=0.01)
    yield (
        "gaussian-scale-mixture",
        zoo.GaussianScaleMixture(8, 63, zero_mean=True),
        zoo.EM(steps=steps, tol=0.01),
    )
    yield (
        "scale-mixtures-10x4",
        zoo.MixtureOfScaleMixtures(10, 4, 63),
        zoo.EM(steps=steps, tol=0.01),
    )
    for k in ks:
        yield (
            f"gmm{k}",
            start_patch_mixture(x, k, seed=SEED),
            zoo.EM(steps=steps, tol=0.01, initialize=False),
        )


@torch.no_grad()
def judge(name, prior, train, test, other, noisy_rows):
    pixels = name == "independent-pixels"
    log_volume = 0.0 if pixels else LOG_VOLUME
    row = {
        split: round(float(prior.log_prob(x).double().mean()) + log_volume, 2)
        for split, x in (("train", train), ("test", test), ("bsd68_12", other))
        if x is not None
    }
    clean = test[:noisy_rows]
    noise = SIGMA * torch.randn(len(clean), 63, generator=torch.Generator().manual_seed(SEED))
    if pixels:  # the same noise in pixels
        noise = (noise @ BASIS)[:, :63]
    torch.manual_seed(SEED)
    for how in ("bls", "map"):
        error = denoise_patches(prior, clean + noise, SIGMA, how) - clean
        # what is wrong in the mean of a patch, noise that nobody took off, counts too
        total = (error.square().mean(1) * (64.0 if pixels else 63.0) + SIGMA**2) / 64.0
        row[how] = round(float(-10.0 * total.mean().log10()), 2)
        row[f"{how}_by_patch"] = round(float(-10.0 * total.log10().mean()), 2)
    if name in PAPER:
        row["paper"] = dict(zip(("log_likelihood", "bls", "map"), PAPER[name], strict=True))
    return row


@torch.no_grad()
def conventions(given, data, ica, gaussian):
    """How far the shipped mixture lies above ICA, by test patches and what is done to them.

    A 64th coordinate, the mean of a patch, has one density under all priors and drops out of
    differences. Beside the absolute values stands the Gaussian, which says how much there is to
    win on patches of this kind.
    """
    shipped = zoo.load("gmm200-patches")
    tests = {
        "bsds300 test, as RNADE has it": data.test[: given.test_rows],
        "bsd68_12": other_patches(given.test_rows),
        "bsd68_12, bare grey levels as in 2011": other_patches(given.test_rows, False),
    }
    out = {}
    for name, x in tests.items():
        code, found = to_pixels(x) @ BASIS.T, {}
        for title, prior in (("gaussian", gaussian), ("ica", ica), ("mixture", shipped)):
            found[title] = torch.cat([prior.log_prob(c) for c in code.split(4000)]).double()
        gap = found["mixture"] - found["ica"]
        error = float(gap.std() / len(gap) ** 0.5)
        row = {title: round(float(v.mean()) + LOG_VOLUME, 2) for title, v in found.items()}
        row["mixture above ica"] = round(float(gap.mean()), 2)
        out[name] = row | {"standard error": round(error, 2)}
    published = {title: PAPER[name][0] for title, name in NAMES_2011.items()}
    return out | {"paper, 2011": published | {"mixture above ica": 48.6}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=90_000)
    parser.add_argument("--test-rows", type=int, default=20_000)
    parser.add_argument("--noisy-rows", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--components", type=int, nargs="*", default=[1, 2, 5, 10, 20, 50, 100])
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    data = zoo.data.load("bsds300-patches")
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(SEED))
    parts = [data.train[order[: given.rows]], data.test[: given.test_rows]]
    parts.append(other_patches(given.test_rows))
    coordinates = [to_pixels(x) @ BASIS.T for x in parts]
    table, kept = {}, {}
    for name, prior, solver in make_priors(given.components, given.steps, coordinates[0]):
        own = parts if name == "independent-pixels" else coordinates
        begun = time.process_time()
        zoo.fit(prior, own[0], solver, device="cpu", seed=SEED, progress=False)
        seconds = time.process_time() - begun
        kept |= {name: prior} if name in ("gaussian", "ica") else {}
        table[name] = judge(name, prior, *own, given.noisy_rows) | {"cpu_s": round(seconds, 1)}
        print(name, table[name], flush=True)
    shipped = zoo.load("gmm200-patches")
    own = (None, *coordinates[1:])
    table["gmm200-shipped"] = judge("gmm200-shipped", shipped, *own, given.noisy_rows)
    print("gmm200-shipped", table["gmm200-shipped"], flush=True)
    curve = {k: table[f"gmm{k}"]["test"] for k in given.components}
    curve[200] = table["gmm200-shipped"]["test"]
    result = {
        "what": "nats a patch on BSDS300 test images, 63 RNADE coordinates; dB at sigma 25",
        "arguments": {k: v for k, v in vars(given).items() if k != "out"},
        "seed": SEED,
        "priors": table,
        "log_likelihood_against_k": curve,
        "mixture_above_ica": conventions(given, data, kept["ica"], kept["gaussian"]),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "pyro-ppl")},
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print("curve:", curve, "mixture above ICA:", result["mixture_above_ica"])


if __name__ == "__main__":
    main()
