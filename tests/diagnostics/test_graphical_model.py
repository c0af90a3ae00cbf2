"""Graphical models of programs: edges held against graphs that are known by hand."""

import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.distributions import constraints

import ppl_zoo as zoo
from ppl_zoo.core.errors import DataError
from ppl_zoo.diagnostics.graphical_model import FORMATS, MAX_NUMBERED

Y = torch.linspace(-1.0, 1.0, 6)


def regression(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    mean = pyro.deterministic("mean", x @ w)
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(mean, sigma), obs=y)


def mixture(y):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("components", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(loc[z], 1.0), obs=y)


def chain(y):
    x, scale = torch.zeros(()), pyro.sample("scale", dist.HalfNormal(1.0))
    for t in pyro.markov(range(len(y))):
        x = pyro.sample(f"x_{t}", dist.Normal(0.9 * x, scale))
        pyro.sample(f"y_{t}", dist.Normal(x, 1.0), obs=y[t])


def process(x, y):
    length = pyro.sample("length", dist.LogNormal(0.0, 1.0))
    noise = pyro.sample("noise", dist.HalfNormal(1.0))
    kernel = torch.exp(-0.5 * (x[:, None] - x).square() / length**2)
    covariance = kernel + (noise + 0.1) * torch.eye(len(x))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), covariance), obs=y)


def hierarchy(group, y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    with pyro.plate("groups", 3):
        a = pyro.sample("a", dist.Normal(mu, tau))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(a[group], 1.0), obs=y)


def factors():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(a.clamp(min=0.0), 1.0))
    pyro.factor("penalty", -((a - b) ** 2))


def masked(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
    on = pyro.sample("on", dist.Bernoulli(0.5))
    with pyro.plate("rows", len(y)), poutine.scale(scale=s), poutine.mask(mask=on > 0):
        pyro.sample("y", dist.Normal(a, 1.0), obs=y)
    seen = torch.arange(len(y)) < 3
    with pyro.plate("more", len(y)):
        pyro.sample("v", dist.Normal(a, 1.0), obs=y, obs_mask=seen)


def crossed(y):
    rows, columns = pyro.plate("rows", y.shape[0], dim=-2), pyro.plate("columns", y.shape[1])
    with rows:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with columns:
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with rows, columns:
        pyro.sample("y", dist.Normal(a + b, 1.0), obs=y)


def nested(y):
    with pyro.plate("countries", y.shape[0], dim=-2):
        c = pyro.sample("c", dist.Normal(0.0, 1.0))
        with pyro.plate("people", y.shape[1], dim=-1):
            pyro.sample("y", dist.Normal(c, 1.0), obs=y)


def minibatch(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y), subsample_size=2) as batch:
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y[batch])


def default(y, drawn=[]):  # noqa: B006  a mutable default, which a run fills
    drawn.append(pyro.sample("a", dist.Normal(0.0, 1.0)))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    pyro.sample(
        "y", dist.Normal(drawn[-1] + 0 * len(drawn), b.exp()).expand([6]).to_event(1), obs=y
    )


def ordered(y):
    """Issue 3441 of Pyro: edges through a Delta and through deterministic sites."""
    raw = pyro.sample("raw", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    cuts = pyro.sample("cuts", dist.Delta(torch.cumsum(raw.exp(), -1), event_dim=1))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    score = pyro.deterministic("score", slope * y)
    with pyro.plate("rows", len(y)):
        logits = (cuts - score[:, None]).cumsum(-1)
        pyro.sample("label", dist.Categorical(logits=logits), obs=(y > 0).long())


def written(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    held = torch.zeros(2)
    view = held[1:]
    view[0] = a  # through a view, in place
    held += 0 * torch.ones_like(b)  # of b only the shape
    listed = torch.tensor([b, 1.0])
    pyro.sample("y", dist.Normal(held.sum() * torch.ones(6), 1.0).to_event(1), obs=y)
    pyro.sample("v", dist.Normal(listed.sum(), 1.0), obs=torch.tensor(0.0))


def decided(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    if a > -5.0:
        pyro.sample("b", dist.Normal(0.0, 1.0))
    c = pyro.sample("c", dist.Normal(0.0, a.exp()))
    pyro.sample("y", dist.Normal(c, 1.0).expand([6]).to_event(1), obs=y)


NESTED = torch.zeros(3, 4)
KNOWN = [
    (regression, (torch.randn(6, 2), Y), "x>mean w>mean mean>y sigma>y"),
    (mixture, (Y,), "weights>z loc>y z>y"),
    (
        chain,
        (Y[:3],),
        "scale>x_0 x_0>y_0 scale>x_1 x_0>x_1 x_1>y_1 scale>x_2 x_1>x_2 x_2>y_2",
    ),
    (process, (Y, Y), "x>y length>y noise>y"),
    (hierarchy, (torch.tensor([0, 0, 1, 1, 2, 2]), Y), "mu>a tau>a a>y group>y"),
    (factors, (), "a>b a>penalty b>penalty"),
    (
        masked,
        (Y,),
        "a>y s>y on>y a>v_observed a>v_unobserved v_observed>v v_unobserved>v",
    ),
    (crossed, (NESTED,), "a>y b>y"),
    (nested, (NESTED,), "c>y"),
    (minibatch, (Y,), "mu>y"),
    (default, (Y,), "a>y b>y"),
    (ordered, (Y,), "raw>cuts slope>score y>score cuts>label score>label"),
    (written, (Y,), "a>y b>v"),
]


@pytest.mark.parametrize(
    ("program", "data", "edges"), KNOWN, ids=lambda v: getattr(v, "__name__", "")
)
def test_edges_known_by_hand(program, data, edges):
    graph = zoo.render(program, data)
    assert {f"{a}>{b}" for a, b in graph.edges} == set(edges.split())
    assert not graph.possible and not graph.notes


def test_values_read_in_python_are_told_and_never_left_out():
    graph = zoo.render(decided, (Y,))
    assert set(graph.edges) == {("a", "b"), ("a", "c"), ("a", "y"), ("c", "y")}
    assert graph.possible == {("a", "b"), ("a", "y")}  # a > -5 may have decided on them
    assert "a read in Python" in graph.notes[0] and "if a > -5.0" in graph.notes[0]
    assert "b ~ Normal(0, 1) <- a?" in str(graph)


def test_plates_kinds_and_shapes():
    graph = zoo.render(crossed, (NESTED,))
    assert {p.label for p in graph.plates.values()} == {"rows: 3", "columns: 4"}
    assert graph.nodes["y"].plates == ("rows", "columns") and graph.nodes["y"].shape == (3, 4)
    assert graph.nodes["a"].shape == (3, 1) and graph.nodes["a"].kind == "latent"
    assert zoo.render(nested, (NESTED,)).nodes["y"].plates == ("countries", "people")
    assert zoo.render(minibatch, (Y,)).plates["rows"].label == "rows: 2 of 6"
    graph = zoo.render(regression, (torch.randn(6, 2), Y))
    kinds = {name: node.kind for name, node in graph.nodes.items()}
    assert kinds == {
        **{"x": "input", "w": "latent", "sigma": "latent", "mean": "deterministic"},
        "y": "observed",
    }
    assert graph.nodes["w"].event_shape == (2,) and graph.nodes["sigma"].support == "positive"
    assert zoo.render(factors).nodes["penalty"].kind == "factor"


def test_text_of_eight_schools():
    schools = zoo.data.load("eight-schools")
    model = zoo.EightSchools()
    text = str(zoo.render(model, schools))
    assert "theta = f(mu, tau, eta) [schools: 8] <- mu, tau, eta" in text
    assert "y     ~ Normal(theta, sigma) [schools: 8] observed <- sigma, theta" in text
    assert model.data_plate is None and not model.data_names  # it is left as it was
    centred = zoo.render(zoo.EightSchools("centered"), schools)
    assert set(centred.edges) == {
        *{("mu", "theta"), ("tau", "theta"), ("theta", "y"), ("sigma", "y")},
    }


def test_nets_are_one_node_and_the_guide_is_drawn():
    x = (torch.rand(100, 64) > 0.5).float()
    graph = zoo.render(zoo.VAE(64, 2), x, guide=True)
    assert sum(n.startswith("decoder.") for n in graph.nodes) == 6
    assert set(graph.collapsed().edges) == {("decoder", "x"), ("z", "x")}
    assert set(graph.guide.collapsed().edges) == {("encoder", "z"), ("x", "z")}
    assert graph.plates["observations"].size == 100 and graph.nodes["x"].shape == (100, 64)
    assert "decoder : 6 parameters" in str(graph) and "guide of VAE" in str(graph)
    assert set(zoo.render(zoo.VAE(64, 2), x, parameters=False).edges) == {("z", "x")}


def test_parameters_of_functions_and_the_callers_store():
    net = nn.Linear(2, 1)

    def model(x, y):
        pyro.module("net", net)
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(net(x)[:, 0], scale), obs=y)

    pyro.clear_param_store()
    graph = zoo.render(model, (torch.randn(6, 2), Y))
    assert set(graph.edges) == {
        *{("net$$$weight", "y"), ("net$$$bias", "y"), ("scale", "y"), ("x", "y")},
    }
    assert graph.nodes["scale"].support == "positive"
    assert "net   : 2 parameters" in str(graph)
    assert not list(pyro.get_param_store().keys())


def test_guides_as_programs_classes_and_of_fits():
    schools = zoo.data.load("eight-schools")
    graph = zoo.render(zoo.EightSchools(), schools, guide=AutoNormal)
    assert {b for _, b in graph.guide.edges} == {"mu", "tau", "eta"}
    fit = zoo.fit(zoo.EightSchools(), schools, zoo.SVI(steps=2), progress=False)
    fitted = zoo.render(fit, guide=True)
    assert fitted.edges == zoo.render(zoo.EightSchools(), schools).edges
    assert fitted.guide is not None
    with pytest.raises(DataError, match="guide: got None"):
        zoo.render(zoo.EightSchools(), schools, guide=True)
    with pytest.raises(DataError, match="got no data"):
        zoo.render(zoo.EightSchools())
    with pytest.raises(DataError, match=r"expected a zoo\.Model"):
        zoo.render(3)


def test_loops_are_shown_by_their_first_steps():
    graph = zoo.render(chain, (torch.zeros(12),))
    small = graph.collapsed()
    assert len(graph.nodes) == 25 and len(small.nodes) == 9
    assert small.nodes["x_3 ... x_11"].members == tuple(f"x_{t}" for t in range(3, 12))
    assert ("x_2", "x_3 ... x_11") in small.edges
    assert all(a != b for a, b in small.edges)
    assert zoo.render(chain, (torch.zeros(MAX_NUMBERED),)).collapsed().nodes.keys() >= {"x_5"}

    def coin(y):
        f = pyro.sample("f", dist.Beta(1.0, 1.0))
        for i in pyro.plate("tosses", len(y)):
            pyro.sample(f"toss_{i}", dist.Bernoulli(f), obs=y[i])

    small = zoo.render(coin, (torch.ones(9),)).collapsed()
    assert small.edges == (("f", "toss_i"),) and small.nodes["toss_i"].plates == ("tosses",)


#: a statement of the DOT language, as far as it is written here
_DOT = r'(?:"(?:[^"\\]|\\.)*")'
STATEMENT = re.compile(
    rf"(?:digraph {_DOT} \{{|node \[[^\]]*\];|subgraph cluster_\d+ \{{|"
    rf"label={_DOT}; style=rounded; labeljust=r;|{_DOT} \[label={_DOT}, [^\]]*\];|"
    rf"{_DOT} -> {_DOT}(?: \[style=dashed\])?;|\}})$"
)


@pytest.mark.parametrize(
    ("program", "data"), [(p, d) for p, d, _ in KNOWN] + [(decided, (Y,))], ids=lambda v: ""
)
def test_graphviz_source_is_well_formed(program, data):
    graph = zoo.render(program, data)
    lines = [line.strip() for line in graph.to_dot().splitlines()]
    assert all(STATEMENT.match(line) for line in lines), lines
    opened = sum(line.endswith("{") for line in lines)
    assert opened == lines.count("}") == 1 + sum("subgraph" in line for line in lines)
    drawn = {tuple(re.findall(_DOT, line)) for line in lines if " -> " in line}
    assert drawn == {(f'"{a}"', f'"{b}"') for a, b in graph.collapsed().edges}
    for plate in graph.plates.values():  # in a cluster, or in the labels of its nodes
        assert plate.label in graph.to_dot()


def test_names_are_quoted():
    def model():
        a = pyro.sample('a "b" \\c', dist.Normal(0.0, 1.0))
        pyro.sample("$x$ & y", dist.Normal(a, 1.0), obs=torch.tensor(0.0))

    graph = zoo.render(model)
    assert '"a \\"b\\" \\\\c" -> "$x$ & y";' in graph.to_dot()
    assert "<svg" in graph._repr_svg_()


def test_formats_are_refused_by_name(tmp_path):
    with pytest.raises(DataError, match="got 'x.jpeg', expected one of .svg"):
        zoo.render(factors).save(tmp_path / "x.jpeg")
    for suffix in FORMATS:
        assert zoo.render(factors).save(tmp_path / f"x{suffix}").stat().st_size > 100
