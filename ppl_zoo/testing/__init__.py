"""Contract tests of models, for the user's own models as well.

>>> import ppl_zoo as zoo
>>> schools = zoo.data.load("eight-schools")
>>> passed = zoo.testing.check_model(zoo.EightSchools, lambda: schools.train)
>>> "one seed, one result" in passed
True
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ppl_zoo.core.errors import DataError, QueryError
from ppl_zoo.core.model import Model
from ppl_zoo.core.solver import Solver
from ppl_zoo.testing.case import Case, ContractError
from ppl_zoo.testing.clauses import CLAUSES

__all__ = ["CLAUSES", "ContractError", "check_model"]


def check_model(
    make_model: Callable[[], Model],
    make_data: Callable[[], Any],
    *,
    solver: Solver | None = None,
    clauses: Iterable[str] | None = None,
) -> tuple[str, ...]:
    """Check a model against the contract of the zoo.

    Parameters
    ----------
    make_model
        Makes the model, anew each time.
    make_data
        Makes data for it, as for :func:`ppl_zoo.fit`; some dozens of rows will do.
    solver
        How to fit it; by default a few steps of the model's own default solver.
    clauses
        Names of the clauses to check, all of :data:`CLAUSES` by default.

    Returns
    -------
    tuple
        Names of the clauses that hold.

    Raises
    ------
    ContractError
        At the first clause that does not, saying what was found and what was expected.
    """
    case = Case(make_model, make_data, solver)
    passed = []
    for name in CLAUSES if clauses is None else clauses:
        try:
            CLAUSES[name](case)
        except ContractError as error:
            raise ContractError(f"clause {name!r}: {error}") from error
        except (QueryError, DataError) as error:
            raise ContractError(
                f"clause {name!r}: unexpected {type(error).__name__}: {error}"
            ) from error
        passed.append(name)
    return tuple(passed)
