"""Trains the mixture of Gaussians on patches that the package ships, and saves it as it goes.

    PPL_ZOO_DATA=... nice python tools/train_patch_prior.py --out runs/gmm200-patches

Patches of 8x8 pixels come from random places of the 200 training images of BSDS300 in grey,
made continuous by uniform noise below one grey level, in the 63 orthonormal cosine coordinates
that are left without the mean of a patch. The means of the components are held at zero.

EM starts from a division of the patches by their norm and, within equal norms, by the random
patch that they are most parallel to; it runs on a part of the patches first and then on all.
Whenever it is stopped, the file holds the mixture of the last pass; `--start` goes on from it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import ppl_zoo as zoo
from ppl_zoo.imaging.patches import cosine_basis, extract_patches
from ppl_zoo.models.images import start_patch_mixture

SIZE = 8


def grey(path: Path) -> torch.Tensor:
    """Return an image in whole grey levels, with the weights of MATLAB's rgb2gray."""
    rgb = np.asarray(Image.open(path).convert("RGB"), dtype=np.float64)
    return torch.from_numpy(np.round(rgb @ np.array([0.2989, 0.5870, 0.1140]))).float()


def draw_patches(folder: Path, count: int, seed: int) -> torch.Tensor:
    """Draw patches from all images of a folder, ``(count, 63)`` in random order."""
    random = torch.Generator().manual_seed(seed)
    paths = sorted(folder.glob("*.jpg"))
    basis, parts = cosine_basis(SIZE)[1:], []
    for index, path in enumerate(paths):
        share = count * (index + 1) // len(paths) - count * index // len(paths)
        patches = extract_patches(grey(path), SIZE)
        chosen = patches[torch.randperm(len(patches), generator=random)[:share]]
        noisy = (chosen + torch.rand(chosen.shape, generator=random)) / 256.0
        parts.append((noisy - noisy.mean(-1, keepdim=True)) @ basis.T)
    patches = torch.cat(parts)
    return patches[torch.randperm(len(patches), generator=random)]


def restart(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and covariances that :func:`store` wrote."""
    tensors, num_features = load_file(path), SIZE**2 - 1
    weights = tensors["weights"].double()
    factors = torch.zeros(len(weights), num_features, num_features, dtype=torch.float64)
    rows, columns = torch.tril_indices(num_features, num_features)
    factors[:, rows, columns] = tensors["factors"].double()
    return weights / weights.sum(), factors @ factors.mT


def store(mixture: zoo.GaussianMixture, out: Path, record: dict) -> None:
    """Write weights and factors of the covariances, float32, by falling weight, and a log."""
    out.mkdir(parents=True, exist_ok=True)
    order = mixture.weights.argsort(descending=True)
    scale = mixture.scale.detach()[order].cpu()
    rows, columns = torch.tril_indices(scale.shape[-1], scale.shape[-1])
    tensors = {"weights": mixture.weights[order].cpu(), "factors": scale[:, rows, columns]}
    partial = out / "prior.partial"
    save_file({k: v.contiguous().float() for k, v in tensors.items()}, partial)
    partial.replace(out / "prior.safetensors")
    (out / "record.json").write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--components", type=int, default=200)
    parser.add_argument("--stages", default="400000x20,2000000x40", help="patches x iterations")
    parser.add_argument("--start", type=Path, help="a prior.safetensors to go on from")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    stages = [tuple(map(int, stage.split("x"))) for stage in given.stages.split(",")]
    folder = Path(os.environ["PPL_ZOO_DATA"]) / "images" / "bsds300_train_jpg"
    x = draw_patches(folder, max(count for count, _ in stages), given.seed)
    # the division that EM starts from, or a mixture in its place
    mixture = start_patch_mixture(x[: stages[0][0]], given.components, seed=given.seed)
    if given.start is not None:
        weights, covariances = restart(given.start)
        mixture.set_parameters(weights, torch.zeros(given.components, SIZE**2 - 1), covariances)
    history, began = [], time.process_time()
    for count, steps in stages:
        for _ in range(0, steps, 8):
            solver = zoo.EM(steps=min(8, steps), tol=0.0, initialize=False)
            fit = zoo.fit(mixture, x[:count], solver, device="cpu", progress=False)
            history.append([count, fit.objective / count, time.process_time() - began])
            record = {
                "arguments": {
                    k: v.name if isinstance(v, Path) else v for k, v in vars(given).items()
                },
                "objective": history,
            }
            store(mixture, given.out, record)
            print(*history[-1], f"weights {float(mixture.weights.min()):.1e} ..", flush=True)


if __name__ == "__main__":
    main()
