"""ArviZ groups of a fit, one function a group, each a plain ``xarray.Dataset``."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from ppl_zoo.core.errors import QueryError
from ppl_zoo.core.khat import KHAT_DRAWS, khat
from ppl_zoo.core.model import Model
from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.diagnostics.arrays import as_array, even_indices, plain, rankable, stack_chains
from ppl_zoo.diagnostics.arviz_compat import bundle
from ppl_zoo.diagnostics.check import LIMITS
from ppl_zoo.diagnostics.dims import Names, Variable
from ppl_zoo.diagnostics.reader import ChainRecord, Reader

__all__ = ["to_arviz"]

#: sd of noise on log likelihoods that are the same in every draw, nats; ArviZ 1.x refuses those
JITTER_NATS = 1e-6
#: numbers of a parameter in the group ``fit``; larger ones stay in the run's weights
MAX_PARAMETER_NUMBERS = 100_000
#: draws of the guide for each resampled one
PROPOSALS_PER_DRAW = 4
#: groups of the export
GROUPS = (
    "posterior",
    "sample_stats",
    "log_likelihood",
    "log_prior",
    "posterior_predictive",
    "prior",
    "prior_predictive",
    "observed_data",
    "constant_data",
    "fit",
)
#: descriptions of the log densities in ``sample_stats``, in nats
LOG_DENSITIES = {
    "lp": "log p(x, z)",
    "log_q": "log density of the guide",
    "log_weight": "lp - log_q, log importance weight",
    "energy": "potential and kinetic energy",
}
#: descriptions of a sampler's other statistics
SAMPLER_STATISTICS = {
    "acceptance_rate": "mean acceptance probability along the trajectory",
    "diverging": "the energy error of the trajectory passed 1000",
    "n_steps": "leapfrog steps",
    "step_size": "leapfrog step size",
    "tree_depth": "depth of the trajectory's tree",
}


def to_arviz(
    fit: FittedModel,
    *,
    num_samples: int = 1000,
    max_observations: int = 1000,
    max_local: int | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    resample: bool = False,
    groups: Sequence[str] | None = None,
) -> Any:
    """Convert a fit to ArviZ.

    Groups: ``posterior``, ``sample_stats`` (lp = log p(x, z), log_q, log_weight),
    ``log_likelihood``, ``posterior_predictive``, ``prior``, ``prior_predictive``,
    ``observed_data``, ``constant_data`` and ``fit`` (objective, learned parameters, k-hat, ...).
    A chain is a restart, or a chain of the sampler. ``prior`` has one; the prior groups are left
    out where a prior is improper (``dist.ImproperUniform``), which has no draws. Where the
    parameters are points, the draws are the best restart's: others are worse optima, and an R-hat
    between them says nothing. The group ``fit`` has the parameters of all.

    Parameters
    ----------
    fit
        A fit that holds its data.
    num_samples
        Draws a chain.
    max_observations
        Rows in ``log_likelihood``, ``observed_data`` and the predictive groups, evenly spaced;
        their coordinate says which. For wide rows the predictive groups have fewer draws, so
        that they stay small.
    max_local
        Rows whose local latents are kept: by default 100, or 6 in a model without global latents.
    coords
        Labels of dimensions: ``{"feature": dataset.card.feature_names}``; those of the columns
        and categories of a data frame are known.
    resample
        Whether to resample the guide's draws by their smoothed importance weights, so that they
        are draws of the posterior where k-hat is small: ``az.loo`` and ``az.compare`` are then
        right for a guide. A sampler's draws stay as they are.
    groups
        Groups to make; all by default.

    Returns
    -------
    InferenceData or DataTree
        That of the installed ArviZ, 0.23 or 1.x.

    Raises
    ------
    QueryError
        If the fit was loaded without its data, or has no global latents to resample.

    Warns
    -----
    UserWarning
        If k-hat is above 0.7: the resampled draws are then not those of the posterior.

    Notes
    -----
    ``az.loo`` takes draws for those of the posterior. Those of a guide have importance weights,
    which :func:`ppl_zoo.loo` uses, as does ArviZ 1.x by hand:
    ``az.loo_approximate_posterior(data, data.sample_stats.lp, data.sample_stats.log_q)``.

    Without global latents the parameters are points. ``posterior`` then holds the local latents
    of chosen rows, or their representation where nothing is drawn, and ``log_likelihood`` is the
    log density of a row, the same in every draw but for a jitter of 1e-6 nats (ArviZ 1.x raises
    for constants): ``az.loo`` gives the log density in sample, with p_loo = 0.
    """
    for name, value in (("num_samples", num_samples), ("max_observations", max_observations)):
        if value < 1:
            raise ValueError(f"{name}: got {value}, expected 1 or more")
    unknown = sorted(set(groups or ()) - set(GROUPS))
    if unknown:
        raise ValueError(f"groups: got {unknown}, expected some of {list(GROUPS)}")
    wanted = set(GROUPS if groups is None else groups)
    options = {"replicated": any("predictive" in name for name in wanted)}
    reader = Reader(fit, num_samples, max_observations, max_local, **options)
    khats: list[float] = []
    if resample and fit.solution.draws is None:
        if not reader.has_global:
            raise QueryError(
                f"{fit.model.model_name}: its guide draws no global latents, and there is nothing "
                "to resample; leave out resample=True"
            )
        drawn = fit.draws(max(KHAT_DRAWS, PROPOSALS_PER_DRAW * num_samples))
        khats = [khat(part.log_weight) for part in drawn]
        if max(khats) > LIMITS["khat"]:
            warnings.warn(
                f"k-hat is {max(khats):.2f} (above {LIMITS['khat']}): resampled draws are not "
                "those of the posterior; zoo.Auto() looks further",
                stacklevel=3,
            )
        resampled = fit.resampled(drawn, num_samples)
        reader = Reader(resampled, num_samples, max_observations, max_local, **options)
    arguments = fit.model.argument_names
    names = Names(
        [*reader.sites, *arguments, "representation", "joint"],
        fit.model.event_dims,
        {**fit.model.named_coords(), **(coords or {})},
    )
    records = list(reader.chains())
    for record, value in zip(records, khats, strict=False):
        record.khat = value
    points = fit.solution.draws is None and not reader.has_global
    shown = [records[fit.solution.best]] if points else records
    found = {
        "posterior": _posterior(reader, names, shown),
        "sample_stats": _sample_stats(names, shown),
        "log_likelihood": _log_likelihood(reader, names, shown),
        "log_prior": _log_prior(names, shown),
        "posterior_predictive": _predictive(reader, names, shown),
    }
    proper = reader.has_latents and not any(site.flat for site in reader.sites.values())
    if proper and wanted & {"prior", "prior_predictive"}:
        prior = [reader.prior()]
        found["prior"] = _posterior(reader, names, prior)
        found["prior_predictive"] = _predictive(reader, names, prior)
    found["observed_data"], found["constant_data"] = _data_groups(reader, names)
    found["fit"] = _fit_group(fit, names, records)
    return bundle({k: g for k, g in found.items() if g.data_vars and k in wanted}, _about(fit))


def _posterior(reader: Reader, names: Names, records: list[ChainRecord]) -> xr.Dataset:
    """Latents and deterministic sites; local ones at the chosen rows."""
    variables: dict[str, Variable] = {}
    for name in records[0].posterior:
        values = stack_chains([r.posterior[name] for r in records])
        dims = _dims(reader, names, name, values.ndim - 2)
        variables[name] = (("chain", "draw", *dims), rankable(values), {})
    return names.dataset(variables, _rows(reader, names, reader.local_rows))


def _sample_stats(names: Names, records: list[ChainRecord]) -> xr.Dataset:
    """Log densities of the draws, in nats, and a sampler's statistics."""
    about = dict(LOG_DENSITIES)
    if "energy" in records[0].stats:
        about["lp"] = "log p(x, z) on the unconstrained scale, Jacobian included"
    return names.dataset(
        {
            name: (
                ("chain", "draw"),
                stack_chains([r.stats[name] for r in records]),
                {"long_name": about[name], "units": "nats"}
                if name in about
                else {"long_name": SAMPLER_STATISTICS.get(name, name)},
            )
            for name in records[0].stats
        }
    )


def _log_likelihood(reader: Reader, names: Names, records: list[ChainRecord]) -> xr.Dataset:
    """Log likelihood of each observed row, in nats."""
    variables: dict[str, Variable] = {}
    for name in records[0].log_likelihood:
        values = stack_chains([r.log_likelihood[name] for r in records]).astype(np.float64)
        about = {"units": "nats", "given": "the draw"}
        if not reader.has_global:
            noise = np.random.default_rng(0).standard_normal(values.shape)
            values = values + JITTER_NATS * noise
            about = {
                "units": "nats",
                "given": "the fitted parameters",
                "answer": reader.model.queries["log_prob"],
                "jitter": JITTER_NATS,
            }
        lead: tuple[str, ...] = ()
        if reader.plate is not None and values.ndim == 3:
            lead = (names.dim(reader.plate),)
        elif name in reader.sites:
            plates = reader.sites[name].plates
            # dimensions of observations without a plate are those of the site itself
            lead = tuple(names.dim(plate) for plate, _, _ in plates)
            if len(lead) != values.ndim - 2:
                lead = names.of_site(reader.sites[name])[: values.ndim - 2]
        variables[name] = (("chain", "draw", *lead), values, about)
    return names.dataset(variables, _rows(reader, names, reader.observed_rows))


def _log_prior(names: Names, records: list[ChainRecord]) -> xr.Dataset:
    """Log density of each latent site given those before it, in nats (``psense`` reads it)."""
    return names.dataset(
        {
            name: (
                ("chain", "draw"),
                stack_chains([r.log_prior[name] for r in records]).astype(np.float64),
                {"units": "nats"},
            )
            for name in records[0].log_prior
        }
    )


def _predictive(reader: Reader, names: Names, records: list[ChainRecord]) -> xr.Dataset:
    """Observed sites drawn anew."""
    variables: dict[str, Variable] = {}
    for name in records[0].replicates:
        values = stack_chains([r.replicates[name] for r in records])
        dims = names.of_site(reader.sites[name])
        variables[name] = (("chain", "draw", *dims), plain(values), {})
    labels = _rows(reader, names, reader.observed_rows)
    if variables:
        drawn, kept = len(next(iter(records[0].posterior.values()))), reader.num_replicates
        labels["draw"] = even_indices(drawn, kept)
    return names.dataset(variables, labels)


def _data_groups(reader: Reader, names: Names) -> tuple[xr.Dataset, xr.Dataset]:
    """Observed sites at the observed rows, and the arguments that are not observed."""
    observed: dict[str, Variable] = {
        name: (names.of_site(reader.sites[name]), plain(as_array(value)), {})
        for name, value in reader.observed_values().items()
    }
    per_row = dict(zip(reader.model.argument_names, reader.rows.per_row, strict=False))
    constant: dict[str, Variable] = {}
    for name, array in reader.inputs().items():
        first = reader.plate if per_row[name] else None
        constant[name] = (names.of_array(name, array.ndim, first), plain(as_array(array)), {})
    labels = _rows(reader, names, reader.observed_rows)
    return names.dataset(observed, labels), names.dataset(constant, labels)


def _fit_group(fit: FittedModel, names: Names, records: list[ChainRecord]) -> xr.Dataset:
    """Objective, steps, k-hat and learned parameters of each chain."""
    nats = {"units": "nats"}
    solution = fit.solution
    variables: dict[str, Variable] = {
        name: (("chain", "step"), np.asarray(trace), nats if name == "objective" else {})
        for name, trace in solution.history.items()
    }
    variables["final_objective"] = (("chain",), np.asarray(solution.objective, float), nats)
    variables["steps"] = (("chain",), np.asarray(solution.steps), {})
    variables["khat"] = (
        ("chain",),
        np.array([r.khat for r in records]),
        {"long_name": "Pareto k-hat of the importance weights; NaN where there are none"},
    )
    variables["seconds"] = ((), np.asarray(fit.seconds), {"units": "s"})
    learned: list[dict[str, Tensor]] = []
    for chain in range(len(solution.stopped)):
        with fit.chain(chain):
            learned.append({k: v.clone() for k, v in _learned_parameters(fit.model).items()})
    for name in learned[0]:
        key = f"{name}_parameter" if names.variable(name) in variables else name
        dims = names.of_array(name, learned[0][name].ndim)
        values = np.stack([as_array(p[name]) for p in learned])
        variables[key] = (("chain", *dims), plain(values), {"learned": 1})
    return names.dataset(variables, attrs={**_about(fit), "best_chain": int(solution.best)})


def _learned_parameters(model: Model) -> dict[str, Tensor]:
    """Learned parameters on their constrained scale.

    These are the properties of the model's class that are tensors (``weights``, ``means``);
    without any, all parameters by name, under their constraints.
    """
    shown = {}
    for cls in type(model).__mro__:
        if cls is Model:
            break
        for name, value in vars(cls).items():
            if isinstance(value, property) and name not in shown:
                found = getattr(model, name)
                if isinstance(found, Tensor):
                    shown[name] = found.detach()
    if not shown:
        for name, raw in model.named_parameters():
            *path, last = name.removesuffix("_unconstrained").split(".")
            owner: Any = model.get_submodule(".".join(path))
            value = getattr(owner, last, raw)
            shown[".".join([*path, last])] = (raw if value is None else value).detach()
    return {k: v for k, v in shown.items() if v.numel() <= MAX_PARAMETER_NUMBERS}


def _about(fit: FittedModel) -> dict[str, Any]:
    """Attributes of a fit: strings and numbers, which netCDF can hold."""
    packages = ("ppl-zoo", "torch", "pyro-ppl", "numpy", "arviz")
    versions = [f"python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)]
    return {
        "model": fit.model.model_name,
        "solver": type(fit.solver).__name__,
        "stopped": ", ".join(fit.solution.stopped),
        "seed": int(fit.seed),
        "device": str(fit.model.device),
        "dtype": str(fit.model.dtype).removeprefix("torch."),
        "versions": ", ".join(versions),
        "inference_library": "ppl_zoo",
        "inference_library_version": version("ppl-zoo"),
    }


def _dims(reader: Reader, names: Names, name: str, ndim: int) -> tuple[str, ...]:
    """Dimensions of a site or representation, without chain and draw."""
    if name in reader.sites:
        return names.of_site(reader.sites[name])
    return names.of_array(name, ndim, reader.plate)  # a representation: rows, then features


def _rows(reader: Reader, names: Names, index: np.ndarray) -> dict[str, np.ndarray]:
    """Coordinate that says which rows of the data were chosen."""
    return {} if reader.plate is None else {names.dim(reader.plate): reader.fit.row_numbers[index]}
