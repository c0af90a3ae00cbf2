"""The catalogue: cards resolve, agree with their classes, and their recipes can be run."""

import dataclasses
import inspect
import math

import pytest

import ppl_zoo as zoo
from ppl_zoo.cli.recipes import held_out, load_data, make_model, make_solver, parse_settings
from ppl_zoo.models.card import Card, Figure
from ppl_zoo.models.catalogue import ZOO, find

RECIPES = [pytest.param(c, r, id=f"{c.name}-{r.name}") for c in ZOO for r in c.recipes]
CARDS = [pytest.param(c, id=c.name) for c in ZOO]
EMBEDDED = {card.name for card in zoo.data.available() if card.embedded}


def test_the_zoo_is_public_and_names_are_unique():
    assert zoo.ZOO is ZOO
    assert len({card.name for card in ZOO}) == len(ZOO)


def test_every_model_of_the_zoo_has_a_card():
    classes = {getattr(zoo.models, name) for name in zoo.models.__all__}
    models = {c for c in classes if inspect.isclass(c) and issubclass(c, zoo.Model)}
    assert models <= {card.model_class for card in ZOO}


@pytest.mark.parametrize("card", CARDS)
def test_card_agrees_with_its_class(card):
    assert issubclass(card.model_class, zoo.Model)
    assert card.queries is card.model_class.queries
    assert set(card.queries) == {"log_prob", "sample", "encode"}
    assert set(card.queries.values()) <= {"exact", "bound", "estimate", "none"}
    assert card.model_class.default_solver[0] == card.solvers[0]
    assert card.factory == f"ppl_zoo.models:{card.model_class.__name__}"


@pytest.mark.parametrize("card", CARDS)
def test_card_says_where_the_model_comes_from(card):
    assert card.references
    for reference in card.references:
        assert reference.link.startswith("https://")
        assert 1900 < reference.year < 2100
        assert reference.link in str(reference)
    assert card.summary.endswith(".")
    assert "References" in (card.model_class.__doc__ or "")


@pytest.mark.parametrize("card", CARDS)
def test_figures_name_their_recipe_and_were_reproduced(card):
    for figure in card.figures:
        assert figure.command and figure.source
        if figure.recipe is not None:
            card.recipe(figure.recipe)
            assert callable(figure.measure)
            assert figure.reproduced is not None
        if figure.reproduced is not None:
            assert figure.agrees(figure.reproduced)


@pytest.mark.parametrize(("card", "recipe"), RECIPES)
def test_recipe_can_be_built(card, recipe):
    assert recipe.data in {c.name for c in zoo.data.available()}
    assert recipe.data in EMBEDDED or not recipe.demo
    make_solver(card, recipe.solver, recipe.options)
    if recipe.data in EMBEDDED:
        dataset = load_data(card.model_class, recipe.data, recipe.data_options)
        model = make_model(card, dataset, recipe.model)
        rows = model.as_rows(dataset.train)
        model.check_data(rows)


def test_every_family_is_in_the_demo():
    shown = {card.family for card in ZOO if any(r.demo for r in card.recipes)}
    assert shown == {card.family for card in ZOO}


def test_find_is_helpful():
    assert find("GaussianMixture").name == "gaussian-mixture"
    with pytest.raises(zoo.DataError, match="did you mean 'gaussian-mixture"):
        find("gausian-mixtur")
    with pytest.raises(zoo.DataError, match="expected one of: old-faithful"):
        find("linear-regression").recipe("nothing")


def test_cards_are_lazy():
    card = Card("x", "x", "x", "no.such.module:X", "x.", ("SVI",))
    with pytest.raises(ModuleNotFoundError):
        _ = card.queries


FIGURES = [
    pytest.param(figure, id=f"{card.name}-{index}")
    for card in ZOO
    for index, figure in enumerate(card.figures)
    if figure.reproduced is not None
]


@pytest.mark.parametrize("figure", FIGURES)
def test_each_comparison_fails_when_a_number_is_changed(figure):
    obtained = figure.reproduced
    off = 2.01 * figure.tolerance + abs(obtained) * 1e-9
    assert figure.agrees(obtained)
    # what is obtained, in either direction
    for value in (obtained + off, obtained - off, math.nan, math.inf, -math.inf):
        assert not figure.agrees(value) and figure.verdict(value).startswith("NO")
    # what was recorded
    for value in (obtained + off, obtained - off):
        assert not dataclasses.replace(figure, reproduced=value).agrees(obtained)
    # what was published: a goal not reached fails, one surpassed is told with its distance
    for sign in (-1.0, 1.0):
        moved = dataclasses.replace(figure, published=obtained + sign * off)
        if figure.better == {-1.0: "higher", 1.0: "lower"}[sign]:
            assert moved.verdict(obtained) == f"better by {off:.3g}"
        else:
            assert not moved.agrees(obtained)


def test_verdict_of_a_figure():
    figure = Figure("w", 1.0, "s", 1.04, "c", tolerance=0.1)
    assert figure.verdict(1.05) == "yes"
    assert figure.verdict(1.2) == "NO: 0.2 from the published one"
    higher = dataclasses.replace(figure, better="higher", reproduced=1.3)
    assert higher.verdict(1.25) == "better by 0.25"
    assert higher.verdict(0.8) == "NO: 0.2 worse than published"
    assert higher.verdict(2.0) == "NO: 0.7 from the recorded one"
    lower = dataclasses.replace(figure, better="lower", reproduced=0.8)
    assert lower.agrees(0.8) and not lower.agrees(1.2)


# --- from words to a fit -----------------------------------------------------------------------


def test_settings_are_literals_or_words():
    assert parse_settings(["a=3", "b-c=tied", "d=True", "e=none", "f=[1, 2]", "g=1e-3"]) == {
        "a": 3,
        "b_c": "tied",
        "d": True,
        "e": None,
        "f": [1, 2],
        "g": 1e-3,
    }
    with pytest.raises(zoo.DataError, match="expected KEY=VALUE"):
        parse_settings(["a"])


def test_tables_are_split_as_the_model_needs(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("a,b,c\n1,2,3\n4,5,6\n")
    mixture = load_data(zoo.GaussianMixture, str(table))
    assert mixture.train.shape == (2, 3)
    last = load_data(zoo.LinearRegression, str(table))
    assert [tuple(t.shape) for t in last.train] == [(2, 2), (2,)]
    assert last.card.feature_names == ("a", "b")
    named = load_data(zoo.LinearRegression, str(table), target="a")
    assert named.train[1].tolist() == [1.0, 4.0]
    with pytest.raises(zoo.DataError, match="expected a column: a, b, c"):
        load_data(zoo.LinearRegression, str(table), target="d")
    with pytest.raises(zoo.DataError, match="has no target"):
        load_data(zoo.GaussianMixture, str(table), target="a")
    with pytest.raises(zoo.DataError, match="expected columns of these names"):
        load_data(zoo.EightSchools, str(table))
    schools = tmp_path / "schools.csv"
    schools.write_text("sigma,y\n1,2\n3,4\n")
    y, sigma = load_data(zoo.EightSchools, str(schools)).train
    assert y.tolist() == [2.0, 4.0] and sigma.tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c, d: make_model(c, d, {}), "needs num_components"),
        (lambda c, d: make_model(c, d, {"colour": 1}), "no argument 'colour'"),
        (lambda c, d: make_model(c, d, {"num_components": 0}), "num_components"),
        (
            lambda c, d: make_solver(c, "magic", {}),
            "expected one of: cavi, earlystopping, em, nuts, sgld, svi",
        ),
        (lambda c, d: make_solver(c, "em", {"learning_rate": 1}), "EM has no option"),
        (lambda c, d: make_solver(c, "em", {"restarts": 0}), "restarts=0"),
        (lambda c, d: load_data(c.model_class, "no-such-data"), "no data set 'no-such-data'"),
        (lambda c, d: load_data(c.model_class, "no/file.csv"), "no such file"),
        (lambda c, d: load_data(c.model_class, "digits", {"colour": 1}), "no option 'colour'"),
    ],
)
def test_bad_requests_say_what_was_expected(make, message):
    card = find("gaussian-mixture")
    dataset = zoo.data.load("old-faithful")
    with pytest.raises(zoo.DataError, match=message):
        make(card, dataset)


def test_steps_mean_the_same_for_every_solver():
    card = find("gaussian-mixture")
    assert make_solver(card, "em", {"steps": 7}).steps == 7
    assert make_solver(card, "svi", {"steps": 7}).steps == 7
    with pytest.warns(DeprecationWarning, match="'max_steps' is called 'steps' now"):
        assert make_solver(card, "em", {"max_steps": 7}).steps == 7


def test_held_out_score():
    dataset = zoo.data.load("photo-patches")
    mixture = zoo.GaussianMixture(2, 64, covariance="spherical")
    zoo.fit(mixture, dataset, zoo.EM(steps=2), progress=False)
    value, split = held_out(mixture, dataset)
    assert split == "test"
    assert value == pytest.approx(float(mixture.log_prob(dataset.test).mean()), rel=1e-4)
    assert held_out(mixture, zoo.data.load("old-faithful")) is None
