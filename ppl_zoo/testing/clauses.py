"""The clauses of a model's contract, each a function that raises where it does not hold."""

from __future__ import annotations

from collections.abc import Callable

from ppl_zoo.testing import fit_clauses, program_clauses, query_clauses
from ppl_zoo.testing.case import Case, ContractError

__all__ = ["CLAUSES", "Case", "ContractError"]

CLAUSES: dict[str, Callable[[Case], None]] = {
    "parameters are made in __init__": program_clauses.parameters_in_init,
    "sites and plates have names of their own": program_clauses.names,
    "a minibatch is scaled": program_clauses.minibatch_scale,
    "float64 stays float64": program_clauses.dtypes,
    "draws broadcast": program_clauses.draws_broadcast,
    "log_prob": query_clauses.log_prob,
    "sample": query_clauses.sample,
    "encode": query_clauses.encode,
    "one seed, one result": fit_clauses.repeatable,
    "a fit survives the disk": fit_clauses.round_trip,
    "statistics add up": fit_clauses.additive,
    "bad data are refused": fit_clauses.refuses,
}
