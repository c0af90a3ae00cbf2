"""BayesianGaussianMixture against scikit-learn, Monte Carlo, and NUTS."""

import numpy as np
import pytest
import torch
from sklearn.mixture import BayesianGaussianMixture as Sklearn
from torch.distributions import Wishart

import ppl_zoo as zoo
from ppl_zoo.models.mixtures.precision_priors import FactorNormal, PackedCholesky, WishartFactor

KINDS = ("full", "tied", "diagonal", "spherical")
PROCESSES = {"dirichlet": "dirichlet_distribution", "dirichlet-process": "dirichlet_process"}


@pytest.fixture(scope="module")
def faithful():
    return zoo.data.load("old-faithful").train.double()


def clusters(num_rows=400):
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0, 0.0], [4.0, 1.0, -2.0], [-3.0, 5.0, 1.0]])
    factor = np.array([[1.0, 0.5, -0.3], [0.0, 1.2, 0.1], [0.0, 0.0, 0.7]])
    chosen = rng.choice(3, size=num_rows, p=[0.5, 0.3, 0.2])
    return centres[chosen] + rng.normal(size=(num_rows, 3)) @ factor


def made(num_components, num_features, kind="full", dtype=torch.float64, **options):
    torch.manual_seed(0)
    return zoo.BayesianGaussianMixture(num_components, num_features, kind, **options).to(dtype)


def fitted(x, num_components, kind="full", tol=1e-9, **options):
    model = made(num_components, x.shape[1], kind, x.dtype, **options)
    return zoo.fit(model, x, zoo.CAVI(tol=tol), device="cpu", progress=False)


@pytest.mark.parametrize("weights", PROCESSES)
@pytest.mark.parametrize("kind", KINDS)
def test_contract(kind, weights, faithful):
    zoo.testing.check_model(
        lambda: zoo.BayesianGaussianMixture(3, 2, kind, weights=weights),
        lambda: faithful[:60].float(),
    )


def test_a_process_of_one_component_is_a_dirichlet_of_one(faithful):
    one = [fitted(faithful, 1, weights=weights) for weights in PROCESSES]
    assert one[1].objective == pytest.approx(one[0].objective, abs=1e-9)
    assert torch.equal(one[1].model.weights, torch.ones(1).double())
    assert torch.allclose(one[1].model.log_prob(faithful), one[0].model.log_prob(faithful))
    assert torch.equal(one[1].posterior(3)["weights"], torch.ones(1, 3, 1).double())


@pytest.mark.filterwarnings("ignore:Best performing initialization")
@pytest.mark.parametrize(
    ("weights", "num_components"), [("dirichlet", 5), ("dirichlet-process", 3)]
)
def test_cavi_takes_the_steps_of_sklearn(weights, num_components):
    x = clusters()
    peer = Sklearn(
        n_components=num_components,
        weight_concentration_prior_type=PROCESSES[weights],
        reg_covar=0.0,
        max_iter=1,
        tol=0.0,
        random_state=0,
    ).fit(x)
    model = made(num_components, 3, weights=weights, covariance_prior=np.cov(x.T))

    def state():
        counts = peer.mean_precision_ - peer.mean_precision_prior_
        order = np.argsort(-counts, kind="stable")
        return counts[order], peer.means_[order], peer.covariances_[order]

    if weights == "dirichlet-process":  # our sticks are kept in falling order
        order = np.argsort(-peer.mean_precision_)
        for name in ("means_", "covariances_", "precisions_cholesky_", "mean_precision_"):
            setattr(peer, name, getattr(peer, name)[order])
        peer.degrees_of_freedom_ = peer.degrees_of_freedom_[order]
        peer._estimate_weights(peer.mean_precision_ - peer.mean_precision_prior_)
    model.initialize(model.as_rows(torch.from_numpy(x)))
    model.set_posterior(*state())
    for _ in range(30):
        peer._m_step(x, peer._e_step(x)[1])
    solver = zoo.CAVI(steps=30, tol=0.0, initialize=False)
    zoo.fit(model, torch.from_numpy(x), solver, device="cpu", progress=False)
    counts, means, covariances = state()
    np.testing.assert_allclose(model.counts, counts, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.means, means, rtol=0, atol=1e-4)
    np.testing.assert_allclose(model.covariances, covariances, rtol=0, atol=1e-4)
    if weights == "dirichlet":
        peer_r = peer.predict_proba(x)[:, np.argsort(-peer.mean_precision_, kind="stable")]
        np.testing.assert_allclose(model.encode(torch.from_numpy(x)), peer_r, atol=1e-4)


@pytest.mark.parametrize("weights", PROCESSES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_term_by_term(kind, weights, faithful):
    x = faithful[:80]
    fit = fitted(x, 3, kind, weights=weights, degrees_of_freedom=5.0)
    model, num = fit.model, 4000
    # E_q[log p(x | theta) - log q / p]: assignments summed out, so that it is no lower; and with
    # q(assignment) in its place it is the bound itself
    draws = fit.draws(num)[0]
    values = {name: value.squeeze(1) for name, value in draws.values.items()}
    r = model.encode(x)
    means, weight = values["means"], values["weights"]
    covariances = model.covariance_type.dense(values["covariances"], 3, 2)
    normal = torch.distributions.MultivariateNormal(means[:, None], covariances[:, None])
    joint = normal.log_prob(x[None, :, None, :]) + weight.clamp_min(1e-300).log()[:, None]
    collapsed = joint.logsumexp(-1).sum(-1)
    assert torch.allclose(draws.log_joint.sum() - draws.log_guide.sum(), draws.log_weight.sum())
    entropy = -torch.xlogy(r, r).sum()
    terms = draws.log_weight - collapsed + (r * joint).sum((-1, -2)) + entropy
    error = terms.std().item() / num**0.5
    assert fit.objective == pytest.approx(terms.mean().item(), abs=5 * error)
    assert fit.objective < draws.log_weight.mean() + 4 * error


@pytest.mark.parametrize("kind", KINDS)
def test_predictive_density(kind, faithful):
    fit = fitted(faithful, 3, kind)
    sampled = zoo.Model.log_prob(fit.model, faithful[:30], num_samples=20_000)
    assert torch.allclose(fit.model.log_prob(faithful[:30]), sampled, atol=0.05)
    drawn = fit.model.sample(20_000)
    assert torch.allclose(drawn.mean(0), faithful.mean(0), rtol=0.02)
    assert torch.allclose(drawn[:, 1].std(), faithful[:, 1].std(), rtol=0.05)


@pytest.mark.parametrize("weights", PROCESSES)
def test_pruning(weights):
    x = torch.from_numpy(clusters(800))
    fit = fitted(x, 10, weights=weights, weight_concentration=0.01)
    small = fit.model.pruned()
    assert small.num_components == 3
    assert torch.allclose(small.weights.sort().values, x.new_tensor([0.2, 0.3, 0.5]), atol=0.05)
    assert torch.allclose(small.log_prob(x), fit.model.log_prob(x), atol=1e-2)
    again = zoo.fit(small, x, zoo.CAVI(initialize=False), device="cpu", progress=False)
    assert again.history["objective"].shape[1] < 20
    assert torch.allclose(small.means, fit.model.pruned().means, atol=1e-2)
    with pytest.raises(zoo.DataError, match="no component"):
        fit.model.pruned(1e9)


def test_sticks_keep_the_order_that_the_bound_prefers():
    x = torch.from_numpy(clusters())
    fit = fitted(x, 6, weights="dirichlet-process", weight_concentration=0.5)
    counts = fit.model.counts
    assert torch.equal(counts, counts.sort(descending=True).values)
    assert fit.posterior(20)["weights"].sum(-1).allclose(x.new_tensor(1.0))


def test_arviz_names_its_dimensions(faithful):
    idata = fitted(faithful, 2).to_arviz(num_samples=20)
    assert idata.posterior["means"].dims == ("chain", "draw", "component", "feature")
    assert idata.posterior["weights"].dims == ("chain", "draw", "component")


def test_single_precision(faithful):
    double, single = fitted(faithful, 2), fitted(faithful.float(), 2, tol=1e-6)
    assert torch.allclose(double.model.means, single.model.means.double(), rtol=1e-3)
    assert single.objective == pytest.approx(double.objective, abs=0.05)


# ---- its distributions --------------------------------------------------------------------------


def test_wishart_factor_is_a_wishart():
    df, size = torch.tensor(5.5, dtype=torch.float64), 3
    a = torch.randn(size, size, dtype=torch.float64)
    scale = torch.linalg.cholesky(a @ a.mT + torch.eye(size))
    q = WishartFactor(df, scale)
    factors = q.sample((50_000,))
    matrices = factors @ factors.mT
    assert torch.allclose(matrices.mean(0), df * scale @ scale.mT, rtol=0.05, atol=0.2)
    # dL L' + L dL' stretches the lower triangle by 2^D prod L_ii^(D - i + 1)
    stretch = torch.arange(size, 0, -1) * factors[:5].diagonal(dim1=1, dim2=2).log()
    expected = Wishart(df, scale_tril=scale).log_prob(matrices[:5])
    expected = expected + stretch.sum(-1) + size * np.log(2.0)
    assert torch.allclose(q.log_prob(factors[:5]), expected)
    transform = PackedCholesky()
    packed = transform.inv(factors[:5])
    assert packed.shape == transform.inverse_shape(factors[:5].shape) == (5, 6)
    assert torch.allclose(transform(packed), factors[:5])
    jacobian = torch.func.jacrev(lambda v: transform(v)[torch.tril_indices(3, 3).unbind()])
    log_det = torch.linalg.slogdet(jacobian(packed[0]))[1]
    assert torch.allclose(log_det, transform.log_abs_det_jacobian(packed[0], factors[0]))


def test_factor_normal():
    factor = torch.tensor([[2.0, 0.0], [0.5, 1.0]], dtype=torch.float64)
    q = FactorNormal(torch.tensor([1.0, -1.0], dtype=torch.float64), factor)
    peer = torch.distributions.MultivariateNormal(q.loc, precision_matrix=factor @ factor.mT)
    x = q.sample((100_000,))
    assert torch.allclose(q.log_prob(x[:9]), peer.log_prob(x[:9]))
    assert torch.allclose(x.mT.cov(), peer.covariance_matrix, atol=0.02)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"weights": "even"}, "weights: got"),
        ({"weight_concentration": 0.0}, "weight_concentration"),
        ({"degrees_of_freedom": 1.0}, "degrees_of_freedom"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        zoo.BayesianGaussianMixture(2, 2, **options)


@pytest.mark.slow
def test_against_nuts(faithful):
    fit = fitted(faithful, 2)
    nuts = zoo.NUTS(num_chains=2, num_warmup=500, num_samples=1000, init=fit)
    reference = zoo.fit(fit.model, faithful, nuts, device="cpu", progress=False)
    assert reference.solution.engine == "xla"
    for line in fit.check(reference=reference).lines:
        assert abs(line.mean_error) < 0.15, line
        assert -0.2 < line.sd_error < 0.15, line  # mean field is somewhat narrow


def test_sticks_of_empty_components_have_a_density_in_float32(caplog):
    """With a small concentration they round to 1, where it has no bound."""
    x = zoo.data.load("old-faithful").train
    model = zoo.BayesianGaussianMixture(
        6, 2, weights="dirichlet-process", weight_concentration=0.01
    ).float()
    fit = zoo.fit(model, x, zoo.CAVI(), progress=False)
    assert fit.model.dtype == torch.float32
    assert fit.log_weights(4000).isfinite().all()
    fit.check()
    assert "Shape validation" not in caplog.text
