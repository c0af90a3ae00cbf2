"""Gaussian scale mixture: normal distributions of one mean and covariance, times a scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Array, Model
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.common import validation
from ppl_zoo.models.common.conjugate import LOG_2PI
from ppl_zoo.models.common.missing import condition, marginal_factor
from ppl_zoo.models.common.moments import moments

__all__ = ["GaussianScaleMixture"]

#: share of a feature's variance that the others must leave
MIN_FREE_VARIANCE = 1e-12
#: smallest scale, in units of their mean: rows that are all zero would have an unbounded density
MIN_SCALE = 1e-8
#: rows whose norms give the starts of the scales
MAX_START_ROWS = 10_000


class GaussianScaleMixture(Model):
    """Mixture of Gaussians that differ in scale only.

    Generative model, for each row n::

        assignment[n] ~ Categorical(weights)                                    one of K
        x[n]          ~ Normal(mean, scales[assignment[n]] * covariance)        (D,)

    Heavy tails with few parameters: the contrast of image patches varies far more than their
    shape. Scales have mean 1 under the weights, so that ``covariance`` is that of x.

    Parameters
    ----------
    num_components, num_features
        K and D.
    zero_mean
        Whether the mean is held at 0, as for patches without their mean.

    Attributes
    ----------
    weights, scales, mean, covariance
        ``(K,)``, ``(K,)`` without units, ``(D,)`` in units of x, ``(D, D)`` in their square.

    References
    ----------
    Andrews & Mallows (1974), Scale mixtures of normal distributions, JRSS B 36,
    https://doi.org/10.1111/j.2517-6161.1974.tb00989.x. Portilla, Strela, Wainwright &
    Simoncelli (2003), Image denoising using scale mixtures of Gaussians in the wavelet domain,
    https://doi.org/10.1109/TIP.2003.818640.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> loud = (torch.rand(1000, 1) < 0.2).float()
    >>> x = (1.0 + 9.0 * loud) * torch.randn(1000, 2)
    >>> model = zoo.GaussianScaleMixture(num_components=2, num_features=2)
    >>> fit = zoo.fit(model, x, progress=False)
    >>> model.log_prob(x).shape, model.encode(x).shape, model.sample(5).shape
    (torch.Size([1000]), torch.Size([1000, 2]), torch.Size([5, 2]))
    """

    integers_are_numbers = True
    queries = {"log_prob": "exact", "sample": "exact", "encode": "exact"}
    default_solver = ("EM", {})
    event_dims = {
        "x": ("feature",),
        "mean": ("feature",),
        "weights": ("component",),
        "scales": ("component",),
        "covariance": ("feature", "feature_1"),
    }

    def __init__(self, num_components: int, num_features: int, zero_mean: bool = False) -> None:
        super().__init__()
        for name, value in (("num_components", num_components), ("num_features", num_features)):
            if value < 1:
                raise ValueError(f"{name}: got {value}, expected 1 or more")
        self.num_components, self.num_features = num_components, num_features
        self.zero_mean = zero_mean
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.log_scales = nn.Parameter(torch.linspace(-1.0, 1.0, num_components))
        self.loc = nn.Parameter(torch.zeros(num_features), requires_grad=not zero_mean)
        # the Cholesky factor of the covariance, with the logarithm of its diagonal
        self.factor = nn.Parameter(torch.zeros(num_features, num_features))

    @property
    def weights(self) -> Float[Tensor, " k"]:
        """Probability of each scale."""
        return self.logits.softmax(0)

    @property
    def scales(self) -> Float[Tensor, " k"]:
        """Factor of the covariance, by component; their mean is 1."""
        return (self.log_scales - self._log_mean_scale()).exp()

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """Mean of x."""
        return self.loc

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """Covariance of x."""
        factor = self._factor()
        return self._log_mean_scale().exp() * (factor @ factor.mT)

    def _log_mean_scale(self) -> Tensor:
        return (self.logits.log_softmax(0) + self.log_scales).logsumexp(0)

    def _factor(self) -> Tensor:
        return self.factor.tril(-1) + self.factor.diagonal().exp().diag()

    # ---- generative model and posterior of the assignments ----------------------------------

    def model(self, x: Tensor) -> None:
        """Draw a scale for each row, then the row."""
        zero = torch.zeros_like(self.loc)
        unit = dist.MultivariateNormal(zero, scale_tril=self._factor(), validate_args=False)
        with self.observations("observations", x):
            z = pyro.sample(
                "assignment", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"}
            )
            sd = (0.5 * self.log_scales).exp()[z][..., None].expand(*z.shape, self.num_features)
            affine = dist.transforms.AffineTransform(self.loc, sd, event_dim=1)
            pyro.sample("x", dist.TransformedDistribution(unit, [affine]), obs=x)

    def guide(self, x: Tensor) -> None:
        """Draw assignments from their exact posterior."""
        with torch.no_grad():  # the bound is tight, so its gradient does not pass through q
            logits = self._log_joint(x).to(x.dtype)
        with self.observations("observations", x):
            pyro.sample("assignment", dist.Categorical(logits=logits))

    def _whitened(self, x: Tensor) -> Tensor:
        """Whitened rows ``(n, D)``, float64."""
        difference = x.double() - self.loc.double()
        return torch.linalg.solve_triangular(
            self._factor().double(), difference.mT, upper=False
        ).mT

    def _log_joint(self, x: Tensor) -> Tensor:
        """Log joint density of row and assignment, ``(n, K)``."""
        squares = self._whitened(x).square().sum(-1)
        return self._score(squares, self.num_features, self.factor.diagonal().sum())

    def _score(self, squares: Tensor, count: Tensor | int, log_det: Tensor) -> Tensor:
        """Log joint density ``(n, K)`` from squared norms of whitened rows, ``count`` features."""
        count = torch.as_tensor(count, dtype=squares.dtype, device=squares.device)[..., None]
        log_norm = 0.5 * count * (LOG_2PI + self.log_scales) + log_det[..., None]
        exponent = 0.5 * squares[..., None] * (-self.log_scales).exp()
        return self.logits.log_softmax(0) - exponent - log_norm

    # ---- EM ---------------------------------------------------------------------------------

    def check_data(self, rows: Rows) -> None:
        """Refuse x of another shape or type."""
        validation.check_features(rows, self.num_features, second="sample_weight")
        super().check_data(rows)

    @torch.no_grad()
    def initialize(self, rows: Rows) -> None:
        """Start from the covariance of x, and scales from the norms of some whitened rows."""
        validation.check_fittable(rows, self.num_components)
        mean, covariance = moments(rows, matrix=True)
        if self.zero_mean:
            covariance, mean = covariance + torch.outer(mean, mean), torch.zeros_like(mean)
        self._store(mean, _cholesky(covariance, float(len(rows))))
        lengths = self._whitened(rows.spread(MAX_START_ROWS)[0]).square().mean(-1)
        levels = torch.linspace(0.02, 0.98, self.num_components + 2).to(lengths)[1:-1]
        start = lengths.quantile(levels).clamp_min(MIN_SCALE).log().to(self.dtype)
        self.log_scales.copy_(start + 0.1 * torch.randn_like(start))
        self.logits.zero_()

    @torch.no_grad()
    def expected_statistics(self, *batch: Tensor) -> dict[str, Tensor]:
        """E-step: counts ``(K,)``, sums ``(K, D)`` and squares ``(K, D, D)`` of whitened rows."""
        y = self._whitened(batch[0])
        squares = y.square().sum(-1)
        joint = self._score(squares, self.num_features, self.factor.diagonal().sum())
        log_density = joint.logsumexp(-1)
        r = (joint - log_density[:, None]).exp()
        weighted = r.mT[:, :, None] * y
        return {
            "log_likelihood": log_density.sum(),
            "counts": r.sum(0),
            "sums": r.mT @ y,
            "squares": weighted.mT @ y,
        }

    @torch.no_grad()
    def maximize(self, statistics: Mapping[str, Tensor]) -> None:
        """M-step: coordinate ascent in mean, covariance and scales, until it converges."""
        counts, sums, squares = (statistics[k] for k in ("counts", "sums", "squares"))
        total, size = counts.sum(), self.num_features
        scales = self.log_scales.double().exp()
        shift = torch.zeros_like(sums[0])
        factor, before = torch.eye(size, dtype=sums.dtype, device=sums.device), scales
        for _ in range(100):
            precision = 1.0 / scales
            if not self.zero_mean:
                shift = (precision @ sums) / (precision @ counts)
            first, zeroth = precision @ sums, precision @ counts
            cross = torch.outer(first, shift)
            second = torch.einsum("k,kij->ij", precision, squares) - cross - cross.mT
            factor = _cholesky(
                (second + zeroth * torch.outer(shift, shift)) / total, float(counts.min())
            )
            inverse = torch.cholesky_inverse(factor)
            lengths = torch.einsum("ij,kij->k", inverse, squares)
            lengths = lengths - 2.0 * sums @ (inverse @ shift) + counts * (shift @ inverse @ shift)
            found = lengths / (size * counts.clamp_min(1e-30))
            scales = torch.where(counts > 1e-6, found, scales).clamp_min(MIN_SCALE)
            if ((scales / before).log().abs() < 1e-9).all():
                break
            before = scales
        old = self._factor().double()
        weights = counts / total
        unit = (weights * scales).sum()
        self._store(self.loc + old @ shift, unit.sqrt() * (old @ factor))
        self.log_scales.copy_((scales / unit).log())
        self.logits.copy_(weights.clamp_min(1e-30).log())

    def _store(self, mean: Tensor, factor: Tensor) -> None:
        self.loc.copy_(mean)
        self.factor.copy_(factor.tril(-1) + factor.diagonal().log().diag())

    @torch.no_grad()
    def relabel(self) -> None:
        """Order components by rising scale."""
        order = self.log_scales.argsort(stable=True)
        for parameter in (self.logits, self.log_scales):
            parameter.copy_(parameter[order].clone())

    # ---- queries ----------------------------------------------------------------------------

    def log_prob(self, x: Array) -> Float[Tensor, " n"]:
        """Log density of each row, in nats, ``(n,)``."""
        return torch.cat([joint.logsumexp(-1) for joint in self._log_joints(x)]).to(self.dtype)

    def encode(self, x: Array) -> Float[Tensor, "n k"]:
        """Posterior probability of each scale, ``(n, K)``."""
        return torch.cat([joint.softmax(-1) for joint in self._log_joints(x)]).to(self.dtype)

    @torch.no_grad()
    def sample(
        self, num_samples: int, given: Array | Mapping[str, Any] | None = None
    ) -> Float[Tensor, "n d"]:
        """Draw rows, all features or those that are not given.

        Parameters
        ----------
        num_samples
            Number of rows.
        given
            ``(D,)`` or ``(num_samples, D)``: values to be held, NaN where free; the free ones
            are drawn from their exact conditional distribution. Or ``{column: value}``, after a
            fit to a data frame.

        Returns
        -------
        Tensor
            ``(num_samples, D)``.

        Raises
        ------
        DataError
            If ``given`` has another shape.
        """
        factor = self._factor()
        noise = torch.randn(num_samples, self.num_features, dtype=self.dtype, device=self.device)
        logits = self.logits.expand(num_samples, -1)
        if given is None:
            held = None
        else:
            held = validation.read_given(
                self.coded("x", given), num_samples, (self.num_features,), self.loc
            )
            observed = ~held.isnan()
            part = marginal_factor(factor @ factor.mT, observed)
            r = torch.where(observed, held - self.loc, 0.0)
            y = torch.linalg.solve_triangular(part, r[..., None], upper=False)[..., 0]
            log_det = part.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            logits = self._score(y.square().sum(-1), observed.sum(-1).to(y), log_det)
        z = torch.multinomial(logits.softmax(-1), 1)[:, 0]
        scale = self.log_scales[z].exp()
        x = self.loc + scale.sqrt()[:, None] * (noise @ factor.mT)
        if held is None:
            return x
        covariances = scale[:, None, None] * (factor @ factor.mT)
        return condition(x, held, covariances)

    def _log_joints(self, x: Array) -> list[Tensor]:
        return [self._log_joint(chunk) for (chunk,) in self.batches(x, size=16384)]


def _cholesky(covariance: Tensor, num_rows: float) -> Tensor:
    """Cholesky factor of a covariance, which has to be of full rank.

    ``num_rows`` are those of x, or of the component that has the fewest.
    """
    factor, failed = torch.linalg.cholesky_ex(covariance)
    free = factor.diagonal().square() / covariance.diagonal()  # of what the others explain
    if not failed and (free > MIN_FREE_VARIANCE).all():
        return factor
    if num_rows <= len(covariance):
        raise DataError(
            f"x: got {num_rows:.3g} rows to fit, or for a component, expected more than the "
            f"{len(covariance)} features: in the subspace of few rows the density has no bound; "
            "take fewer components or features"
        )
    raise DataError(
        "x: got rows in a subspace (features are linear functions of each other), expected a "
        "covariance of full rank; leave features out, or add noise"
    )
