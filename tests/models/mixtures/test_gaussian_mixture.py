"""GaussianMixture against scikit-learn, closed forms, and brute force."""

import math

import numpy as np
import pyro
import pyro.infer
import pytest
import torch
from pyro import poutine
from sklearn.mixture import GaussianMixture as Sklearn
from sklearn.mixture._gaussian_mixture import _compute_precision_cholesky
from torch.distributions import MultivariateNormal

import ppl_zoo as zoo
from ppl_zoo.models.mixtures.em_statistics import Scorer

KINDS = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}


@pytest.fixture(scope="module")
def faithful():
    return zoo.data.load("old-faithful").train.double()


@pytest.fixture
def blobs():
    g = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0, 0.0], [4.0, 1.0, -2.0], [-3.0, 5.0, 1.0]])
    x = torch.randn(300, 3, generator=g, dtype=torch.float64)
    x = x @ torch.tensor([[1.0, 0.0, 0.0], [0.5, 1.2, 0.0], [-0.3, 0.1, 0.7]]).double()
    return x + centres.double().repeat(100, 1)


def made(num_components, num_features, kind="full", dtype=torch.float64, **options):
    torch.manual_seed(0)
    return zoo.GaussianMixture(num_components, num_features, kind, **options).to(dtype)


def fitted(x, num_components, kind="full", max_steps=200, seed=0, tol=1e-9, **options):
    data = x if isinstance(x, tuple) else (x,)
    model = made(num_components, data[0].shape[1], kind, data[0].dtype, **options)
    solver = zoo.EM(steps=max_steps, tol=tol)
    zoo.fit(model, x, solver, seed=seed, device="cpu", progress=False)
    return model


def random_mixture(kind, missing=False, dtype=torch.float64):
    """Three components in three dimensions."""
    model = made(3, 3, kind, dtype, missing=missing)
    a = torch.randn(3, 3, 3, dtype=torch.float64)
    full = a @ a.mT + torch.eye(3)
    covariances = {
        "full": full,
        "tied": full[0],
        "diagonal": full.diagonal(dim1=1, dim2=2),
        "spherical": full[:, 0, 0],
    }[kind]
    model.set_parameters([0.5, 0.3, 0.2], 2.0 * torch.randn(3, 3), covariances)
    return model


def matrices(model):
    """Covariances of any type as (K, D, D)."""
    return model.covariance_type.dense(model.covariances, *model.means.shape)


def total(model, *data, size=None):
    """Statistics of all rows, summed over chunks."""
    size = size or len(data[0])
    parts = [
        model.expected_statistics(*(t[i : i + size] for t in data))
        for i in range(0, len(data[0]), size)
    ]
    return {name: sum(part[name] for part in parts) for name in parts[0]}


@pytest.mark.parametrize("kind", KINDS)
def test_dense_covariances(kind):
    model = random_mixture(kind)
    covariances, eye = model.covariances, torch.eye(3).double()
    expected = {
        "full": lambda: covariances,
        "tied": lambda: torch.stack([covariances] * 3),
        "diagonal": lambda: torch.stack([row.diag() for row in covariances]),
        "spherical": lambda: torch.stack([value * eye for value in covariances]),
    }[kind]()
    assert torch.equal(matrices(model), expected)
    several = torch.stack([covariances, 2.0 * covariances])
    dense = model.covariance_type.dense(several, 3, 3)
    assert torch.equal(dense, torch.stack([expected, 2.0 * expected]))


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_sklearn(kind, faithful):
    model = fitted(faithful, 3, kind, max_steps=20)
    peer = Sklearn(3, covariance_type=KINDS[kind])
    peer.weights_, peer.means_ = model.weights.numpy(), model.means.numpy()
    peer.covariances_ = model.covariances.numpy()
    peer.precisions_cholesky_ = _compute_precision_cholesky(peer.covariances_, KINDS[kind])
    x = faithful.numpy()
    np.testing.assert_allclose(model.log_prob(x), peer.score_samples(x), rtol=0, atol=1e-8)
    np.testing.assert_allclose(model.encode(x), peer.predict_proba(x), rtol=0, atol=1e-8)
    np.testing.assert_array_equal(model.predict(x), peer.predict(x))
    assert model.bic(x) == pytest.approx(peer.bic(x), abs=1e-7)
    assert model.aic(x) == pytest.approx(peer.aic(x), abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_em_takes_the_steps_of_sklearn(kind, blobs):
    start = random_mixture(kind)
    start.set_parameters(start.weights, blobs[:3], start.covariances)
    covariances = start.covariances.numpy()
    precisions = 1.0 / covariances if KINDS[kind] in ("diag", "spherical") else None
    peer = Sklearn(
        3,
        covariance_type=KINDS[kind],
        max_iter=7,
        tol=0.0,
        reg_covar=0.0,
        weights_init=start.weights.numpy(),
        means_init=start.means.numpy(),
        precisions_init=np.linalg.inv(covariances) if precisions is None else precisions,
    )
    with pytest.warns(UserWarning, match="did not converge"):
        peer.fit(blobs.numpy())
    solver = zoo.EM(steps=7, tol=0.0, initialize=False)
    fit = zoo.fit(start, blobs, solver, device="cpu", progress=False)
    assert fit.model.log_prob(blobs).mean().item() == pytest.approx(
        peer.score(blobs.numpy()), abs=1e-6
    )


def test_old_faithful(faithful):
    fit = zoo.fit(
        made(2, 2), faithful, zoo.EM(tol=1e-10, restarts=3), device="cpu", progress=False
    )
    assert fit.model.log_prob(faithful).sum().item() == pytest.approx(-1130.2640, abs=1e-4)
    assert fit.model.bic(faithful) == pytest.approx(2322.192, abs=1e-3)


@pytest.mark.slow
def test_old_faithful_tied_is_best(faithful):
    bic = {}
    for kind in KINDS:
        for num in range(1, 6):
            best = (kind, num) == ("tied", 3)
            solver = zoo.EM(steps=200 if best else 40, tol=1e-7, restarts=3 if best else 1)
            fit = zoo.fit(made(num, 2, kind), faithful, solver, device="cpu", progress=False)
            bic[kind, num] = fit.model.bic(faithful)
    assert min(bic, key=bic.get) == ("tied", 3)
    assert bic["tied", 3] == pytest.approx(2314.296, abs=1e-2)


@pytest.mark.slow
def test_svi_reaches_em(faithful):
    x = ((faithful - faithful.mean(0)) / faithful.std(0)).float()
    em = fitted(x, 2)
    svi = made(2, 2, dtype=torch.float32)
    zoo.fit(svi, x, zoo.SVI(steps=500), device="cpu", progress=False)
    assert svi.log_prob(x).mean().item() == pytest.approx(em.log_prob(x).mean().item(), abs=1e-2)
    assert torch.allclose(svi.means, em.means, atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_mode_is_closed_form_on_one_component(kind, blobs):
    """Normal-inverse-Wishart(m, kappa, Psi, nu): Psi = strength Psi0, nu = strength - D - 2."""
    m, kappa, strength = torch.tensor([1.0, -1.0, 0.5]).double(), 20.0, 50.0
    psi0 = torch.tensor([1.0, 2.0, 3.0]).double()
    model = fitted(
        blobs,
        1,
        kind,
        mean_prior=m,
        mean_strength=kappa,
        covariance_prior=psi0,
        covariance_strength=strength,
    )
    n, d = blobs.shape
    psi, nu, average = strength * psi0.diag(), strength - d - 2, blobs.mean(0)
    mean = (kappa * m + n * average) / (kappa + n)
    scatter = (blobs - average).mT @ (blobs - average)
    pull = kappa * n / (kappa + n) * torch.outer(average - m, average - m)
    mode = (psi + scatter + pull) / (nu + n + d + 2)
    if kind == "diagonal":
        mode = mode.diagonal()
    if kind == "spherical":
        mode = mode.trace()[None] / d
    torch.testing.assert_close(model.means[0], mean)
    torch.testing.assert_close(model.covariances.reshape(mode.shape), mode)


def test_mode_of_weights(blobs):
    model = made(3, 3, weight_concentration=5.0)
    rows = model.as_rows((blobs,))
    model.initialize(rows)
    statistics = model.expected_statistics(blobs)
    model.maximize(statistics)
    expected = (statistics["counts"] + 4.0) / (len(blobs) + 12.0)
    torch.testing.assert_close(model.weights, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_prior_keeps_em_monotone(kind, blobs):
    x = blobs.float()
    model = made(
        6,
        3,
        kind,
        torch.float32,
        weight_concentration=1.5,
        mean_strength=2.0,
        covariance_strength=3.0,
    )
    fit = zoo.fit(model, x, zoo.EM(steps=60, tol=0.0), device="cpu", progress=False)
    objective = fit.history["objective"].ravel()
    objective = objective[np.isfinite(objective)]
    assert np.all(np.diff(objective) > -1e-5 * np.abs(objective[1:]))


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_bound_is_tight(kind, missing):
    model = random_mixture(kind, missing)
    x = model.sample(20)
    if missing:
        x[3, 1] = x[7] = math.nan
    guide = poutine.trace(model.guide).get_trace(x)
    joint = poutine.trace(poutine.replay(model, trace=guide)).get_trace(x)
    elbo = joint.log_prob_sum() - guide.log_prob_sum()
    torch.testing.assert_close(elbo.detach(), model.log_prob(x).sum())


def test_gradient_of_enumerated_bound_is_that_of_the_likelihood():
    model = random_mixture("full")
    x = model.sample(15)
    weight = torch.rand(15, dtype=torch.float64)
    component = MultivariateNormal(model.loc, scale_tril=model.scale)
    density = (component.log_prob(x[:, None]) + model.logits.log_softmax(0)).logsumexp(1)
    for elbo, data, expected in (
        (pyro.infer.TraceEnum_ELBO(max_plate_nesting=1), (x,), density.sum()),
        (pyro.infer.Trace_ELBO(), (x, weight), (weight * density).sum()),
    ):
        loss = elbo.differentiable_loss(model, lambda *_: None, *data)
        torch.testing.assert_close(-loss, expected)
        parameters = list(model.parameters())
        got = torch.autograd.grad(-loss, parameters)
        for a, b in zip(
            got, torch.autograd.grad(expected, parameters, retain_graph=True), strict=True
        ):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_values_are_integrated_out(kind):
    model = random_mixture(kind, missing=True)
    x = model.sample(12)
    x[torch.rand(12, 3) < 0.4] = math.nan
    x[0] = math.nan
    joint = torch.empty(12, 3, dtype=torch.float64)
    for n, row in enumerate(x):
        seen = ~row.isnan()
        for k, (mean, matrix) in enumerate(zip(model.means, matrices(model), strict=True)):
            joint[n, k] = model.weights[k].log()
            if seen.any():
                part = MultivariateNormal(mean[seen], matrix[seen][:, seen])
                joint[n, k] += part.log_prob(row[seen])
    torch.testing.assert_close(model.log_prob(x), joint.logsumexp(1))
    torch.testing.assert_close(model.encode(x), joint.softmax(1))


@pytest.mark.parametrize("kind", KINDS)
def test_missing_model_without_gaps_is_the_same(kind, blobs):
    plain = fitted(blobs, 3, kind)
    gaps = fitted(blobs, 3, kind, missing=True)
    torch.testing.assert_close(plain.log_prob(blobs), gaps.log_prob(blobs), rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_em_with_missing_values_ascends_and_recovers(kind, blobs):
    x = blobs.clone()
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.1] = math.nan
    model = made(3, 3, kind, missing=True)
    fit = zoo.fit(model, x, zoo.EM(steps=100), device="cpu", progress=False)
    objective = fit.history["objective"].ravel()
    assert np.all(np.diff(objective[np.isfinite(objective)]) > -1e-6)
    complete = fitted(blobs, 3, kind)
    assert complete.log_prob(blobs).mean() - model.log_prob(blobs).mean() < 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", [False, True])
def test_statistics_add_up(kind, missing, blobs):
    model = random_mixture(kind, missing)
    if missing:
        blobs[::7, 1] = math.nan
    whole = total(model, blobs)
    for size in (1, 17, 299):
        for name, value in total(model, blobs, size=size).items():
            torch.testing.assert_close(value, whole[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", [False, True])
def test_weights_are_repeated_rows(kind, missing, blobs):
    counts = torch.arange(len(blobs)) % 4
    repeated = blobs.repeat_interleave(counts, 0)
    model = random_mixture(kind, missing)
    weighted = total(model, blobs, counts.double())
    for name, value in total(model, repeated).items():
        torch.testing.assert_close(weighted[name], value, rtol=1e-9, atol=1e-9)
    a = made(3, 3, kind)
    zoo.fit(a, (blobs, counts.double()), zoo.EM(), device="cpu", progress=False)
    b = fitted(repeated, 3, kind)
    assert a.log_prob(repeated).mean().item() == pytest.approx(
        b.log_prob(repeated).mean().item(), abs=1e-3
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_poor_start_and_tiny_components_survive(kind, dtype):
    torch.manual_seed(0)
    x = torch.cat([torch.randn(60, 5), torch.randn(3, 5) * 1e-3 + 50.0, torch.full((1, 5), 1e4)])
    x = x.to(dtype)
    model = made(30, 5, kind, dtype, init="random")
    fit = zoo.fit(model, x, zoo.EM(steps=50), device="cpu", progress=False)
    assert model.log_prob(x).isfinite().all()
    assert model.weights.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert torch.linalg.eigvalsh(matrices(model).double()).min() > 0
    assert np.isfinite(fit.history["objective"].ravel()[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_component_without_rows_lives_on(kind, blobs):
    model = random_mixture(kind)
    means = torch.stack([blobs.mean(0), blobs[0], blobs[0] + 1e6])
    model.set_parameters([0.5, 0.5, 0.0], means, model.covariances)
    for _ in range(3):
        model.maximize(model.expected_statistics(blobs))
    assert all(p.isfinite().all() for p in model.parameters())
    assert model.weights[2] < 1e-20


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_where_products_cancel(kind):
    """Tight components far from one another are scored and summed by differences."""
    torch.manual_seed(0)
    centres = 300.0 * torch.randn(4, 6, dtype=torch.float64)
    labels = torch.arange(2000) % 4
    x = centres[labels] + 0.01 * torch.randn(2000, 6, dtype=torch.float64)
    reference = made(4, 6, kind)
    shape = reference.scale.shape
    covariances = 2e-4 * torch.ones(shape).double()
    if kind in ("full", "tied"):
        covariances = covariances * torch.eye(6)
    reference.set_parameters([0.25] * 4, centres, covariances)
    single = zoo.GaussianMixture(4, 6, kind)
    single.set_parameters([0.25] * 4, centres, covariances)
    x = x.float().double()
    assert len(single._current_scorer().ill_conditioned) == (0 if kind == "tied" else 4)
    error = single.log_prob(x.float()).double() - reference.log_prob(x)
    # what the rounding of x and of the means themselves does
    assert error.abs().mean() < 0.1
    single.maximize(single.expected_statistics(x.float()))
    reference.maximize(reference.expected_statistics(x))
    ratio = matrices(single).double() @ torch.linalg.inv(matrices(reference))
    assert (ratio - torch.eye(6)).abs().max() < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_scores_by_differences_and_by_products_agree(kind, monkeypatch):
    model = random_mixture(kind)
    x = model.sample(50)
    products, statistics = model.log_prob(x), total(model, x)
    monkeypatch.setattr("ppl_zoo.models.mixtures.em_statistics.MAX_ROUNDING_NATS", 0.0)
    model._scorer = (None, None)
    scorer = model._current_scorer()
    assert isinstance(scorer, Scorer) and len(scorer.well_conditioned) == 0
    torch.testing.assert_close(model.log_prob(x), products)
    for name, value in total(model, x).items():
        torch.testing.assert_close(value, statistics[name], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_partial_fit_approaches_em(kind, blobs):
    model = made(3, 3, kind)
    order = torch.Generator().manual_seed(0)
    for _ in range(12):
        for rows in torch.randperm(300, generator=order).split(100):
            assert model.partial_fit(blobs[rows]) is model
    em = fitted(blobs, 3, kind)
    assert em.log_prob(blobs).mean() - model.log_prob(blobs).mean() < 0.01
    assert model.num_seen == 3600


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_of_parameters_reverse_the_m_step(kind, blobs):
    model = made(3, 3, kind, weight_concentration=2.0, mean_strength=3.0, covariance_strength=4.0)
    model.initialize(model.as_rows((blobs,)))
    statistics = total(model, blobs)
    model.maximize(statistics)
    parameters = model.logits, *model._whitened_parameters()
    back = model.prior.statistics_at_mode(model.num_seen, *parameters, model.coordinates)
    for name, value in back.items():
        torch.testing.assert_close(value.detach(), statistics[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_conditional_samples(kind):
    model = random_mixture(kind)
    given = torch.tensor([math.nan, 0.5, math.nan]).double()
    torch.manual_seed(1)
    draws = model.sample(40_000, given)
    assert (draws[:, 1] == 0.5).all()
    weights, means, seconds = [], [], []
    free = torch.tensor([0, 2])
    for w, m, s in zip(model.weights, model.means, matrices(model), strict=True):
        gain = s[free, 1] / s[1, 1]
        means.append(m[free] + gain * (0.5 - m[1]))
        rest = s[free][:, free] - torch.outer(gain, s[1, free])
        seconds.append(rest + torch.outer(means[-1], means[-1]))
        density = -0.5 * ((0.5 - m[1]) ** 2 / s[1, 1] + s[1, 1].log())
        weights.append(w * density.exp())
    weights = torch.stack(weights) / sum(weights)
    mean = weights @ torch.stack(means)
    second = torch.einsum("k,kij->ij", weights, torch.stack(seconds))
    drawn = draws[:, free]
    spread = drawn.std(0).max().item()
    assert torch.allclose(drawn.mean(0), mean, atol=0.03 * spread)
    assert torch.allclose(drawn.mT @ drawn / len(drawn), second, atol=0.1 * spread**2 + 0.05)


def test_samples_have_the_moments_of_the_model():
    for kind in KINDS:
        model = random_mixture(kind)
        x = model.sample(40_000)
        mean = model.weights @ model.means
        off = model.means - mean
        covariance = torch.einsum("k,kij->ij", model.weights, matrices(model))
        covariance = covariance + off.mT @ (model.weights[:, None] * off)
        assert torch.allclose(x.mean(0), mean, atol=0.1)
        assert torch.allclose(x.mT.cov(), covariance, rtol=0.1, atol=0.2)
    assert model.sample(4, torch.full((4, 3), math.nan)).isfinite().all()


def test_order_is_stable(faithful):
    for kind in KINDS:
        a, b = fitted(faithful, 2, kind, seed=1), fitted(faithful, 2, kind, seed=5)
        assert (a.weights.diff() <= 0).all()
        torch.testing.assert_close(a.means, b.means, rtol=1e-3, atol=1e-3)
    a.set_parameters([0.5, 0.5], [[2.0, 0.0], [1.0, 0.0]], [1.0, 1.0])
    a.relabel()
    assert a.means[:, 0].tolist() == [1.0, 2.0]


def test_state_loads_into_a_fresh_object(faithful):
    for kind in KINDS:
        model = fitted(faithful, 3, kind, max_steps=3)
        other = model.fresh()
        other.load_state_dict(model.state_dict())
        torch.testing.assert_close(other.log_prob(faithful), model.log_prob(faithful))


BAD = [
    (torch.ones(10, 2, dtype=torch.int64), "constant features 0, 1"),
    (torch.randn(10, 3), r"\(10, 3\).*\(10, 2\)"),
    (torch.randn(10), r"\(10,\).*\(10, 2\)"),
    (torch.randn(2, 2), r"2 rows.*num_components=3"),
    (torch.stack([torch.randn(9), torch.full((9,), 4.0)], 1), "constant features 1.*4.*leave"),
    (
        torch.randn(9, 2).index_put((torch.tensor(4), torch.tensor(1)), torch.tensor(math.nan)),
        r"nan at \(4, 1\).*missing=True",
    ),
    (torch.full((9, 2), math.inf), "inf"),
    (torch.empty(0, 2), "no rows"),
    ((torch.randn(9, 2), torch.ones(8)), r"sample_weight.*\(8,\).*\(9,\)"),
    ((torch.randn(9, 2), -torch.ones(9)), "sample_weight.*-1.*0 or more"),
    ((torch.randn(9, 2), torch.full((9,), math.nan)), "sample_weight.*nan"),
    ((torch.randn(9, 2), torch.zeros(9)), "sample_weight.*zeros"),
]


@pytest.mark.parametrize(("data", "message"), BAD)
def test_bad_data(data, message):
    with pytest.raises(zoo.DataError, match=message):
        zoo.fit(zoo.GaussianMixture(3, 2), data, device="cpu", progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_components": 0}, "num_components: got 0"),
        ({"covariance": "diag"}, "'diag'.*'diagonal'"),
        ({"init": "best"}, "'best'"),
        ({"weight_concentration": 0.5}, "0.5, expected 1"),
        ({"mean_strength": -1.0}, "-1.0"),
        ({"covariance_strength": 0.0}, "more than 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        zoo.GaussianMixture(**{"num_components": 2, "num_features": 2} | options)


def test_bad_parameters_and_queries():
    model = made(2, 2)
    good = ([0.5, 0.5], torch.zeros(2, 2), torch.eye(2).repeat(2, 1, 1))
    for index, value, message in (
        (0, [0.5, 0.6], "sum 1.1"),
        (1, torch.zeros(2, 3), r"\(2, 3\).*\(2, 2\)"),
        (2, -torch.eye(2).repeat(2, 1, 1), "positive definite"),
        (1, torch.full((2, 2), math.nan), "NaN"),
    ):
        parameters = list(good)
        parameters[index] = value
        with pytest.raises(zoo.DataError, match=message):
            model.set_parameters(*parameters)
    with pytest.raises(zoo.DataError, match=r"\(4, 3\)"):
        model.log_prob(torch.randn(4, 3))
    with pytest.raises(zoo.DataError, match=r"given.*\(3,\)"):
        model.sample(5, torch.zeros(3))
