"""Initialisation of a mixture of zero-mean Gaussians over patches, for EM."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.models.mixtures.gaussian_mixture import GaussianMixture

__all__ = ["LEVEL_VARIANCE", "start_patch_mixture"]

#: variance of the uniform noise that makes 256 grey levels continuous
LEVEL_VARIANCE = 1.0 / 12.0 / 256.0**2
#: weight of a bin's covariance in that of each of its clusters, in patches: a small cluster has a
#: valid covariance by it
PRIOR_PATCHES = 64
#: weight of the means' prior, in patches: they are held at zero
MEAN_STRENGTH = 1e9


def start_patch_mixture(
    x: Float[Tensor, "n d"], num_components: int, *, seed: int = 0
) -> GaussianMixture:
    """Initialise a mixture by clusters of patches of like contrast and direction.

    Patches are binned by norm, and each bin is clustered by the most parallel of some random
    patches of it. EM with many components needs that: initialised at random patches, many of them
    get no weight. The means are held at zero, and covariances have a prior worth 20 patches of the
    noise that makes grey levels continuous.

    Parameters
    ----------
    x
        Patches without their mean, grey levels in [0, 1] made continuous, ``(n, d)``.
    num_components
        Number of components; 200 for the prior that the package ships.
    seed
        Seed of the random patches.

    Returns
    -------
    GaussianMixture
        To be fitted with ``zoo.EM(initialize=False)``.

    Raises
    ------
    DataError
        If there are fewer patches than components.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = torch.randn(500, 15) * torch.rand(500, 1)
    >>> prior = start_patch_mixture(x, 4)
    >>> fit = zoo.fit(prior, x, zoo.EM(steps=5, initialize=False), progress=False)
    >>> prior.sample(3).shape
    torch.Size([3, 15])
    """
    if not 1 <= num_components <= len(x):
        raise DataError(f"num_components: got {num_components}, expected 1 to {len(x)} (patches)")
    random, num_features = torch.Generator().manual_seed(seed), x.shape[1]
    most = 10 if num_components >= 50 else 4
    anchors = most if num_components % most == 0 else 1
    sizes, covariances = [], []
    for part in x[x.norm(dim=-1).argsort()].chunk(num_components // anchors):
        chosen = part[torch.randperm(len(part), generator=random)[:anchors].to(x.device)]
        unit = chosen / chosen.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        label = (part @ unit.T).abs().argmax(-1)
        whole = (part.T @ part / len(part)).double()
        for anchor in range(anchors):
            own = part[label == anchor].double()
            covariances.append((own.T @ own + PRIOR_PATCHES * whole) / (len(own) + PRIOR_PATCHES))
            sizes.append(len(own))
    mixture = GaussianMixture(
        num_components,
        num_features,
        mean_prior=[0.0] * num_features,
        mean_strength=MEAN_STRENGTH,
        covariance_prior=[LEVEL_VARIANCE] * num_features,
        covariance_strength=20.0,
    ).to(x.device)
    noise = LEVEL_VARIANCE * torch.eye(num_features, device=x.device)
    weights = torch.tensor(sizes, dtype=torch.float64, device=x.device).clamp_min(0.5)
    mixture.set_parameters(
        weights / weights.sum(),
        torch.zeros(num_components, num_features, device=x.device),
        torch.stack(covariances) + noise,
    )
    return mixture
