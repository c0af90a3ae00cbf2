"""What objects say of themselves: a line in the terminal, a small page in a notebook."""

import dataclasses
import html.parser
import inspect
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from faults.test_every_card import CASES

import ppl_zoo as zoo
from ppl_zoo.core.display import brief
from ppl_zoo.core.errors import ForkError

ERRORS = (zoo.ConvergenceError, zoo.DataError, zoo.QueryError, zoo.RunError, ForkError)
NET = {"rain": [], "wet": ["rain"]}, {"rain": ["no", "yes"], "wet": ["<dry>", "wet"]}


def rows():
    return torch.randn(40, 2)


def fitted():
    return zoo.fit(zoo.GaussianMixture(2, 2), rows(), zoo.EM(steps=30), progress=False)


def regression(solver=None):
    x = torch.linspace(-1.0, 1.0, 20)[:, None]
    return zoo.fit(zoo.LinearRegression(1), (x, x[:, 0]), solver, progress=False)


def restored():
    image = torch.rand(12, 14)
    return zoo.restore(image, sigma=0.1, method="posterior", num_draws=8, progress=False)


def vae():
    x = (torch.rand(30, 4) < 0.5).float()
    return zoo.fit(zoo.VAE(4, 2, (6,)), x, zoo.SVI(steps=5, compile=False), progress=False)


#: each public class but the models: an object of it, and what its line has to say
OBJECTS = {
    "CAVI": (lambda: zoo.CAVI(stochastic=True), "CAVI(stochastic=True)"),
    "EM": (lambda: zoo.EM(steps=5, restarts=2), "EM(steps=5, restarts=2)"),
    "SGLD": (zoo.SGLD, "SGLD()"),
    "SVI": (lambda: zoo.SVI(optimizer=torch.optim.SGD), "SVI(optimizer=SGD)"),
    "NUTS": (lambda: zoo.NUTS(init=fitted()), "NUTS(init=Fit(GaussianMixture, EM"),
    "Auto": (lambda: zoo.Auto(seconds=5.0), "Auto(seconds=5.0)"),
    "EarlyStopping": (lambda: zoo.EarlyStopping(num_chains=3), "EarlyStopping(num_chains=3)"),
    "Tiling": (lambda: zoo.Tiling(num_samples=8), "Tiling(num_samples=8)"),
    "SplitGibbs": (zoo.SplitGibbs, "SplitGibbs()"),
    "LocalELBO": (lambda: zoo.LocalELBO(5, bound="iwae"), "LocalELBO(num_particles=5"),
    "Restoration": (restored, "Restoration(image=Tensor(12, 14), sd=Tensor(12, 14)"),
    "Fit": (fitted, "Fit(GaussianMixture, EM, objective="),
    "DataCard": (lambda: zoo.data.load("digits").card, "DataCard(name='digits'"),
    "Dataset": (lambda: zoo.data.load("digits"), "Dataset('digits': train=(1297, 64)"),
    "Blur": (lambda: zoo.imaging.Blur(torch.ones(3, 5)), "Blur(kernel=Tensor(3, 5)"),
    "Downsample": (lambda: zoo.imaging.Downsample(2), "Downsample(factor=2)"),
    "Identity": (zoo.imaging.Identity, "Identity()"),
    "Lanczos": (lambda: zoo.imaging.Lanczos(2), "Lanczos("),
    "LinearOperator": (zoo.imaging.LinearOperator, "LinearOperator()"),
    "Mask": (lambda: zoo.imaging.Mask(torch.ones(4, 6)), "Mask(mask=Tensor(4, 6))"),
    "PatchGrid": (lambda: zoo.imaging.PatchGrid((9, 8), 4), "PatchGrid("),
    "LatentUse": (
        lambda: zoo.evaluation.latent_use(vae().model, torch.zeros(9, 4)),
        "LatentUse(kl=Tensor(2,)",
    ),
    "RowEstimate": (
        lambda: zoo.evaluation.importance_sampling(vae().model, torch.zeros(9, 4)),
        "RowEstimate(value=Tensor(9,)",
    ),
    "Sandwich": (lambda: zoo.evaluation.Sandwich(torch.zeros(3), torch.ones(3)), "Tensor(3,)"),
    # what public functions return
    "Solution": (lambda: fitted().solution, "Solution(parameters=<"),
    "Rows": (lambda: fitted().rows, "Rows(40 rows: (40, 2))"),
    "Check": (lambda: fitted().check(num_samples=100), "scalars; posterior: "),
    "PosteriorDraws": (
        lambda: regression(zoo.SGLD(8, 2, num_samples=4)).guide,
        "PosteriorDraws(variance=Tensor(1, 4)",
    ),
    "LinearResponse": (
        lambda: regression(zoo.SVI(guide="normal")).linear_response(),
        "LinearResponse(",
    ),
    "GraphicalModel": (lambda: zoo.render(fitted()), "GraphicalModel(GaussianMixture, 5 nodes"),
    "Divergence": (lambda: zoo.kl(fitted().model, fitted().model), "Divergence(value="),
    "Evidence": (lambda: zoo.evidence(regression(), "importance"), "Evidence(value="),
    "Card": (lambda: zoo.ZOO[0], "Card('bayesian-linear-regression', BayesianLinearRegression"),
    "Recipe": (lambda: zoo.ZOO[0].recipes[0], "Recipe(name="),
    "Marginals": (
        lambda: zoo.BayesNet(*NET).marginals({"wet": "wet"}),
        "Marginals(2 nodes, 1 rows; rain: no 0.5, yes 0.5; wet: <dry> 0, wet 1)",
    ),
    "BernoulliLikelihood": (lambda: vae().model.likelihood, "BernoulliLikelihood("),
    "StandardNormalPrior": (lambda: vae().model.prior, "StandardNormalPrior(loc=Tensor(2,)"),
}


def check_line(line, name):
    assert name in line
    assert len(line) < 400 and line.count("\n") < 3
    assert "tensor(" not in line and "array([" not in line and "object at 0x" not in line


def public_classes():
    for module in (zoo, zoo.data, zoo.imaging, zoo.evaluation):
        for name in module.__all__:
            found = getattr(module, name)
            if isinstance(found, type) and not issubclass(found, ERRORS):
                yield name, found


def test_every_public_class_is_shown_here():
    models = {type(make()).__name__ for make, _ in CASES.values()} | {"Model"}
    others = {name for name, cls in public_classes() if not issubclass(cls, zoo.Model)}
    assert others - {"Citation"} <= set(OBJECTS)  # which is shown as its BibTeX
    assert {name for name, cls in public_classes() if issubclass(cls, zoo.Model)} <= models


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", OBJECTS)
def test_a_line_names_class_and_sizes(name):
    make, start = OBJECTS[name]
    line = repr(make())
    check_line(line, start)


@pytest.mark.parametrize("card", CASES)
def test_the_line_of_a_model_has_its_arguments(card):
    model = CASES[card][0]()
    line = repr(model)
    check_line(line, f"{type(model).__name__}(")
    if card != "bayes-net":  # whose tables are many
        arguments = inspect.signature(type(model).__init__).parameters.values()
        needed = [a.name for a in arguments if a.default is a.empty and a.name != "self"]
        assert all(f"{name}=" in line for name in needed)


def test_only_what_differs_from_the_defaults_is_said():
    assert repr(zoo.NADE(784, 500)) == "NADE(num_features=784, num_hidden=500)"
    model = zoo.GaussianMixture(3, 2, covariance="tied")
    assert repr(model) == "GaussianMixture(num_components=3, num_features=2, covariance='tied')"
    function = zoo.fit(coin, torch.ones(5), zoo.SVI(steps=5), progress=False).model
    assert repr(function) == "FunctionModel(coin)"
    assert repr(zoo.BayesNet(*NET)) == "BayesNet(2 nodes, 1 arcs, 3 free parameters)"
    assert brief(list(range(99))) == "<99 values>" and brief({"a": 1}) == "{'a': 1}"


def coin(x):
    bias = pyro.sample("bias", dist.Beta(2.0, 2.0))
    with pyro.plate("tosses", len(x)):
        pyro.sample("x", dist.Bernoulli(bias), obs=x)


class Page(html.parser.HTMLParser):
    """Tags that are open, and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag != "img":
            self.open.append(tag)
        for name, value in attrs:
            assert name != "src" or value.startswith("data:image/png;base64,")
            assert name != "style" or not re.search(r"(?<!-)color|background", value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


SHOWN = ("Fit", "Check", "Card", "Dataset", "DataCard", "Restoration", "Marginals", "Evidence")


@pytest.mark.parametrize("name", [*SHOWN, "EM", "Solution"])
def test_a_notebook_shows_a_small_page_in_its_own_colours(name):
    shown = OBJECTS[name][0]()._repr_html_()
    page = Page(shown)
    assert page.open == [] and len(shown) < 60_000
    assert "tensor(" not in page.text and "object at 0x" not in page.text


def test_pages_are_escaped():
    shown = zoo.BayesNet(*NET).marginals()._repr_html_()
    assert "<dry>" not in shown and "&lt;dry&gt;" in shown
    card = dataclasses.replace(zoo.data.load("digits").card, title="<script>alert(1)</script>")
    assert "<script>" not in dataclasses.replace(zoo.data.load("digits"), card=card)._repr_html_()


def test_a_model_and_the_row_check_have_a_page():
    assert "GaussianMixture(num_components=2" in Page(fitted().model._repr_html_()).text
    found = vae().check_rows(torch.zeros(3, 4), num_samples=100)
    assert repr(found).startswith("RowCheck(3 rows") and "k-hat" in Page(found._repr_html_()).text


def test_a_printed_fit_says_what_to_do_next():
    first, *rest = str(fitted()).splitlines()
    assert re.fullmatch(
        r"Fit\(GaussianMixture, EM, objective=.*, .* after \d+ steps, 1 chain, .* s\)", first
    )
    assert len(rest) < 3 and "next: " in rest[-1]
    short = zoo.fit(zoo.GaussianMixture(2, 2), rows(), zoo.EM(steps=2, tol=0.0), progress=False)
    assert "zoo.EM(steps=20), resume=fit) goes on" in str(short)
    more = zoo.fit(short.model, rows(), zoo.EM(steps=20), resume=short, progress=False)
    assert more.solution.steps[0] > 2 and "fit.check()" in str(regression())
