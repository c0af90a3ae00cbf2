"""NUTS engine: Pyro's own kernel on the interpreted potential, chain after chain."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pyro.infer.mcmc import NUTS as PyroKernel
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.random import chain_seed, set_seed
from ppl_zoo.solvers.unconstrained import Unconstrained

__all__ = ["PyroEngine"]


class _Kernel(PyroKernel):
    """Pyro's kernel, with the statistics of each draw: energy, steps and acceptance.

    Attributes
    ----------
    kinetic
        Kinetic energies that the draw evaluated, the first at its start.
    num_proposals
        Leapfrog steps.
    diverged
        Whether one of them diverged.
    acceptance_rate
        Mean acceptance probability; Pyro only holds the mean over all draws.
    """

    def __init__(self, **options: Any) -> None:
        self.kinetic: list[Tensor] = []
        self.num_proposals, self.diverged, self.acceptance_rate = 0, False, 0.0
        super().__init__(**options)

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        self.kinetic, self.num_proposals = [], 0
        before, n = self._mean_accept_prob, self._t + 1
        n = n if n <= self._warmup_steps else n - self._warmup_steps
        out = super().sample(params)
        self.acceptance_rate = float(before + n * (self._mean_accept_prob - before))
        return out

    def _kinetic_energy(self, r_unscaled: Any) -> Any:
        value = super()._kinetic_energy(r_unscaled)
        self.kinetic.append(value)
        return value

    def _build_basetree(self, *args: Any) -> Any:
        self.num_proposals += 1
        tree = super()._build_basetree(*args)
        self.diverged = bool(tree.diverging) or (self.num_proposals > 1 and self.diverged)
        return tree


class PyroEngine:
    """Pyro's NUTS; a :class:`ppl_zoo.solvers.nuts.nuts.NUTSEngine`.

    Parameters
    ----------
    problem
        The density.
    options
        As for ``NumPyroEngine``.
    num_chains, seed
        Each chain's noise is a function of (seed, chain).
    """

    name = "interpreted"

    def __init__(
        self,
        problem: Unconstrained,
        options: dict[str, Any],
        num_chains: int,
        seed: int,
    ) -> None:
        self.problem, self.options, self.seed = problem, options, seed
        self.num_chains, self.iteration = num_chains, 0
        self.kernels: list[_Kernel] = []

    def _potential(self, params: dict[str, Tensor]) -> Tensor:
        return self.problem.energy(params["z"], *self.problem.data)

    def evaluate(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Potential energies and gradients at ``z (chain, point, size)``."""
        model = self.problem.model
        values, gradients = np.empty(z.shape[:2]), np.empty(z.shape)
        for place in np.ndindex(*z.shape[:2]):
            leaf = torch.tensor(z[place], dtype=model.dtype, device=model.device)
            leaf.requires_grad_()
            with torch.enable_grad():
                energy = self._potential({"z": leaf})
                (gradient,) = torch.autograd.grad(energy, leaf)
            values[place], gradients[place] = energy.item(), gradient.cpu().numpy()
        return values, gradients

    def start(self, z: np.ndarray) -> None:
        """Start the chains at ``z (chain, size)``."""
        model = self.problem.model
        points = torch.from_numpy(z).to(model.device, model.dtype)
        for chain in range(self.num_chains):
            set_seed(chain_seed(self.seed, chain), model.device)
            kernel = _Kernel(
                potential_fn=self._potential,
                target_accept_prob=self.options["target_accept_prob"],
                max_tree_depth=self.options["max_tree_depth"],
                full_mass=self.options["mass_matrix"] == "dense",
            )
            kernel.initial_params = {"z": points[chain].clone()}
            kernel.setup(self.options["num_warmup"])
            self.kernels.append(kernel)

    def advance(self, max_iterations: int) -> dict[str, np.ndarray]:
        """Take one iteration of each chain; arrays ``(chain, 1, ...)``."""
        rows = []
        for chain, kernel in enumerate(self.kernels):
            set_seed(chain_seed(self.seed, chain, self.iteration), self.problem.model.device)
            potential = float(kernel._potential_energy_last)
            step_size = float(kernel.step_size)  # of this iteration, before it adapts
            z = kernel.sample({"z": kernel._z_last["z"]})["z"]
            if kernel._t == self.options["num_warmup"]:
                kernel.end_warmup()
            rows.append(
                {
                    "z": z.detach().numpy().copy(),
                    "lp": -float(kernel._potential_energy_last),
                    "energy": potential + float(kernel.kinetic[0]),
                    "diverging": kernel.diverged,
                    "n_steps": kernel.num_proposals,
                    "acceptance_rate": kernel.acceptance_rate,
                    "step_size": step_size,
                }
            )
        self.iteration += 1
        return {k: np.array([row[k] for row in rows])[:, None] for k in rows[0]}

    def constrain(self, z: np.ndarray) -> dict[str, Tensor]:
        """Values of the sites at ``z (chain, draw, size)``, ``{site: (chain, draw, ...)}``."""
        points = torch.from_numpy(z).flatten(0, 1)
        with torch.no_grad():
            found = [self.problem.values(p, *self.problem.data) for p in points]
        return {
            k: torch.stack([f[k] for f in found]).reshape(*z.shape[:2], *shape)
            for k, shape in self.problem.shapes.items()
        }

    def pack(self) -> dict[str, Tensor]:
        """State of the kernels and of their adaptation, ``CHAIN.NAME``."""
        out: dict[str, Tensor] = {}
        for chain, kernel in enumerate(self.kernels):
            for name, value in _kernel_state(kernel).items():
                out[f"{chain}.{name}"] = value.detach().clone()
        return out

    def unpack(self, tensors: dict[str, Tensor], z: Tensor, iteration: int) -> None:
        """Restore a packed state; ``z (chain, size)`` shows the shape alone.

        Raises
        ------
        DataError
            If the fit is of an earlier version, which kept none.
        """
        if "0.z" not in tensors:
            raise DataError(
                "resume: got a fit by backend='pyro' of an earlier version, which kept no state "
                "of the sampler; start a new one with init=fit"
            )
        points = [tensors[f"{chain}.z"] for chain in range(self.num_chains)]
        self.start(torch.stack(points).cpu().numpy())
        for chain, kernel in enumerate(self.kernels):
            prefix = f"{chain}."
            own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            _restore_kernel(kernel, own)
        self.iteration = iteration


#: plain numbers of a kernel's state, of the objects that hold them
_KERNEL_NUMBERS = ("_t", "_accept_cnt")
_ADAPTER_NUMBERS = ("step_size", "_current_window")
_AVERAGING_NUMBERS = ("prox_center", "_x_avg", "_g_avg", "_t")


def _holders(kernel: _Kernel) -> dict[str, tuple[Any, tuple[str, ...]]]:
    """Objects of a kernel with the numbers that change while it runs."""
    adapter = kernel._adapter
    held = {
        "kernel": (kernel, _KERNEL_NUMBERS),
        "adapter": (adapter, _ADAPTER_NUMBERS),
        "averaging": (adapter._step_size_adapt_scheme, _AVERAGING_NUMBERS),
    }
    for scheme in adapter.mass_matrix_adapter._adapt_scheme.values():  # of the one block
        held["welford"] = (scheme, ("n_samples",))
    return held


def _kernel_state(kernel: _Kernel) -> dict[str, Tensor]:
    """Tensors of a kernel's state."""
    out = {
        f"{name}.{key}": torch.as_tensor(getattr(holder, key), dtype=torch.float64)
        for name, (holder, keys) in _holders(kernel).items()
        for key in keys
    }
    out["z"], out["gradient"] = kernel._z_last["z"], kernel._z_grads_last["z"]
    out["energy"] = torch.as_tensor(kernel._potential_energy_last)
    out["accepted"] = torch.as_tensor(kernel._mean_accept_prob)
    matrix = kernel._adapter.mass_matrix_adapter
    (out["inverse_mass"],) = matrix.inverse_mass_matrix.values()
    for scheme in matrix._adapt_scheme.values():
        if scheme.n_samples:
            out["welford_mean"], out["welford_m2"] = scheme._mean, scheme._m2
    return out


def _restore_kernel(kernel: _Kernel, state: dict[str, Tensor]) -> None:
    """Put a state into a kernel that has just been set up."""
    matrix = kernel._adapter.mass_matrix_adapter
    (block,) = matrix.inverse_mass_matrix
    matrix.inverse_mass_matrix = {block: state["inverse_mass"].clone()}
    for name, (holder, keys) in _holders(kernel).items():
        for key in keys:
            value = state[f"{name}.{key}"].item()
            whole = key in ("_t", "_accept_cnt", "_current_window", "n_samples")
            setattr(holder, key, int(value) if whole else value)
    for scheme in matrix._adapt_scheme.values():
        if scheme.n_samples:
            scheme._mean, scheme._m2 = state["welford_mean"].clone(), state["welford_m2"].clone()
    kernel._mean_accept_prob = state["accepted"].clone()
    kernel._cache({"z": state["z"].clone()}, state["energy"], {"z": state["gradient"].clone()})
