"""The posterior mode of an image by splitting: which levels, for which operator and quality."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ppl_zoo.imaging.operators import Downsample, Identity, LinearOperator, Mask
from ppl_zoo.models.images.patch_mixture import PatchMixture
from ppl_zoo.models.images.splitting import Schedule, split

__all__ = ["LEAST_NOISE", "QUALITIES", "Splitting", "make_schedule"]

#: options of ``Schedule``
QUALITIES: dict[str, dict[str, Any]] = {
    "exact": {"stride": 1, "block": None, "shift": False, "scales": 1},
    "best": {"stride": 3, "scales": 3, "block": 28, "doubt": 4.0, "tolerance": 0.1},
    "fast": {"stride": 4, "scales": 2},
    "fastest": {"stride": 7, "scales": 2, "doubt": 0.0, "betas": (1.0, 4.0, 8.0, 16.0, 32.0)},
}
#: precisions of the ties while missing pixels are found, and how often each
FILLING = ((40.0, 1), (160.0, 2), (640.0, 3), (2560.0, 5), (10240.0, 6))
#: the least sd of noise: data without noise are then fitted to a fourth of a grey level
LEAST_NOISE = 1e-3


@dataclass
class Splitting:
    """An image by channels ``(n, height, width)``, and all that restoring it takes."""

    channels: Tensor
    noise: Tensor
    operator: LinearOperator
    mixture: PatchMixture
    schedule: Schedule
    progress: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the restored image."""
        return self.operator.image_shape(tuple(self.channels.shape[-2:]))

    def mode(self) -> Tensor:
        """Climb to the posterior mode by splitting, ``(n, height, width)``."""
        out, sides = [], [self.variances(float(sd)) for sd in self.noise]
        schedule = self.schedule
        if not isinstance(self.operator, Identity):
            # what ties patches and image is not noise that halving an image would average out:
            # another scale lost .02 dB on training images
            schedule = replace(schedule, scales=1, tolerance=None)
        grids = schedule.count(self.shape, self.mixture.size)
        with self.bar(grids * sum(map(len, sides))) as update:
            for data, sd, variances in zip(self.channels, self.noise, sides, strict=True):
                data_step = functools.partial(_data_step, self.operator, data, float(sd) ** -2)
                start = self.operator.first_guess(data)
                out.append(split(start, self.mixture, data_step, variances, schedule, update))
        return torch.stack(out)

    def variances(self, sd: float) -> list[float]:
        """Variances of the ties between patches and image, level by level."""
        if isinstance(self.operator, Identity):
            return [sd**2 / beta for beta in self.schedule.betas]
        if isinstance(self.operator, (Mask, Downsample)):
            return [1.0 / beta for beta, times in FILLING for _ in range(times)]
        return [1.0 / (50.0 * 2.0**level) for level in range(7)]

    @contextmanager
    def bar(self, total: int) -> Iterator[Callable[[int], object]]:
        """Show how many patches are done."""
        silent = None if self.progress else True
        with tqdm(total=total, desc="patches", disable=silent, unit_scale=True) as bar:
            yield bar.update


def make_schedule(quality: str, stride: int | None) -> Schedule:
    """Read the options of a quality, with another stride where one is given."""
    return Schedule(**(QUALITIES[quality] | ({} if stride is None else {"stride": stride})))


def _data_step(
    operator: LinearOperator, data: Tensor, precision: float, average: Tensor, pull: float
) -> Tensor:
    return operator.fit(data, precision, average, pull)
