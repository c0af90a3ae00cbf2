"""Restoration by a deep image prior: early-stopped point estimate, or posterior of the weights."""

from __future__ import annotations

import functools
from dataclasses import replace

from pyro.infer import autoguide
from torch import Tensor

from ppl_zoo.fitting.result import Fit
from ppl_zoo.imaging.operators import LinearOperator, Mask
from ppl_zoo.models.images.deep_image_prior import DeepImagePrior
from ppl_zoo.restoration.problem import MIN_NOISE_SD, ImageEstimate, RestorationProblem
from ppl_zoo.solvers.early_stopping.solver import EarlyStopping
from ppl_zoo.solvers.sgld import SGLD
from ppl_zoo.solvers.svi.svi import SVI

__all__ = ["NUM_RUNS", "restore_by_early_stopping", "restore_by_langevin", "restore_by_normal"]

#: runs of a net whose images are averaged
NUM_RUNS = {"fast": 3, "paper": 1}
#: steps of the Langevin sampler and of the mean-field fit
LANGEVIN_STEPS, NORMAL_STEPS = 600, 600
#: most steps of the point estimate that those two are initialised at: the prior of the weights
#: keeps it from ever fitting the noise
MAX_INITIAL_STEPS = 600
#: factor of the sd of draws, so that 90 % intervals cover nine pixels of ten of four training
#: photographs: chains so short explore some of the posterior only, and a mean field is too narrow
SD_FACTORS = {"dip-langevin": 1.32, "dip-normal": 1.33}


def restore_by_early_stopping(problem: RestorationProblem) -> ImageEstimate:
    """Restore by an early-stopped point estimate of the weights, averaged over steps and runs."""
    solver = problem.method
    if not isinstance(solver, EarlyStopping):
        rule = _choose_rule(problem.operator, problem.sigma, problem.sigma_known)
        solver = EarlyStopping(rule=rule, num_chains=NUM_RUNS.get(str(_choose_net(problem)), 1))
        if problem.steps is not None:
            solver = replace(solver, steps=problem.steps)
    fitted = _fit_point(problem, solver, prior_scale=None)
    return ImageEstimate(fitted.solution.state_tensors["image"][0], None, fitted)


def restore_by_langevin(problem: RestorationProblem) -> ImageEstimate:
    """Restore by the posterior mean under Langevin draws of the weights."""
    initial = _fit_initial_point(problem)
    num_warmup = (LANGEVIN_STEPS if problem.steps is None else problem.steps) // 3
    solver = SGLD(
        problem.steps or LANGEVIN_STEPS,
        num_warmup,
        step_size=0.003,
        num_samples=problem.num_draws,
        init=initial,
    )
    return _posterior_estimate(problem, "dip-langevin", initial, solver)


def restore_by_normal(problem: RestorationProblem) -> ImageEstimate:
    """Restore by the posterior mean under a mean-field normal posterior of the weights."""
    initial = _fit_initial_point(problem)
    theta = initial.model.theta.detach()
    start = functools.partial(autoguide.init_to_value, values={"theta": theta})
    solver = SVI(
        steps=problem.steps or NORMAL_STEPS,
        guide=functools.partial(autoguide.AutoNormal, init_loc_fn=start, init_scale=0.02),
        learning_rate=0.001,
        initialize=False,
        compile=False,
        objective="stochastic",
    )
    return _posterior_estimate(problem, "dip-normal", initial, solver)


def _fit_initial_point(problem: RestorationProblem) -> Fit:
    """Fit the point estimate at which a posterior of the weights is initialised."""
    rule = _choose_rule(problem.operator, problem.sigma, problem.sigma_known)
    solver = EarlyStopping(rule=rule, steps=problem.steps or MAX_INITIAL_STEPS)
    return _fit_point(problem, solver, prior_scale=1.0)


def _fit_point(
    problem: RestorationProblem, solver: EarlyStopping, prior_scale: float | None
) -> Fit:
    model = DeepImagePrior.of(
        (len(problem.channels), *problem.shape),
        problem.operator,
        net=_choose_net(problem),
        clipped=_looks_clipped(problem.channels, problem.operator, problem.sigma),
        prior_scale=prior_scale,
    ).to(problem.channels)
    return problem.fit(model, _data(problem), solver, "" if prior_scale is None else "start")


def _posterior_estimate(
    problem: RestorationProblem, method: str, initial: Fit, solver: SGLD | SVI
) -> ImageEstimate:
    """Mean and calibrated sd of the image under a posterior of the weights."""
    fitted = problem.fit(initial.model, _data(problem), solver, "posterior")
    images = fitted.posterior(problem.num_draws)["image"].flatten(0, 1)[:, 0]
    return ImageEstimate(images.mean(0), SD_FACTORS[method] * images.std(0), fitted)


def _data(problem: RestorationProblem) -> tuple[Tensor, Tensor]:
    """Arguments of the model: one image, and the sd of its noise."""
    channels = problem.channels
    return channels[None], channels.new_full((1,), max(problem.sigma, MIN_NOISE_SD))


def _choose_net(problem: RestorationProblem) -> object:
    """Options of the net; "auto" is the paper's on a GPU."""
    if isinstance(problem.net, str) and problem.net == "auto":
        return "paper" if problem.channels.device.type == "cuda" else "fast"
    return problem.net


def _choose_rule(operator: LinearOperator, sigma: float, known: bool) -> str:
    """Choose a stopping rule: with missing pixels, held-out data measure the error of these."""
    known = known and sigma > MIN_NOISE_SD and not isinstance(operator, Mask)
    return "discrepancy" if known else "held-out"


def _looks_clipped(channels: Tensor, operator: LinearOperator, sigma: float) -> bool:
    """Whether noisy data were clipped: none lie outside of [0, 1], some exactly at 0 or 1."""
    observed = channels
    if isinstance(operator, Mask):
        observed = channels[:, operator.mask.to(channels.device)]
    inside = bool((observed >= 0).all() and (observed <= 1).all())
    return sigma > MIN_NOISE_SD and inside and bool(((observed == 0) | (observed == 1)).any())
