"""A guide that bends: a normalising flow over all continuous latents at once."""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer import autoguide
from torch import Tensor, nn

from ppl_zoo.flows import Flow, make_flow

__all__ = ["AutoFlow"]


class AutoFlow(autoguide.AutoContinuous):
    """A flow of coupling layers, scaled and shifted, over the unconstrained latents.

    It has no shape of its own: curved and skewed posteriors are within its reach, for more steps
    than a normal takes. Needs two latents or more, and zuko (the extra ``flows``).

    Parameters
    ----------
    model
        The program.
    init_loc_fn
        As for every autoguide of Pyro.
    num_transforms, hidden
        Coupling layers, and the widths of their nets.

    References
    ----------
    Rezende & Mohamed 2015, Variational inference with normalizing flows,
    https://arxiv.org/abs/1505.05770. Dinh, Sohl-Dickstein & Bengio 2017, Density estimation
    using Real NVP, https://arxiv.org/abs/1605.08803.
    """

    def __init__(
        self,
        model: Any,
        init_loc_fn: Any = autoguide.init_to_feasible,
        num_transforms: int = 4,
        hidden: tuple = (32, 32),
    ) -> None:
        super().__init__(model, init_loc_fn=init_loc_fn)
        self._options = {"num_transforms": num_transforms, "hidden": hidden}

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        self.loc = nn.Parameter(self._init_loc())
        self.log_scale = nn.Parameter(torch.full_like(self.loc, -2.0))
        # two passes: as fast to draw from as to score
        self.flow = make_flow(self.latent_dim, passes=2, **self._options).to(self.loc)

    def get_posterior(self, *args: Any, **kwargs: Any) -> Flow:
        """Return the distribution of the unconstrained vector."""
        return Flow(self.flow(), loc=self.loc, scale=self.log_scale.exp())

    def _loc_scale(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("a flow has no median in closed form; take draws")
