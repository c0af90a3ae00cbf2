"""Log density of a model on the unconstrained scale, as a JAX function for other samplers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.functions import FunctionModel
from ppl_zoo.core.model import Model
from ppl_zoo.core.random import fork_generators, set_seed
from ppl_zoo.solvers.nuts.nuts import NUTS
from ppl_zoo.solvers.nuts.starts import find_starts
from ppl_zoo.solvers.unconstrained import Unconstrained

if TYPE_CHECKING:
    from ppl_zoo.solvers.nuts.numpyro_engine import NumPyroEngine

__all__ = ["LogDensity", "log_density"]


class LogDensity:
    """Log density of a model and its data over an unconstrained vector, in JAX.

    What ``zoo.NUTS`` samples from, for any sampler that takes a JAX function, blackjax's say.
    :func:`log_density` makes it.

    Attributes
    ----------
    size
        Length of the vector.
    places
        ``{site: (start, stop, shape)}``: each latent's slice of the vector, and its shape there.
    """

    def __init__(self, problem: Unconstrained, engine: NumPyroEngine) -> None:
        self.size, self.places = problem.size, problem.places
        self._problem, self._engine = problem, engine

    @property
    def logdensity_fn(self) -> Callable[[Any], Any]:
        """The log density at ``z (size,)``, a scalar in nats, Jacobian included.

        ``jax.grad``, ``jax.vmap`` and ``jax.jit`` work on it. Where model or data are float64 it
        has to be called within :meth:`scope`.
        """
        return self._engine.captured.log_density

    def scope(self) -> AbstractContextManager:
        """Open JAX's 64-bit mode where the density is float64; a context manager."""
        return self._engine.captured.scope()

    def initial(self, seed: int = 0, num: int = 4) -> np.ndarray:
        """Return points ``(num, size)`` near the posterior's mass, as the chains of NUTS start.

        Raises
        ------
        ConvergenceError
            If there is no point of a finite density.
        """

        def evaluate(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            values, gradients = self._engine.evaluate(z.reshape(1, -1, self.size))
            return values.reshape(z.shape[:-1]), gradients.reshape(z.shape)

        dtype = str(self._problem.model.dtype).removeprefix("torch.")
        return find_starts(evaluate, num, self.size, seed, dtype).astype(dtype)

    def constrain(self, positions: Any) -> dict[str, Tensor]:
        """Return the sites on the model's own scale, ``{site: (chain, draw, ...)}``.

        Parameters
        ----------
        positions
            ``(chain, draw, size)``.

        Raises
        ------
        DataError
            If they have another shape.
        """
        z = np.asarray(positions)
        if z.ndim != 3 or z.shape[2] != self.size:
            raise DataError(f"positions: got shape {z.shape}, expected (chain, draw, {self.size})")
        return self._engine.constrain(z)


def log_density(model: Model | Callable[..., Any], data: Any) -> LogDensity:
    """Hand the log density of a model over to samplers of others, as a JAX function.

    Parameters
    ----------
    model, data
        As :func:`ppl_zoo.fit` takes them. Finite discrete latents are summed out; parameters
        stay as they are.

    Raises
    ------
    DataError
        If the model cannot take the data, or has no such density.
    CaptureError, ValueError, RuntimeError
        If XLA cannot run it; says why.

    Examples
    --------
    >>> import jax, ppl_zoo as zoo
    >>> density = zoo.log_density(zoo.EightSchools(), zoo.data.load("eight-schools"))
    >>> z = density.initial(seed=0, num=2)
    >>> z.shape, jax.vmap(density.logdensity_fn)(z).shape
    ((2, 10), (2,))
    >>> density.constrain(z[:, None])["theta"].shape  # (chain, draw, school)
    torch.Size([2, 1, 8])
    """
    from ppl_zoo.solvers.nuts.numpyro_engine import NumPyroEngine

    if not isinstance(model, Model):
        model = FunctionModel(model)
    rows = model.as_rows(getattr(data, "train", data))
    model.check_data(rows)
    with fork_generators(model.device), model.defaults():
        set_seed(0, model.device)  # of the first run, which finds the shapes
        model.find_data_plate(rows)
        model.validate(rows)
        problem = Unconstrained(model, rows)
        problem.refuse_noise()
        engine = NumPyroEngine(problem, NUTS().kernel_options(), num_chains=1, seed=0)
    return LogDensity(problem, engine)
