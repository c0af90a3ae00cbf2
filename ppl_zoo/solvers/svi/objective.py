"""Objective of SVI: sample-average approximation (fixed draws) or stochastic gradients."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import inspect
import math
import warnings
from typing import Any, Protocol, runtime_checkable

import torch
from pyro.infer.autoguide import AutoGuide

from ppl_zoo.compiler import CaptureError
from ppl_zoo.core.errors import DataError, ForkError
from ppl_zoo.core.model import Model
from ppl_zoo.core.random import chain_seed, set_seed
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.solution import Solution
from ppl_zoo.solvers.fixed_draws.families import AUTONORMALS
from ppl_zoo.solvers.fixed_draws.potential import BatchedPotential, reason_of
from ppl_zoo.solvers.fixed_draws.solver import Choice
from ppl_zoo.solvers.guides import GUIDES, AutoNonCentredNormal
from ppl_zoo.solvers.svi.engines import COMPILE_FROM

__all__ = ["choose_objective"]

#: most latents of a full-rank guide where none is named, and of any guide
MAX_FULL_RANK_LATENTS, MAX_LATENTS = 200, 1000
#: most numbers in the data: all rows are read for each of some hundred draws
MAX_DATA_NUMBERS = 2**17
#: most numbers that an evaluation of density and gradient computes on its way
MAX_COMPUTED_NUMBERS = 2**23
#: options that only stochastic gradients have; setting one asks for them
STOCHASTIC = (
    *("elbo", "num_particles", "optimizer", "learning_rate", "schedule", "batch_size"),
    *("clip_norm", "window", "patience", "validate_every", "average", "alternate"),
    "precision",
)


@runtime_checkable
class SVIOptions(Protocol):
    """The options of :class:`ppl_zoo.SVI` that the choice depends on."""

    objective: str
    guide: Any
    batch_size: int | None
    compile: str | bool
    steps: int
    initialize: bool


def choose_objective(
    options: SVIOptions, model: Model, rows: Rows, seed: int, resume: Solution | None = None
) -> Choice:
    """Choose by the options, then by the model.

    The model starts where the first chain does, since its density is what counts.

    Raises
    ------
    ValueError
        If fixed draws are asked for and the fit cannot have them; says why.
    """
    stochastic = Choice(None, options.guide, "stochastic gradients, as asked for")
    asked = options.objective == "fixed-draws"
    if resume is not None:
        asked = resume.state_values.get("objective") == "fixed-draws"
        if not asked:
            return dataclasses.replace(stochastic, reason=resume.reason)
    if options.objective == "stochastic" and not asked:
        return stochastic
    potential = None
    against = _against(options, model, rows, asked)
    if not against:
        if resume is None and options.initialize:
            set_seed(chain_seed(seed, 0), rows.device)
            with torch.no_grad():
                model.initialize(rows)
        potential, against = _potential(options, model, rows, asked)
    if against and asked:
        raise ValueError(f"objective='fixed-draws': {against}")
    if against:
        return dataclasses.replace(stochastic, reason=f"stochastic gradients: {against}")
    guide = options.guide
    if guide is None:
        hierarchy = potential.problem.recentred or potential.problem.varying
        full_rank = "non-centred" if hierarchy else "multivariate-normal"
        guide = full_rank if potential.size <= MAX_FULL_RANK_LATENTS else "normal"
    may_skew = options.guide is None and guide != "normal" and potential.compiled is not None
    reason = f"fixed draws, a function of {potential.size} latents"
    return Choice(potential, guide, reason, may_skew)


def _against(options: SVIOptions, model: Model, rows: Rows, asked: bool) -> str:
    """Reason against fixed draws that options and data give; empty for none."""
    if options.batch_size is not None and options.batch_size < len(rows):
        return f"batch_size={options.batch_size}, and fixed draws see all rows"
    if options.guide is None and model.guide is not None:
        return f"{model.model_name} has its own guide"
    if not _is_normal(options.guide):
        return f"the guide {_name(options.guide)} is none of Pyro's normal autoguides"
    if asked:
        return ""
    plain = type(options)()
    for name in STOCHASTIC:
        if getattr(options, name) != getattr(plain, name):
            return f"{name}={_name(getattr(options, name))} is an option of theirs"
    if options.compile not in ("auto", "xla"):
        return f"compile={options.compile!r}, and fixed draws are compiled by XLA"
    if options.steps < COMPILE_FROM:
        return f"steps={options.steps} are too few to compile for"
    if importlib.util.find_spec("jax") is None:
        return "JAX is not installed, which compiles fixed draws"
    numbers = sum(math.prod(shape) for shape in rows.sizes())
    if numbers > MAX_DATA_NUMBERS:
        return f"the data are {numbers} numbers, more than {MAX_DATA_NUMBERS}"
    return ""


def _potential(
    options: SVIOptions, model: Model, rows: Rows, asked: bool
) -> tuple[BatchedPotential | None, str]:
    """Return the batched potential, or the reason against it."""
    compiled = options.compile in ("auto", "xla")
    try:
        potential = BatchedPotential(model, rows, compiled)
    except CaptureError as error:
        potential, against = None, reason_of(error)
    except ForkError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a model does, the other way is open
        potential, against = None, reason_of(error)
        if isinstance(error, DataError):
            return None, against
    if potential is None:
        if not (asked and compiled):
            return None, against
        warnings.warn(f"SVI runs uncompiled, since {against}", stacklevel=5)
        try:
            potential = BatchedPotential(model, rows, False)
        except Exception as error:  # noqa: BLE001 - as above
            return None, reason_of(error)
    if potential.size > MAX_LATENTS and not asked:
        return None, f"{potential.size} latents, more than {MAX_LATENTS}"
    computed = 0 if potential.compiled is None else potential.compiled.num_numbers
    if computed > MAX_COMPUTED_NUMBERS and not asked:
        return None, f"a density computes {computed} numbers, more than {MAX_COMPUTED_NUMBERS}"
    learnt = potential.trainable()
    if learnt:
        shown = ", ".join(learnt[:3]) + (", ..." if len(learnt) > 3 else "")
        return None, f"{model.model_name} has parameters to learn ({shown})"
    return potential, ""


def _is_normal(spec: Any) -> bool:
    if spec is None:
        return True
    normal = (*AUTONORMALS, AutoNonCentredNormal)  # and no subclass of a user's
    if isinstance(spec, str):
        return GUIDES.get(spec) in normal
    target = spec.func if isinstance(spec, functools.partial) else spec
    return (target if inspect.isclass(target) else type(target)) in normal


def _name(value: Any) -> str:
    if isinstance(value, AutoGuide):
        return type(value).__name__
    return getattr(value, "__name__", repr(value))
