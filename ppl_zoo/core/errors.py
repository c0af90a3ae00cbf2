"""Errors of the zoo, which say what was given and what was expected."""

__all__ = ["ConvergenceError", "DataError", "ForkError", "QueryError", "RunError"]


class DataError(ValueError):
    """Data that a model cannot take: wrong shape, type or values."""


class QueryError(RuntimeError):
    """A query that a model, or this fit of it, cannot answer."""


class ConvergenceError(RuntimeError):
    """A solver whose objective became non-finite or went the wrong way.

    Attributes
    ----------
    fit
        What had been reached before, a ``Fit`` that can be saved and inspected; None if nothing.
    """

    fit = None
    solution = None


class ForkError(OSError):
    """A process that was forked after compiled programs had run, and cannot run any itself."""


class RunError(RuntimeError):
    """A saved run that is missing, truncated, corrupt or of another format."""
