"""Parameters of programs: the names and values that Pyro's own SVI gives them."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

import ppl_zoo as zoo
from ppl_zoo.core.random import chain_seed, fork_generators, set_seed

Y = 3 + torch.randn(50, generator=torch.Generator().manual_seed(0))
X = torch.randn(50, 1, generator=torch.Generator().manual_seed(1))
LINE = 2 * X[:, 0] + 1 + 0.1 * torch.randn(50, generator=torch.Generator().manual_seed(2))


def location(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


@pytest.fixture(autouse=True)
def empty_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def run_pyro(model, guide, data, steps=30):
    """Pyro's own SVI from the same start; its parameter store afterwards."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
    for _ in range(steps):
        svi.step(*data)
    return {name: value.detach().clone() for name, value in pyro.get_param_store().items()}


def shared():
    def model(y):
        t = pyro.param("t", torch.tensor(1.0), constraint=constraints.positive)
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mu, t), obs=y)

    def guide(y):
        t = pyro.param("t", torch.tensor(1.0), constraint=constraints.positive)
        pyro.sample("mu", dist.Normal(pyro.param("loc", torch.tensor(0.0)), t))

    return model, guide, (Y,)


def dotted():
    def model(y):
        a, b = pyro.param("a.b", torch.tensor(0.0)), pyro.param("a__b", torch.tensor(1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(a + 2 * b, 1.0), obs=y)

    return model, lambda y: None, (Y,)


def read_by_the_other():
    def model(y):
        scale = pyro.param("scale", torch.tensor(2.0), constraint=constraints.positive)
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mu, scale), obs=y)

    def guide(y):
        pyro.sample("mu", dist.Normal(pyro.param("loc", torch.tensor(0.0)), pyro.param("sd")))

    def start(y):
        pyro.param("sd", torch.tensor(0.5), constraint=constraints.positive)
        return model(y)

    return start, guide, (Y,)


def module():
    torch.manual_seed(3)
    net = nn.Linear(1, 1)

    def model(x, y):
        pyro.module("net", net)
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(net(x).squeeze(-1), 0.5), obs=y)

    return model, lambda x, y: None, (X, LINE)


def pyro_module():
    torch.manual_seed(3)
    net = PyroModule[nn.Linear](1, 1)

    def model(x, y):
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(net(x).squeeze(-1), 0.5), obs=y)

    return model, lambda x, y: None, (X, LINE)


class Regression(PyroModule):
    def __init__(self):
        super().__init__()
        self.linear = PyroModule[nn.Linear](1, 1)
        self.scale = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

    def forward(self, x, y):
        loc = self.linear(x).squeeze(-1)
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(loc, self.scale), obs=y)


def model_is_a_module():
    torch.manual_seed(3)
    return Regression(), lambda x, y: None, (X, LINE)


class Guide(nn.Module):
    """A module that declares by ``pyro.param``, and a net that it registers."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)

    def forward(self, y):
        pyro.module("net", self.net)
        sd = pyro.param("sd", torch.tensor(1.97), constraint=constraints.positive)
        pyro.sample("mu", dist.Normal(self.net(torch.ones(1))[0], sd))


def guide_is_a_module():
    torch.manual_seed(3)
    return location, Guide(), (Y,)


def guide_is_an_object():
    torch.manual_seed(3)
    return location, AutoNormal(location), (Y,)


PROGRAMS = {
    f.__name__: f
    for f in (
        *(shared, dotted, module, pyro_module, model_is_a_module),
        *(guide_is_a_module, guide_is_an_object),
    )
}


@pytest.mark.parametrize("compiled", [False, "xla"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_parameters_have_pyros_names_and_values(name, compiled):
    model, guide, data = PROGRAMS[name]()
    # two deep copies would lose which net the closures hold: the programs are made anew
    theirs = run_pyro(model, guide, data)
    pyro.clear_param_store()
    model, guide, data = PROGRAMS[name]()
    svi = zoo.SVI(
        guide=guide, steps=30, compile=compiled, schedule="constant", objective="stochastic"
    )
    fit = zoo.fit(model, data if len(data) > 1 else data[0], svi, progress=False)
    assert fit.solution.engine == (compiled or "interpreted")
    assert set(fit.params) == set(theirs)
    noisy = "mu" in fit.posterior(2)  # the draws of a step differ
    for key, value in theirs.items():
        torch.testing.assert_close(
            fit.params[key], value, atol=0.25 if noisy else 1e-4, rtol=0.25 if noisy else 1e-4
        )
    assert len(pyro.get_param_store()) == 0


def test_a_module_arrives():
    net = PyroModule[nn.Linear](1, 1)

    def model(x, y):
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(net(x).squeeze(-1), 0.1), obs=y)

    fit = zoo.fit(model, (X, LINE), zoo.SVI(steps=3000), progress=False)
    design = torch.cat([X, torch.ones(50, 1)], 1)
    slope, intercept = torch.linalg.lstsq(design, LINE[:, None]).solution[:, 0].tolist()
    # the user's own net is trained, as Pyro trains it
    assert net.weight.item() == pytest.approx(slope, abs=1e-3)
    assert net.bias.item() == pytest.approx(intercept, abs=1e-3)
    assert fit.params["weight"].item() == net.weight.item()


def test_a_parameter_inside_of_a_module_guide_is_learnt():
    fit = zoo.fit(location, Y, zoo.SVI(steps=6000, guide=Guide()), progress=False)
    sd = (1 / (50 + 1 / 100)) ** 0.5
    assert fit.params["sd"].item() == pytest.approx(sd, rel=0.1)
    assert fit.posterior(4000)["mu"].std().item() == pytest.approx(sd, rel=0.1)


@pytest.mark.parametrize("compiled", [False, "xla"])
def test_restarts_of_nets_start_apart_and_keep_to_themselves(compiled):
    model, _, data = module()
    options = {"compile": compiled, "objective": "stochastic", "learning_rate": 1e-3}
    three = zoo.fit(model, data, zoo.SVI(steps=20, restarts=3, **options), progress=False)
    weights = three.solution.parameters["model._declared.net$$$weight"].flatten()
    assert len(set(weights.tolist())) == 3
    # each is run with its own weights, and moves them
    assert len(set(three.history["objective"][:, 0].tolist())) == 3
    assert (three.history["objective"][:, -1] > three.history["objective"][:, 0]).all()
    model, _, data = module()
    alone = zoo.fit(model, data, zoo.SVI(steps=20, **options), progress=False)
    first, only = three.history["objective"][0], alone.history["objective"][0]
    torch.testing.assert_close(first, only, rtol=1e-5, atol=0)


def test_restarts_of_nets_go_on_where_they_were():
    options = {"restarts": 2, "compile": False, "learning_rate": 0.02}
    model, _, data = module()
    whole = zoo.fit(model, data, zoo.SVI(steps=20, **options), progress=False)
    model, _, data = module()
    half = zoo.fit(model, data, zoo.SVI(steps=10, **options), progress=False)
    model, _, data = module()
    rest = zoo.fit(model, data, zoo.SVI(steps=20, **options), resume=half, progress=False)
    torch.testing.assert_close(rest.history["objective"], whole.history["objective"])


def test_tied_weights_are_one_parameter():
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    x = torch.randn(40, 2)

    def model(x):
        pyro.module("first", first)
        with pyro.plate("rows", len(x)):
            loc = second(first(x))
            pyro.sample("y", dist.Normal(loc, 1.0).to_event(1), obs=-x)

    losses = [
        zoo.fit(
            model,
            x,
            zoo.SVI(steps=5, compile=c, initialize=False, learning_rate=1e-6),
            progress=False,
        ).history["objective"]
        for c in (False, "xla")
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)


def test_a_weight_taken_out_of_its_module_is_not_frozen(monkeypatch):
    monkeypatch.setattr("ppl_zoo.solvers.svi.engines.COMPILE_FROM", 0)
    net = nn.Linear(1, 1)
    weight = net.weight

    def model(x, y):
        pyro.module("net", net)
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal((x @ weight.T)[:, 0] + net.bias, 0.5), obs=y)

    with pytest.warns(UserWarning, match="reads the parameter .* past its module"):
        fit = zoo.fit(model, (X, LINE), zoo.SVI(steps=300, learning_rate=0.1), progress=False)
    assert fit.solution.engine == "interpreted"
    assert net.weight.item() == pytest.approx(2.0, abs=0.1)


class Declares(zoo.Model):
    def model(self, y):
        t = pyro.param("t", torch.tensor(1.0), constraint=constraints.positive)
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with self.observations("rows", y):
            pyro.sample("y", dist.Normal(mu, t), obs=y)

    def guide(self, y):
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("mu", dist.Normal(loc, pyro.param("t") / len(y) ** 0.5))


def test_a_model_may_declare_parameters(tmp_path):
    fit = zoo.fit(Declares(), Y, zoo.SVI(steps=4000), progress=False)
    assert fit.params["loc"].item() == pytest.approx(Y.mean().item(), abs=0.05)
    assert fit.params["t"].item() == pytest.approx(Y.std().item(), rel=0.1)
    again = zoo.load(fit.save(tmp_path / "run"), model=Declares)
    assert {k: v.item() for k, v in again.params.items()} == {
        k: v.item() for k, v in fit.params.items()
    }


def test_programs_see_and_write_their_own_store():
    seen = []

    def model(y):
        pyro.param("a", torch.tensor(1.0))
        seen.append(sorted(pyro.get_param_store().keys()))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(pyro.get_param_store()["a"], 1.0), obs=y)

    pyro.get_param_store()["mine"] = torch.tensor(3.0)
    fit = zoo.fit(model, Y, zoo.SVI(steps=400, learning_rate=0.05), progress=False)
    assert {tuple(names) for names in seen} == {("a",)}
    assert fit.params["a"].item() == pytest.approx(Y.mean().item(), abs=0.05)
    assert list(pyro.get_param_store().keys()) == ["mine"]


def test_both_libraries_side_by_side():
    """A fit leaves Pyro's settings, modules and store alone, and is left alone by them."""
    assert pyro.settings.get("module_local_params") is False
    guide = AutoDiagonalNormal(location)
    svi = SVI(location, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(5):
        svi.step(Y)
    options = {"steps": 3000, "objective": "stochastic"}
    fit = zoo.fit(location, Y, zoo.SVI(guide=AutoDiagonalNormal, **options), progress=False)
    for _ in range(300):
        svi.step(Y)
    store = pyro.get_param_store()
    assert list(store.keys()) == ["AutoDiagonalNormal.loc", "AutoDiagonalNormal.scale"]
    assert store["AutoDiagonalNormal.loc"].item() == pytest.approx(Y.mean().item(), abs=0.3)
    assert set(fit.params) == set(store.keys())
    assert fit.posterior(2000)["mu"].mean().item() == pytest.approx(Y.mean().item(), abs=0.05)

    # a model of the zoo under Pyro's own SVI
    class Line(zoo.Model):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(1, 1)

        def model(self, x, y):
            with self.observations("rows", x):
                pyro.sample("y", dist.Normal(self.net(x)[:, 0], 1.0), obs=y)

    other = SVI(Line(), lambda x, y: None, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    losses = [other.step(X, LINE) for _ in range(100)]
    assert losses[-1] < losses[0] - 10


def late():
    """A guide that declares its scale once its location has moved: until then a constant."""

    def guide(y):
        loc, scale = pyro.param("loc", torch.tensor(0.0)), torch.tensor(1.0)
        if loc.item() > 0.5:
            scale = pyro.param("scale", scale, constraint=constraints.positive)
        pyro.sample("mu", dist.Normal(loc, scale))

    return location, guide


@pytest.mark.parametrize("named", [False, True])
def test_a_parameter_that_appears_late_is_learned_from_its_step_on(named, tmp_path):
    options = (lambda name: {"lr": 0.1 if name == "loc" else 0.05}) if named else {"lr": 0.1}
    model, guide = late()
    svi = SVI(model, guide, pyro.optim.Adam(options), Trace_ELBO())
    with fork_generators(torch.device("cpu")):
        svi.evaluate_loss(Y)
        losses = []
        for step in range(30):
            set_seed(chain_seed(0, 0, step), torch.device("cpu"))
            losses.append(svi.step(Y))
    theirs = {name: value.item() for name, value in pyro.get_param_store().items()}
    pyro.clear_param_store()
    rest = {"elbo": "trace", "schedule": "constant", "compile": False, "objective": "stochastic"}

    def run(steps, **more):
        optimizer = pyro.optim.Adam(options)
        solver = zoo.SVI(steps, guide=guide, optimizer=optimizer, **rest)
        return zoo.fit(model, Y, solver, progress=False, **more)

    fit = run(30)
    assert fit.params.keys() == theirs.keys() == {"loc", "scale"}
    assert theirs["scale"] < 0.9
    for name, value in theirs.items():
        assert fit.params[name].item() == pytest.approx(value, rel=1e-4)
    assert [-v for v in fit.history["objective"][0]] == pytest.approx(losses, rel=1e-4)
    if not named:  # a run that stopped after it appeared goes on to the same end
        run(15).save(tmp_path / "run")
        again = run(30, resume=tmp_path / "run")
        assert again.params["scale"].item() == pytest.approx(theirs["scale"], rel=1e-4)


def test_a_parameter_that_appears_late_is_refused_where_it_is_averaged():
    model, guide = late()
    rest = {"elbo": "trace", "compile": False, "objective": "stochastic", "average": 0.9}
    with pytest.raises(zoo.ConvergenceError, match=r"parameters \(scale\) appear in the course"):
        zoo.fit(model, Y, zoo.SVI(30, guide=guide, learning_rate=0.1, **rest), progress=False)


def normalised():
    """A regression by a net with batch normalisation."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))

    def model(x, y):
        pyro.module("net", net)
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(net(x)[:, 0], scale), obs=y)

    return net, model


def test_batch_normalisation_is_compiled_and_its_statistics_kept():
    """Running statistics are those of the last steps, and no look at a fit moves them."""
    nets = {}
    for compiled in ("xla", False):
        net, model = normalised()
        svi = zoo.SVI(300, learning_rate=0.02, compile=compiled, objective="stochastic")
        fit = zoo.fit(model, (X, LINE), svi, progress=False)
        assert fit.solution.engine == ("xla" if compiled else "interpreted")
        nets[compiled] = net
        before = {name: value.clone() for name, value in net.named_buffers()}
        fit.posterior(5)
        fit.check(num_samples=20)
        for name, value in net.named_buffers():
            assert torch.equal(value, before[name]), name
    # the steps, and the run of the model by which an autoguide of Pyro finds its latents
    assert nets[False][1].num_batches_tracked.item() == 301
    for compiled, net in nets.items():
        hidden = net[0](X)
        # those of an interpreted fit lag behind its weights
        tol = {"atol": 0.02, "rtol": 0.02} if compiled else {"atol": 0.2, "rtol": 0.2}
        torch.testing.assert_close(net[1].running_mean, hidden.mean(0), **tol)
        torch.testing.assert_close(net[1].running_var, hidden.var(0), **tol)
        error = (net.eval()(X)[:, 0] - LINE).square().mean()
        assert error < 0.1
