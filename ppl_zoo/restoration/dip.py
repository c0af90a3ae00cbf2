"""``restore`` by a deep image prior: a point that stops early, or a density of weights."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from pyro.infer import autoguide
from torch import Tensor

from ppl_zoo.fitting.result import Fit
from ppl_zoo.fitting.run import fit
from ppl_zoo.imaging.operators import LinearOperator, Mask
from ppl_zoo.models.images.deep_image_prior import DeepImagePrior
from ppl_zoo.solvers.early_stopping.solver import EarlyStopping
from ppl_zoo.solvers.sgld import SGLD
from ppl_zoo.solvers.svi.svi import SVI

__all__ = ["DIP_METHODS", "restore_by_net"]

DIP_METHODS = ("dip", "dip-langevin", "dip-normal")
#: runs of the small net whose images are averaged; the big one takes one
RUNS = {"fast": 3, "paper": 1}
#: steps of the two that draw weights, and most steps of the run that they begin from: the weights'
#: prior keeps it from ever fitting the noise
LANGEVIN, NORMAL, BEGIN = 600, 600, 600
#: what the sd of draws is multiplied by, so that 90 % intervals cover nine pixels of ten of four
#: training photographs. Chains so short see some of the posterior only, and a mean field is too
#: narrow by nature
SPREAD = {"dip-langevin": 1.32, "dip-normal": 1.33}
#: the least sd of noise that is fitted to
LEAST_NOISE = 1e-3


def restore_by_net(
    channels: Tensor,
    operator: LinearOperator,
    sigma: float,
    method: Any,
    *,
    known: bool,
    net: Any,
    num_draws: int,
    steps: int | None,
    seed: int,
    progress: bool,
) -> tuple[Tensor, Tensor | None, Fit]:
    """Restore an image.

    Parameters
    ----------
    channels
        What was seen, ``(channels, height, width)``.
    operator, sigma
        How it was spoiled, and the sd of the noise.
    method
        One of :data:`DIP_METHODS`, or an :class:`EarlyStopping` of one's own.
    known
        Whether the noise level was given, not estimated.
    net
        As for :class:`DeepImagePrior`; "auto" for the paper's on a GPU, else "fast".
    num_draws, steps, seed, progress
        As for ``restore``.

    Returns
    -------
    Tensor, Tensor or None, Fit
        Image and posterior sd ``(channels, height, width)``; None for a point estimate.
    """
    if isinstance(net, str) and net == "auto":
        net = "paper" if channels.device.type == "cuda" else "fast"
    shape = (len(channels), *operator.image_shape(tuple(channels.shape[-2:])))
    density = isinstance(method, str) and method != "dip"
    model = DeepImagePrior.of(
        shape,
        operator,
        net=net,
        clipped=_looks_clipped(channels, operator, sigma),
        prior_scale=1.0 if density else None,
    ).to(channels)
    data = (channels[None], channels.new_full((1,), max(sigma, LEAST_NOISE)))
    options = {"device": channels.device, "seed": seed, "progress": progress}
    solver = method
    if not isinstance(method, EarlyStopping):
        solver = EarlyStopping(rule=_choose_rule(operator, sigma, known))
        solver = replace(solver, runs=1 if density else RUNS.get(str(net), 1))
        if steps is not None or density:
            solver = replace(solver, steps=steps or BEGIN)
    done = fit(model, data, solver, **options)
    if not density:
        return done.solution.state_tensors["image"][0], None, done
    # a density of weights begins where the point estimate has stopped
    if method == "dip-langevin":
        burn = LANGEVIN // 3 if steps is None else steps // 3
        walk = SGLD(steps or LANGEVIN, burn, step_size=0.003, num_draws=num_draws, init=done)
        done = fit(model, data, walk, **options)
    else:
        start = functools.partial(autoguide.init_to_value, values={"theta": model.theta.detach()})
        guide = functools.partial(autoguide.AutoNormal, init_loc_fn=start, init_scale=0.02)
        climb = SVI(
            steps=steps or NORMAL,
            guide=guide,
            learning_rate=0.001,
            initialize=False,
            compile=False,
            objective="stochastic",
        )
        done = fit(model, data, climb, **options)
    images = done.posterior(num_draws)["image"].flatten(0, 1)[:, 0]
    return images.mean(0), SPREAD[method] * images.std(0), done


def _choose_rule(operator: LinearOperator, sigma: float, known: bool) -> str:
    """Choose a stopping rule by what is known: hidden pixels are like unseen ones."""
    known = known and sigma > LEAST_NOISE and not isinstance(operator, Mask)
    return "discrepancy" if known else "held-out"


def _looks_clipped(channels: Tensor, operator: LinearOperator, sigma: float) -> bool:
    """Whether noise was cut off at 0 or 1: nothing lies beyond, something exactly there."""
    seen = (
        channels[:, operator.mask.to(channels.device)] if isinstance(operator, Mask) else channels
    )
    inside = bool((seen >= 0).all() and (seen <= 1).all())
    return sigma > LEAST_NOISE and inside and bool(((seen == 0) | (seen == 1)).any())
