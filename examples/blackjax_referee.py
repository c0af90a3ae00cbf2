"""
A second referee: blackjax on a Pyro model
==========================================

``zoo.log_density`` hands the log density of a model over as a JAX function, so that any sampler in
JAX can judge a fit. Here blackjax tunes and runs its adjusted microcanonical sampler (Robnik et
al. 2025, https://arxiv.org/abs/2503.01707), beside the NUTS of the zoo. Needs ``pip install
blackjax``.

.. note:: This page is not run when the documentation is built: it takes a minute.
"""

import blackjax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from blackjax.mcmc import adjusted_mclmc_dynamic as mclmc

import ppl_zoo as zoo

draws, warmup, chains, seed = 4000, 4000, 2, 0
schools = zoo.data.load("eight-schools").train
density = zoo.log_density(zoo.EightSchools(), schools)

# %%
# One chain, as blackjax has it: tune, then step.


def sample(logdensity, key, z):
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


# %%
# All chains at once. ``constrain`` takes positions back to the sites of the program.

with density.scope():
    keys = jax.random.split(jax.random.key(seed), chains)
    run = jax.jit(lambda key, z: sample(density.logdensity_fn, key, z))
    positions = jax.vmap(run)(keys, jnp.asarray(density.initial(seed, chains)))
referee = density.constrain(positions)
fit = zoo.fit(
    zoo.EightSchools(),
    schools,
    zoo.NUTS(draws // 4, target_accept=0.95),
    seed=seed,
    progress=False,
)

# %%
# Both, side by side.

posterior = fit.posterior(draws)
print("site     MCLMC mean, sd      NUTS mean, sd")
for site, values in posterior.items():
    a, b = referee[site].flatten(0, 1), values.flatten(0, 1)
    error = ((a.mean(0) - b.mean(0)) / b.std(0)).abs().max()
    print(
        f"{site:8} {a.mean():8.2f} {a.std(0).mean():8.2f}   {b.mean():8.2f} "
        f"{b.std(0).mean():8.2f}   means differ by {error:.2f} sds at most"
    )
plt.figure(figsize=(6, 3.6), layout="constrained")
for label, found in (("adjusted MCLMC", referee), ("NUTS", posterior)):
    plt.hist(
        found["tau"].flatten(), bins=80, range=(0, 20), density=True, histtype="step", label=label
    )
plt.xlabel("sd between schools, points")
plt.ylabel("posterior density")
plt.legend()
plt.show()

# sphinx_gallery_thumbnail_path = "pictures/eight-schools.png"
