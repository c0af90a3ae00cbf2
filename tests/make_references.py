"""References for posteriors of posteriordb whose own are rough, by NumPyro's NUTS alone.

Twins by hand that are easier to sample and have the same posterior: hierarchies non-centred, a
mixture in the half where its means are ordered, to which exchanging the components adds the other
half exactly. Float64, a dense mass matrix, four chains of 20,000 draws.

    PPL_ZOO_DATA=... python tests/make_references.py     # writes tests/references.json
"""

import json
from pathlib import Path

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS
from posteriordb import read

OUT = Path(__file__).parent / "references.json"


def pilots(y, group, scenario):
    mu_a, mu_b = (numpyro.sample(k, dist.Normal(0.0, 1.0)) for k in ("mu_a", "mu_b"))
    sigma_a, sigma_b, sigma_y = (
        numpyro.sample(f"sigma_{k}", dist.Uniform(0.0, 100.0)) for k in ("a", "b", "y")
    )
    with numpyro.plate("groups", 5):
        raw_a = numpyro.sample("raw_a", dist.Normal(0.0, 1.0))
    with numpyro.plate("scenarios", 8):
        raw_b = numpyro.sample("raw_b", dist.Normal(0.0, 1.0))
    a = numpyro.deterministic("a", 10 * mu_a + sigma_a * raw_a)
    b = numpyro.deterministic("b", 10 * mu_b + sigma_b * raw_b)
    numpyro.sample("y", dist.Normal(a[group] + b[scenario], sigma_y), obs=y)


def glmm_poisson(year, count):
    alpha = numpyro.sample("alpha", dist.Uniform(-20.0, 20.0))
    beta = [numpyro.sample(f"beta_{k}", dist.Uniform(-10.0, 10.0)) for k in (1, 2, 3)]
    sigma = numpyro.sample("sigma", dist.Uniform(0.0, 5.0))
    with numpyro.plate("years", len(year)):
        raw = numpyro.sample("raw", dist.Normal(0.0, 1.0))
    eps = numpyro.deterministic("eps", sigma * raw)
    trend = alpha + beta[0] * year + beta[1] * year**2 + beta[2] * year**3
    numpyro.sample("count", dist.Poisson(jnp.exp(trend + eps)), obs=count)


def ordered_mixture(y):
    low = numpyro.sample("low", dist.Normal(0.0, 2.0))
    gap = numpyro.sample("gap", dist.HalfNormal(5.0))  # undone below
    mu = numpyro.deterministic("mu", jnp.stack([low, low + gap]))
    numpyro.factor(
        "prior", dist.Normal(0.0, 2.0).log_prob(low + gap) - dist.HalfNormal(5.0).log_prob(gap)
    )
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    theta = numpyro.sample("theta", dist.Beta(5.0, 5.0))
    weights = jnp.stack([jnp.log(theta), jnp.log1p(-theta)])
    parts = dist.Normal(mu, sigma).log_prob(y[:, None])
    numpyro.factor("y", jax.nn.logsumexp(weights + parts, -1).sum())


def exchanged(draws):
    """Draws of one ordering with those of the other."""
    both = {k: np.concatenate([draws[k], draws[k][..., ::-1]], 1) for k in ("mu", "sigma")}
    return both | {"theta": np.concatenate([draws["theta"], 1.0 - draws["theta"]], 1)}


def main():
    numpyro.enable_x64()
    flight, poisson = read("pilots"), read("GLMM_Poisson_data")
    programs = {
        "pilots-pilots": (
            pilots,
            (
                flight["y"],
                flight["group_id"].astype(np.int64) - 1,
                flight["scenario_id"].astype(np.int64) - 1,
            ),
        ),
        "GLMM_Poisson_data-GLMM_Poisson_model": (glmm_poisson, (poisson["year"], poisson["C"])),
        "low_dim_gauss_mix_collapse-low_dim_gauss_mix_collapse": (
            ordered_mixture,
            (read("low_dim_gauss_mix_collapse")["y"],),
        ),
    }
    found = {}
    for name, (program, data) in programs.items():
        kernel = NUTS(program, dense_mass=True, target_accept_prob=0.98, max_tree_depth=12)
        mcmc = MCMC(
            kernel,
            num_warmup=3000,
            num_samples=20_000,
            num_chains=4,
            chain_method="sequential",
            progress_bar=False,
        )
        mcmc.run(jax.random.key(0), *(jnp.asarray(np.asarray(d)) for d in data))
        every = {k: np.asarray(v) for k, v in mcmc.get_samples(group_by_chain=True).items()}
        draws = {
            k: v for k, v in every.items() if k not in ("low", "gap", "raw", "raw_a", "raw_b")
        }
        dataset = az.convert_to_dataset(draws)
        ess = min(float(np.min(v)) for v in az.ess(dataset).values())
        rhat = max(float(np.max(v)) for v in az.rhat(dataset).values())
        diverging = int(np.sum(mcmc.get_extra_fields()["diverging"]))
        if "mu" in draws and program is ordered_mixture:
            draws = exchanged(draws)
        parameters = {}
        for site, values in draws.items():
            flat = values.reshape(values.shape[0] * values.shape[1], -1)
            for i in range(flat.shape[1]):
                label = site if values.ndim == 2 else f"{site}[{i + 1}]"
                column = flat[:, i]
                parameters[label] = {"mean": float(column.mean()), "sd": float(column.std())}
        found[name] = {
            "draws": 80_000,
            "worst_rhat": rhat,
            "least_ess": ess,
            "divergences": diverging,
            "parameters": parameters,
        }
        print(name, {k: v for k, v in found[name].items() if k != "parameters"}, flush=True)
        OUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
