"""Citation: the references of a model, of a fit's solver and checks, and of the libraries."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.core.solver import Solver
from ppl_zoo.diagnostics.check import Check
from ppl_zoo.diagnostics.row_check import RowCheck
from ppl_zoo.fitting.calibration import Calibration
from ppl_zoo.models import references as refs
from ppl_zoo.models.card import Reference
from ppl_zoo.models.images.epll import EPLL

__all__ = ["Citation", "cite"]


@runtime_checkable
class RestoredImage(Protocol):
    """A :class:`ppl_zoo.Restoration`: an image, its pixel sd, and the fit that drew it."""

    image: Tensor
    sd: Tensor | None
    fit: Any
    sigma: float


class Use(NamedTuple):
    """References of one thing that a fit used.

    Attributes
    ----------
    what
        In words.
    references
        What to cite for it.
    when
        Whether an option of a solver, or what a fit did, used it.
    """

    what: str
    references: tuple[Reference, ...]
    when: Callable[[Any], bool] = lambda _: True


#: by the name of a solver's class, what its options use
SOLVERS: Mapping[str, tuple[Use, ...]] = {
    "EM": (Use("EM", (refs.DEMPSTER_1977,)),),
    "CAVI": (
        Use("coordinate-ascent variational inference", (refs.BISHOP_2006,)),
        Use("natural gradients of minibatches", (refs.HOFFMAN_2013,), lambda s: s.stochastic),
    ),
    "SVI": (
        Use("stochastic variational inference", (refs.HOFFMAN_2013, refs.RANGANATH_2014)),
        Use("the importance-weighted bound", (refs.BURDA_2016,), lambda s: _bound(s, "iwae")),
        Use(
            "doubly reparametrised gradients",
            (refs.TUCKER_2019,),
            lambda s: (
                s.elbo == "iwae" or getattr(s.elbo, "gradient", "") == "doubly-reparametrised"
            ),
        ),
        Use(
            "sticking the landing",
            (refs.ROEDER_2017,),
            lambda s: s.elbo == "stl" or getattr(s.elbo, "gradient", "") == "sticking-the-landing",
        ),
        Use("a normalising flow as guide", (refs.REZENDE_2015,), lambda s: s.guide == "flow"),
    ),
    "NUTS": (Use("the No-U-Turn sampler", (refs.HOFFMAN_2014,)),),
    "SGLD": (
        Use("stochastic gradient Langevin dynamics", (refs.WELLING_2011,)),
        Use("its preconditioner", (refs.LI_2016,), lambda s: s.memory is not None),
    ),
    "EarlyStopping": (Use("early stopping of the deep image prior", (refs.WANG_2023,)),),
    "SplitGibbs": (Use("the split Gibbs sampler", (refs.VONO_2019,)),),
    "Tiling": (Use("patches in tilings", (refs.ZORAN_2011,)),),
}

#: what a fit did, that the options of its solver leave open
FITS: tuple[Use, ...] = (
    Use("fixed draws", (refs.GIORDANO_2024,), lambda f: _objective(f) == "fixed-draws"),
    Use("L-BFGS", (refs.NOCEDAL_1980,), lambda f: _objective(f) == "fixed-draws"),
    Use(
        "Adam",
        (refs.KINGMA_2015,),
        lambda f: (
            _objective(f) == "stochastic"
            and getattr(f.solver, "optimizer", None) is torch.optim.Adam
        ),
    ),
    Use(
        "Pathfinder, which starts the chains",
        (refs.ZHANG_2022,),
        lambda f: _is(f, "NUTS") and f.solver.init is None and f.solution.engine == "xla",
    ),
    Use(
        "Muon",
        (refs.JORDAN_2024,),
        lambda f: _is(f, "EarlyStopping") and _optimizer(f) == "muon",
    ),
    Use(
        "Adam",
        (refs.KINGMA_2015,),
        lambda f: _is(f, "EarlyStopping") and _optimizer(f) == "adam",
    ),
    Use(
        "the No-U-Turn sampler",
        (refs.HOFFMAN_2014,),
        lambda f: any("NUTS" in rung.name for rung in getattr(f, "ladder", ())),
    ),
    Use(
        "Pareto k-hat of the guide's draws",
        (refs.VEHTARI_2024, refs.YAO_2018),
        lambda f: f.guide is not None and f.solution.draws is None,
    ),
    Use("R-hat", (refs.VEHTARI_2021,), lambda f: f.solution.draws is not None),
)

#: what a check measured
CHECKS: tuple[Use, ...] = (
    Use(
        "Pareto smoothed importance sampling",
        (refs.VEHTARI_2024, refs.YAO_2018),
        lambda c: bool((c.khat == c.khat).any()),
    ),
    Use("R-hat", (refs.VEHTARI_2021,), lambda c: _chains(c) > 1),
    Use(
        "short chains, their step",
        (refs.BESKOS_2013,),
        lambda c: any(getattr(line, "drift", None) for line in getattr(c, "lines", ())),
    ),
)
CALIBRATION = (Use("simulation-based calibration", (refs.TALTS_2018, refs.YAO_2018)),)

#: cross-validation, where a fit can be compared by it; cited for :func:`ppl_zoo.loo`
CROSS_VALIDATION = (
    Use(
        "leave-one-out cross-validation",
        (refs.VEHTARI_2017, refs.VEHTARI_2024, refs.MAGNUSSON_2019),
    ),
)

LIBRARIES = (
    Use("ppl_zoo", (refs.PPL_ZOO,)),
    Use("Pyro", (refs.BINGHAM_2019,)),
    Use("PyTorch", (refs.PASZKE_2019,)),
)
JAX = (Use("JAX", (refs.BRADBURY_2018,)),)
NUMPYRO = (Use("NumPyro", (refs.PHAN_2019,)),)
ARVIZ = (Use("ArviZ", (refs.KUMAR_2019,)),)


@dataclass(frozen=True, repr=False)
class Citation:
    """References to cite, each with what it is cited for; prints as BibTeX.

    Attributes
    ----------
    entries
        ``(what, reference)``, each reference once.
    """

    entries: tuple[tuple[str, Reference], ...]

    @property
    def references(self) -> tuple[Reference, ...]:
        """The references alone."""
        return tuple(reference for _, reference in self.entries)

    @property
    def bibtex(self) -> str:
        """Entries of BibTeX, what each is cited for above it."""
        return "\n\n".join(f"% {what}\n{ref.bibtex()}" for what, ref in self.entries)

    def __str__(self) -> str:
        return self.bibtex

    def __repr__(self) -> str:
        return self.bibtex


def cite(what: Any) -> Citation:
    """Cite a fit: BibTeX of its model, its solver and its checks, and of the libraries.

    Parameters
    ----------
    what
        A fit; a model of the zoo, or its class; a solver; a check (``fit.check()``, or a
        calibration); a restored image; or what ``zoo.loo`` returns.

    Returns
    -------
    Citation
        Prints as BibTeX; ``.references`` are the records.

    Raises
    ------
    DataError
        If it is none of these.

    Examples
    --------
    >>> import ppl_zoo as zoo
    >>> [reference.key for reference in zoo.cite(zoo.EM()).references][0]
    'dempster1977maximum'
    """
    uses: list[Use] = []
    if isinstance(what, FittedModel):
        uses += [*_of_model(type(what.model)), *_of_fit(what), *LIBRARIES, *_engines(what), *ARVIZ]
    elif isinstance(what, Model):
        uses += [*_of_model(type(what)), *LIBRARIES]
    elif inspect.isclass(what) and issubclass(what, Model):
        uses += [*_of_model(what), *LIBRARIES]
    elif isinstance(what, Solver):
        uses += [*_of_solver(what), *LIBRARIES]
    elif isinstance(what, Check | RowCheck):
        uses += [*(use for use in CHECKS if use.when(what)), *LIBRARIES, *ARVIZ]
    elif isinstance(what, Calibration):
        uses += [*CALIBRATION, *LIBRARIES]
    elif isinstance(what, RestoredImage):
        uses += _of_restoration(what)
    elif type(what).__name__ == "ELPDData":  # ArviZ's, of either generation
        uses += [*CROSS_VALIDATION, *LIBRARIES, *ARVIZ]
    else:
        raise DataError(
            f"cite: got a {type(what).__name__}, expected a fit, a model, a solver, a check, a "
            "restored image or what zoo.loo returns"
        )
    found: dict[str, tuple[str, Reference]] = {}
    for use in uses:
        for reference in use.references:
            found.setdefault(reference.key, (use.what, reference))
    return Citation(tuple(found.values()))


def _of_model(cls: type[Model]) -> list[Use]:
    """Return what the card of a model cites; nothing for a model of the user's own."""
    from ppl_zoo.models.catalogue import ZOO  # made when it is first asked for

    for card in ZOO:
        if card.model_class is cls:
            return [Use(f"the model: {card.title}", card.references)]
    return []


def _of_solver(solver: Solver) -> list[Use]:
    """Return what a solver uses by its options; of a class derived from another, of that too."""
    found = []
    for cls in type(solver).__mro__:
        found += [use for use in SOLVERS.get(cls.__name__, ()) if use.when(solver)]
    return found


def _of_fit(fit: FittedModel) -> list[Use]:
    return [*_of_solver(fit.solver), *(use for use in FITS if use.when(fit))]


def _engines(fit: FittedModel) -> tuple[Use, ...]:
    if _is(fit, "NUTS") and fit.solution.engine == "xla":
        return (*JAX, *NUMPYRO)
    compiled = fit.solution.engine == "xla" or _objective(fit) == "fixed-draws"
    return JAX if compiled else ()


def _of_restoration(restored: RestoredImage) -> list[Use]:
    """Of a fit what it cites; a mode without a fit is EPLL's, by half-quadratic splitting."""
    if restored.fit is None:
        return [*_of_model(EPLL), *LIBRARIES]
    fit = restored.fit
    return [*_of_model(type(fit.model)), *_of_fit(fit), *LIBRARIES, *_engines(fit), *ARVIZ]


def _is(fit: FittedModel, solver: str) -> bool:
    return type(fit.solver).__name__ == solver


def _optimizer(fit: FittedModel) -> str:
    """Optimizer of an early-stopped fit, by name."""
    asked = getattr(fit.solver, "optimizer", "")
    return getattr(fit.model, "suited_optimizer", "") if asked == "auto" else asked


def _objective(fit: FittedModel) -> str:
    """How SVI went about it: "fixed-draws" or "stochastic"; empty of other solvers."""
    return str(fit.solution.state_values.get("objective", ""))


def _bound(solver: Any, name: str) -> bool:
    return solver.elbo == name or getattr(solver.elbo, "bound", "") == name


def _chains(check: Any) -> int:
    draws = getattr(check, "draws", None)
    return max((v.shape[0] for v in draws.values()), default=0) if draws else 0
