"""A second referee: blackjax's adjusted microcanonical sampler on a Pyro model.

The zoo hands the log density of the model over as a JAX function. blackjax tunes and runs its
adjusted MCLMC on it (Robnik et al. 2025, https://arxiv.org/abs/2503.01707), and the means and sds
of both samplers are printed side by side. Needs `pip install blackjax`. Run:

    python examples/blackjax_referee.py
"""

import argparse

import blackjax
import jax
import jax.numpy as jnp
from blackjax.mcmc import adjusted_mclmc_dynamic as mclmc

import ppl_zoo as zoo


def main(draws=4000, warmup=4000, chains=2, seed=0):
    schools = zoo.data.load("eight-schools").train
    density = zoo.log_density(zoo.EightSchools(), schools)
    with density.scope():
        keys = jax.random.split(jax.random.key(seed), chains)
        run = jax.jit(lambda key, z: sample(density.logdensity_fn, key, z, warmup, draws))
        positions = jax.vmap(run)(keys, jnp.asarray(density.initial(seed, chains)))
    referee = density.constrain(positions)
    fit = zoo.fit(zoo.EightSchools(), schools, zoo.NUTS(draws // 4, target_accept=0.95), seed=seed)
    errors = {}
    print("site     MCLMC mean, sd      NUTS mean, sd")
    for site, values in fit.posterior(draws).items():
        a, b = referee[site].flatten(0, 1), values.flatten(0, 1)
        errors[site] = ((a.mean(0) - b.mean(0)) / b.std(0)).abs().max().item()
        print(
            f"{site:8} {a.mean():8.2f} {a.std(0).mean():8.2f}   {b.mean():8.2f} "
            f"{b.std(0).mean():8.2f}   means differ by {errors[site]:.2f} sds at most"
        )
    return errors


def sample(logdensity, key, z, warmup, draws):
    """Draws ``(draw, size)`` of one chain that starts at ``z (size,)``."""
    kernel = mclmc.build_kernel(integration_steps_fn=mclmc.make_random_trajectory_length_fn(True))
    begin, tune, go_on = jax.random.split(key, 3)
    state, tuned, _ = blackjax.adjusted_mclmc_find_L_and_step_size(
        kernel, logdensity, warmup, mclmc.init(z, logdensity, begin), tune, target=0.9
    )

    def step(state, key):
        state, _ = kernel(
            rng_key=key,
            state=state,
            logdensity_fn=logdensity,
            step_size=tuned.step_size,
            inverse_mass_matrix=tuned.inverse_mass_matrix,
            integration_steps_params=(tuned.L / tuned.step_size,),
        )
        return state, state.position

    return jax.lax.scan(step, state, jax.random.split(go_on, draws))[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--warmup", type=int, default=4000)
    parser.add_argument("--chains", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
