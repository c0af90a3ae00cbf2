"""
Five estimators of one gradient
===============================

The bound of a normal posterior approximated by a normal has a gradient in closed form. Which
estimators of it are unbiased, and how much do they scatter, as q comes closer to the posterior?
(Mohamed et al. 2020, https://arxiv.org/abs/1906.10652; Roeder et al. 2017,
https://arxiv.org/abs/1703.09194)
"""

import matplotlib.pyplot as plt
import torch

repeats = 20_000
SIZE = 5
DATA = torch.linspace(-1.0, 2.0, SIZE, dtype=torch.float64)

# %%
# The model, five pairs of z and x, and the gradient of the bound.


def log_joint(z):
    """Log density of z ~ Normal(0, 1), x ~ Normal(z, 1), for each of five pairs."""
    normal = torch.distributions.Normal(torch.zeros_like(DATA), 1.0)
    return (normal.log_prob(z) + normal.log_prob(DATA - z)).sum(-1)


def exact(loc, log_sd):
    """Gradient of the bound: the posterior is Normal(x / 2, 1 / sqrt(2))."""
    return DATA - 2.0 * loc, 1.0 - 2.0 * (2.0 * log_sd).exp()


def log_q(z, loc, log_sd):
    return torch.distributions.Normal(loc, log_sd.exp()).log_prob(z).sum(-1)


def scores(z, loc, log_sd):
    """Gradient of log q at each draw."""
    u = (z - loc) / log_sd.exp()
    return torch.cat([u / log_sd.exp(), u**2 - 1.0], -1)


# %%
# Score-function estimators need no gradient of the model, hence discrete latents are no hindrance.
# Whatever the score averages to zero may be taken off.


def score_function(z, loc, log_sd):
    """E[f grad log q]: needs no gradient of the model."""
    f = (log_joint(z) - log_q(z, loc, log_sd))[..., None]
    return (f * scores(z, loc, log_sd)).mean(-2)


def with_baseline(z, loc, log_sd):
    """Less the mean of f over the other draws, which the score averages to zero."""
    f = (log_joint(z) - log_q(z, loc, log_sd))[..., None]
    others = (f.sum(-2, keepdim=True) - f) / (f.shape[-2] - 1)
    return ((f - others) * scores(z, loc, log_sd)).mean(-2)


def with_control_variate(z, loc, log_sd):
    """Less a * grad log q, a being the best for each coordinate, found on the other half."""
    f = (log_joint(z) - log_q(z, loc, log_sd))[..., None]
    s = scores(z, loc, log_sd)
    halves = [(f[..., i::2, :], s[..., i::2, :]) for i in (0, 1)]
    out = 0.0
    for (f_own, s_own), (f_other, s_other) in (halves, halves[::-1]):
        best = (f_other * s_other**2).mean(-2) / (s_other**2).mean(-2)
        out = out + 0.5 * ((f_own - best[..., None, :]) * s_own).mean(-2)
    return out


# %%
# Pathwise estimators go through z = loc + sd * noise. At the posterior itself the gradient without
# log q's own parameters is zero for each draw: "sticking the landing".


def pathwise(z, loc, log_sd, stick=False):
    """Through z = loc + sd * noise; with ``stick``, log q's own parameters held fixed."""
    noise = (z - loc) / log_sd.exp()
    # one pair of parameters a draw, so that each has its own gradient
    own = [p.expand(z.shape).clone().requires_grad_() for p in (loc, log_sd)]
    moved = own[0] + own[1].exp() * noise
    held = [p.detach() for p in own] if stick else own
    f = log_joint(moved) - log_q(moved, *held)
    return torch.cat(torch.autograd.grad(f.sum(), own), -1).mean(-2)


def sticking_the_landing(z, loc, log_sd):
    return pathwise(z, loc, log_sd, stick=True)


# %%
# Bias against its standard error, and variance, of gradients of ten draws.

ESTIMATORS = {
    "score function": score_function,
    "score function, baseline": with_baseline,
    "score function, control variate": with_control_variate,
    "pathwise": pathwise,
    "pathwise, sticking the landing": sticking_the_landing,
}


def measure(estimator, loc, log_sd, num_draws=10, repeats=20_000):
    """Bias, its standard error, and variance of each coordinate, for estimates of 10 draws."""
    noise = torch.randn(repeats, num_draws, SIZE, dtype=loc.dtype)
    found = estimator(loc + log_sd.exp() * noise, loc, log_sd)
    bias = found.mean(0) - torch.cat(exact(loc, log_sd))
    return bias, found.std(0) / repeats**0.5, found.var(0)


best_loc, best_log_sd = DATA / 2.0, torch.full_like(DATA, 0.5).log() / 2.0
distances, variances = [1.0, 0.3, 0.1, 0.03, 0.01], {}
torch.manual_seed(0)
print("1 sd from the posterior:            bias / error    variance")
for name, estimator in ESTIMATORS.items():
    variances[name] = []
    for distance in distances:
        loc, log_sd = best_loc + 0.7 * distance, best_log_sd + 0.3 * distance
        bias, error, variance = measure(estimator, loc, log_sd, repeats=repeats)
        variances[name].append(variance.mean().item())
        if distance == distances[0]:
            worst = (bias / error).abs().max()
            print(f"{name:34} {worst:12.2f} {variance.mean():12.4f}")

# %%
# Only the last one's scatter vanishes where q is the posterior.

plt.figure(figsize=(7, 4.5), layout="constrained")
for name, values in variances.items():
    plt.loglog(distances, values, marker="o", label=name)
plt.xlabel("distance of q from the posterior / posterior sd")
plt.ylabel("variance of a gradient of 10 draws")
plt.gca().invert_xaxis()
plt.legend()
plt.show()
