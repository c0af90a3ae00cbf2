"""Programs of epidemics, and of plates that are crossed and nested."""

import pyro
import pyro.distributions as dist
import torch
from published import published
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoNormal
from torch.distributions import constraints

SIR_HMC = "pyro.ai/examples/sir_hmc.html"
RECOVERY_TIME = 3.0


def global_model(population):
    r0 = pyro.sample("R0", dist.LogNormal(0.0, 1.0))
    rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
    return -r0 / (RECOVERY_TIME * population), 1 / (1 + RECOVERY_TIME), rho


def observe_step(t, before, after, rates, new_cases):
    """Changes of S and I in a step, as observations of what the states have fixed."""
    rate_s, prob_i, rho = rates
    (s_before, i_before), (s, i) = before, after
    infected = s_before - s
    recovered = i_before - i + infected
    prob_s = -(rate_s * i_before).expm1()
    pyro.sample(f"S2I_{t}", dist.ExtendedBinomial(s_before, prob_s), obs=infected)
    pyro.sample(f"I2R_{t}", dist.ExtendedBinomial(i_before, prob_i), obs=recovered)
    pyro.sample(f"obs_{t}", dist.ExtendedBinomial(infected, rho), obs=new_cases)


def enumerated():
    return TraceEnum_ELBO(max_plate_nesting=0)


def only_global(model):
    return AutoNormal(poutine.block(model, expose=["R0", "rho"]))


@published("SIR enumerated", SIR_HMC, elbo=enumerated)
def sir_enumerated():
    population = 4

    @config_enumerate
    def model(data):
        rates = global_model(population)
        state = torch.tensor(population - 1.0), torch.tensor(1.0)
        for t, datum in poutine.markov(enumerate(data)):
            before = state
            state = tuple(
                pyro.sample(f"{name}_{t}", dist.Binomial(population, 0.5).mask(False))
                for name in "SI"
            )
            observe_step(t, before, state, rates, datum)

    return model, only_global(model), (torch.tensor([1.0, 0.0, 1.0]),)


def quantize(name, x_real, low, high):
    """Round a real number at random to one of its four neighbours, smoothly in its weights."""
    floor = x_real.detach().floor()
    s = x_real - floor
    cubes = torch.stack([(1 - s) ** 3, 4 - 6 * s**2 + 3 * s**3, 1 + 3 * s + 3 * s**2 - 3 * s**3])
    probs = torch.cat([cubes, s[None] ** 3]) / 6
    choice = pyro.sample(f"Q_{name}", dist.Categorical(probs), infer={"enumerate": "parallel"})
    x = floor + choice - 1
    x = torch.max(x, 2 * low - 1 - x)
    return pyro.deterministic(name, torch.min(x, 2 * high + 1 - x))


@published("SIR relaxed", SIR_HMC, elbo=enumerated)
def sir_relaxed():
    population = torch.tensor(6.0)

    def model(data):
        rates = global_model(population)
        between = dist.Uniform(-0.5, population + 0.5).mask(False).expand(data.shape).to_event(1)
        s_real = pyro.sample("S_aux", between)
        i_real = pyro.sample("I_aux", between)
        state = population - 1.0, torch.tensor(1.0)
        for t, datum in poutine.markov(enumerate(data)):
            before = state
            zero = torch.zeros(())
            s = quantize(f"S_{t}", s_real[..., t], zero, population)
            i = quantize(f"I_{t}", i_real[..., t], zero, population)
            state = s, i
            observe_step(t, before, state, rates, datum)

    exposed = ["R0", "rho", "S_aux", "I_aux"]
    guide = AutoNormal(poutine.block(model, expose=exposed), init_loc_fn=starts_of_sir)
    return model, guide, (torch.tensor([1.0, 1.0, 0.0]),)


def starts_of_sir(site):
    """Start from states that are possible, as the example's heuristic does."""
    values = {
        "R0": torch.tensor(1.5),
        "rho": torch.tensor(0.5),
        "S_aux": torch.tensor([3.9, 3.1, 2.2]),
        "I_aux": torch.tensor([1.8, 1.9, 2.1]),
    }
    return values[site["name"]]


@published("SEIR continuous", "pyro.ai/examples/epi_intro.html")
def seir_continuous():
    population = 50.0

    def binomial(total, prob):
        """Moments of a binomial, for a normal in its place."""
        return dist.Normal(total * prob, (total * prob * (1 - prob) + 0.1).sqrt())

    def model(cases):
        r0 = pyro.sample("R0", dist.LogNormal(0.0, 1.0))
        rho = pyro.sample("rho", dist.Beta(10.0, 10.0))
        s, e, i = torch.tensor(population - 2.0), torch.tensor(1.0), torch.tensor(1.0)
        for t in range(len(cases)):
            prob = -torch.expm1(-r0 * i / (RECOVERY_TIME * population))
            infected = pyro.sample(f"S2E_{t}", binomial(s, prob)).clamp(min=0.0)
            ill = pyro.sample(f"E2I_{t}", binomial(e, 0.5)).clamp(min=0.0)
            recovered = pyro.sample(f"I2R_{t}", binomial(i, 1 / RECOVERY_TIME)).clamp(min=0.0)
            s = (s - infected).clamp(min=0.0)
            e = (e + infected - ill).clamp(min=0.0)
            i = (i + ill - recovered).clamp(min=0.0)
            pyro.sample(f"cases_{t}", dist.Poisson(rho * ill + 0.1), obs=cases[t])

    return model, AutoNormal, (torch.tensor([1.0, 0.0, 2.0, 1.0]),)


@published("normal of minipyro", "pyro.ai/examples/minipyro.html")
def normal_of_minipyro():
    def model(data):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(data), dim=-1):
            pyro.sample("obs", dist.Normal(loc, 1.0), obs=data)

    def guide(data):
        loc = pyro.param("guide_loc", torch.tensor(0.0))
        scale = pyro.param("guide_scale_log", torch.tensor(0.0)).exp()
        pyro.sample("loc", dist.Normal(loc, scale))

    return model, guide, (torch.linspace(1.0, 5.0, 20),)


@published("crossed plates", "pyro.ai/examples/tensor_shapes.html")
def crossed_plates():
    def model(counts, sizes):
        rows = pyro.plate("rows", counts.shape[0], dim=-2)
        columns = pyro.plate("columns", counts.shape[1], dim=-1)
        with rows:
            row = pyro.sample("row", dist.Normal(0.0, 1.0))
        with columns:
            column = pyro.sample("column", dist.Normal(0.0, 1.0))
        with rows, columns:
            rate = pyro.sample("rate", dist.Normal(row + column, 0.5))
            pyro.sample("counts", dist.Poisson(rate.exp()), obs=counts)
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        with columns, rows:
            pyro.sample("sizes", dist.Normal(rate, scale), obs=sizes)

    sizes = torch.linspace(-1.0, 1.0, 12).reshape(4, 3)
    return model, AutoNormal, (sizes.exp().round(), sizes)


@published("nested plates", "pyro.ai/examples/forecasting_iii.html")
def nested_plates():
    def model(data):
        num_regions, num_towns, num_years = data.shape
        overall = pyro.sample("overall", dist.Normal(0.0, 2.0))
        with pyro.plate("regions", num_regions, dim=-3):
            region = pyro.sample("region", dist.Normal(overall, 1.0))
            with pyro.plate("towns", num_towns, dim=-2):
                town = pyro.sample("town", dist.Normal(region, 0.5))
                with pyro.plate("years", num_years, dim=-1):
                    pyro.sample("data", dist.Normal(town, 0.3), obs=data)

    def guide(data):
        num_regions, num_towns, _ = data.shape
        loc = pyro.param("overall_loc", torch.tensor(0.0))
        pyro.sample("overall", dist.Normal(loc, 0.3))
        with pyro.plate("regions", num_regions, dim=-3):
            loc = pyro.param("region_loc", lambda: torch.zeros(num_regions, 1, 1))
            pyro.sample("region", dist.Normal(loc, 0.3))
            with pyro.plate("towns", num_towns, dim=-2):
                loc = pyro.param("town_loc", lambda: torch.zeros(num_regions, num_towns, 1))
                start = torch.full((num_regions, num_towns, 1), 0.2)
                scale = pyro.param("town_scale", start, constraint=constraints.positive)
                pyro.sample("town", dist.Normal(loc, scale))

    return model, guide, (torch.linspace(-1.0, 2.0, 24).reshape(2, 3, 4),)
