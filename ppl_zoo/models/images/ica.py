"""Independent component analysis (ICA) with Laplace sources, by maximum likelihood."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_zoo.core.rows import Rows
from ppl_zoo.models.images.linear_sources import (
    MIN_SOURCE,
    LinearSources,
    gibbs_mean,
    principal_axes,
    sparse_mode,
)
from ppl_zoo.models.images.patch_denoising import sum_statistics

__all__ = ["ICA"]

#: rows whose weighted products are summed in single precision
MAX_ROWS_PER_CHUNK = 8192


class ICA(LinearSources):
    """Independent component analysis by maximum likelihood, with Laplace sources.

    Generative model, for each row n::

        sources[n] ~ Laplace(0, 1)                            (D,)
        x[n]       = mean + filters^-1 sources[n]             (D,)

    A Laplace variable is a normal one of random variance, so EM applies: the E-step finds the
    expected precision ``1 / |source|`` of each source, and the M-step maximises
    ``n log |det W| - 1/2 sum_d w_d' V_d w_d`` over the filters W, with V_d the products of rows
    weighted by those precisions. Row by row that maximum is closed (iterative projection), so
    there is no step size and the likelihood never falls. The fit is initialised at the principal
    axes, hence its likelihood is at least that of :class:`PCALaplace` on the same data.

    Parameters
    ----------
    num_features
        Number of features and of sources, D.
    sweeps
        Passes over the rows of W in one M-step.

    Attributes
    ----------
    mean
        ``(D,)``, in units of x; fixed at the mean of the data.
    filters, basis
        ``(D, D)``: from x to sources, and back. For patches of photographs, edge filters.

    References
    ----------
    Bell & Sejnowski (1997), The "independent components" of natural scenes are edge filters,
    https://doi.org/10.1016/S0042-6989(97)00121-1. Ono (2011), Stable and fast update rules for
    independent vector analysis, https://doi.org/10.1109/ASPAA.2011.6082320. Palmer, Kreutz-
    Delgado, Wipf & Rao (2005), Variational EM algorithms for non-Gaussian latent variable models.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> s = torch.distributions.Laplace(0.0, 1.0).sample((5000, 2))
    >>> x = s @ torch.tensor([[1.0, 0.5], [0.0, 1.0]])
    >>> model = zoo.ICA(num_features=2)
    >>> fit = zoo.fit(model, x, progress=False)
    >>> model.encode(x).shape, model.denoise(x[:3], sigma=0.5, estimate="map").shape
    (torch.Size([5000, 2]), torch.Size([3, 2]))
    """

    queries = {"log_prob": "exact", "sample": "exact", "encode": "exact"}
    default_solver = ("EM", {"steps": 200, "tol": 1e-3})
    event_dims = {"x": ("feature",)}

    def __init__(self, num_features: int, sweeps: int = 2) -> None:
        super().__init__()
        for name, value in (("num_features", num_features), ("sweeps", sweeps)):
            if value < 1:
                raise ValueError(f"{name}: got {value}, expected 1 or more")
        self.num_features, self.sweeps = num_features, sweeps
        self.register_buffer("loc", torch.zeros(num_features))
        self.weight = nn.Parameter(torch.eye(num_features))

    @property
    def filters(self) -> Float[Tensor, "d d"]:
        """Filters: rows whose products with ``x - mean`` are the unit sources."""
        return self.weight

    # ---- EM ---------------------------------------------------------------------------------

    @torch.no_grad()
    def initialize(self, rows: Rows) -> None:
        """Initialise at the principal axes, rotated a little.

        The rotation leaves the saddle points that lie at symmetric axes.
        """
        mean, variances, axes = principal_axes(rows)
        turn = 1e-3 * torch.randn(self.num_features, self.num_features).to(axes)
        axes = torch.linalg.matrix_exp(turn - turn.mT) @ axes
        self.loc.copy_(mean)
        lengths = sum(((x.double() - mean) @ axes.mT).abs().sum(0) for x, *_ in rows.chunks(16384))
        self.weight.copy_(axes / (lengths / len(rows)).clamp_min(1e-30)[:, None])

    @torch.no_grad()
    def expected_statistics(self, *batch: Tensor) -> dict[str, Tensor]:
        """E-step: products of rows weighted by the precision of each source, ``(D, D, D)``."""
        return sum_statistics(map(self._statistics, batch[0].split(MAX_ROWS_PER_CHUNK)))

    def _statistics(self, x: Tensor) -> dict[str, Tensor]:
        centred = x - self.loc
        sources = centred @ self.weight.mT
        precision = 1.0 / sources.abs().clamp_min(MIN_SOURCE)
        products = [(centred * p[:, None]).mT @ centred for p in precision.unbind(-1)]
        return {
            "log_likelihood": self._log_density(sources).double().sum(),
            "num_rows": sources.new_tensor(len(x), dtype=torch.float64),
            "products": torch.stack(products).double(),
        }

    @torch.no_grad()
    def maximize(self, statistics: Mapping[str, Tensor]) -> None:
        """M-step: each filter at its optimum given the others."""
        products = statistics["products"] / statistics["num_rows"]
        filters = self.weight.double()
        unit = torch.eye(self.num_features, dtype=filters.dtype, device=filters.device)
        for _ in range(self.sweeps):
            for d, product in enumerate(products):
                row = torch.linalg.solve(filters @ product, unit[d])
                filters[d] = row / (row @ product @ row).sqrt()
        self.weight.copy_(filters)

    @torch.no_grad()
    def relabel(self) -> None:
        """Order sources by falling norm of the basis functions; make largest weights positive."""
        order = self.basis.norm(dim=0).argsort(descending=True, stable=True)
        filters = self.weight[order]
        largest = filters.gather(1, filters.abs().argmax(1, keepdim=True))
        self.weight.copy_(filters * largest.sign())

    # ---- denoising --------------------------------------------------------------------------

    def _posterior_mean(self, y: Tensor, variance: float) -> Tensor:
        return self.loc + gibbs_mean(y - self.loc, self.weight, variance)

    def _posterior_mode(self, y: Tensor, variance: float) -> Tensor:
        return self.loc + sparse_mode(y - self.loc, self.weight, variance)
