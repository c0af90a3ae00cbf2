"""The dtype of a fit, and data that single precision, or a careless sum, gets wrong."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.mixture import GaussianMixture

import ppl_zoo as zoo
from ppl_zoo.fitting.run_record import write_record

SHORT = zoo.EM(steps=3)


def fitted(model, data, solver=None):
    return zoo.fit(model, data, solver, device="cpu", progress=False)


def rows(num_rows=60, seed=0):
    return np.random.default_rng(seed).normal(size=(num_rows, 2))


# ---- the dtype of a fit -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        rows(),
        torch.tensor(rows()),
        pd.DataFrame(rows(), columns=["a", "b"]),
        rows().tolist(),
        {"x": rows()},
        (torch.tensor(rows()), torch.ones(60)),
    ],
    ids=["numpy", "torch", "pandas", "list", "mapping", "weighted"],
)
def test_data_in_double_precision_are_computed_in_it(data):
    model = zoo.GaussianMixture(2, 2)
    fit = fitted(model, data, SHORT)
    assert model.dtype == model.means.dtype == torch.float64
    assert fit.rows.all()[0].dtype == torch.float64


def test_data_in_single_precision_stay_there():
    model = zoo.GaussianMixture(2, 2)
    fitted(model, rows().astype(np.float32), SHORT)
    assert model.dtype == torch.float32


@pytest.mark.parametrize("ask", [zoo.Model.float, lambda m: m.to(torch.float32)])
def test_a_dtype_that_was_asked_for_counts(ask):
    model = zoo.GaussianMixture(2, 2)
    ask(model)
    fit = fitted(model.to("cpu"), rows(), zoo.EM(steps=2, restarts=2))
    assert model.dtype == torch.float32 and fit.rows.all()[0].dtype == torch.float32
    assert model.fresh()._dtype_asked


def test_a_move_to_a_device_asks_for_no_dtype():
    model = zoo.GaussianMixture(2, 2).to("cpu")
    fitted(model, rows(), SHORT)
    assert model.dtype == torch.float64


def test_a_stream_has_the_dtype_of_its_first_batch():
    model = zoo.GaussianMixture(2, 2).partial_fit(rows())
    assert model.dtype == torch.float64
    assert model.partial_fit(rows().astype(np.float32)).dtype == torch.float64


def test_codes_stay_in_single_precision():
    codes = (rows() > 0).astype(float)
    for model in (zoo.IndependentBernoulli(2), zoo.NADE(2, 3), zoo.NaiveBayes(2)):
        assert not model.follows_data_dtype
    model = zoo.IndependentBernoulli(2)
    fitted(model, codes)
    assert model.dtype == torch.float32
    assert zoo.NaiveBayes(2, kind=["bernoulli", "gaussian"]).follows_data_dtype


def test_large_integers_count_as_double_precision():
    days = np.array([[20240101 + i, i % 7] for i in range(30)])
    y = 3.0e-3 * (days[:, 0] - 20240101) + 1.0
    model = zoo.BayesianLinearRegression(2)
    fitted(model, (days, y.astype(np.float32)))
    assert model.dtype == torch.float64
    assert model.coefficients[0] == pytest.approx(3.0e-3, rel=1e-3)


def test_a_run_keeps_its_dtype(tmp_path):
    fit = fitted(zoo.GaussianMixture(2, 2).float(), rows(), zoo.EM(steps=3))
    fit.save(tmp_path / "run")
    again = zoo.fit(
        zoo.GaussianMixture(2, 2), rows(), resume=tmp_path / "run", device="cpu", progress=False
    )
    assert again.model.dtype == torch.float32
    double = fitted(zoo.GaussianMixture(2, 2), rows(), SHORT)
    double.save(tmp_path / "double")
    assert zoo.load(tmp_path / "double", device="cpu").model.dtype == torch.float64


def test_a_regression_of_before_there_were_units_loads(tmp_path):
    x = rows()
    y = x @ [1.0, -1.0] + 5.0
    for model in (zoo.LinearRegression, zoo.BayesianLinearRegression):
        fit = fitted(model(2, standardize=False), (x, y))
        path = tmp_path / model.__name__
        fit.save(path)
        record = json.loads((path / "fit.json").read_text())
        del record["model"]["config"]["standardize"]
        (path / "fit.json").write_bytes(write_record(record))
        loaded = zoo.load(path, device="cpu")
        assert loaded.model.units is None
        for name, draws in fit.posterior(20).items():
            assert torch.equal(loaded.posterior(20)[name], draws)


def test_a_net_of_before_there_were_units_loads():
    old = zoo.RNADE(2, 2, 3)
    state = {k: v for k, v in old.state_dict().items() if not k.startswith("units.")}
    new = zoo.RNADE(2, 2, 3)
    new.units.centre.fill_(7.0)
    new.load_state_dict(state)
    x = torch.tensor(rows()).float()
    assert torch.equal(new.log_prob(x), old.log_prob(x))


# ---- offsets and units, as they were brought ----------------------------------------------------


def test_clusters_of_unix_seconds():
    rng = np.random.default_rng(0)
    near = np.concatenate([rng.normal(0.0, 10.0, 300), rng.normal(600.0, 10.0, 300)])[:, None]
    peer = GaussianMixture(2, random_state=0, tol=1e-10, reg_covar=0.0).fit(near)
    order = peer.means_[:, 0].argsort()
    model = zoo.GaussianMixture(2, 1, covariance_strength=1e-12)
    fit = fitted(model, near + 1.7e9)
    mine = model.means[:, 0].argsort()
    means = model.means[mine, 0].numpy() - 1.7e9
    np.testing.assert_allclose(means, peer.means_[order, 0], atol=1e-4)
    sd = model.covariances[mine, 0, 0].sqrt().numpy()
    np.testing.assert_allclose(sd, peer.covariances_[order, 0, 0] ** 0.5, rtol=1e-5)
    assert fit.objective == pytest.approx(peer.score(near) * 600, rel=1e-6)


@pytest.mark.parametrize("offset", [1e6, 1e8])
def test_density_of_probabilistic_pca_far_from_zero(offset):
    near, far = zoo.ProbabilisticPCA(2, 1), zoo.ProbabilisticPCA(2, 1)
    x = rows() @ np.array([[1.0, 0.5], [0.0, 0.2]])
    fitted(near, x)
    fitted(far, x + offset)
    assert torch.allclose(near.log_prob(x), far.log_prob(x + offset), atol=1e-6)


def test_survey_coordinates():
    x = np.array([5.2e6, 4.4e5]) + 0.1 * rows(300)
    model = zoo.GaussianMixture(1, 2)
    fitted(model, x)
    sd = model.covariances[0].diagonal().sqrt().numpy()
    np.testing.assert_allclose(sd, x.std(0), rtol=1e-5)


def test_dates_of_a_csv_keep_their_digits(tmp_path):
    path = tmp_path / "days.csv"
    path.write_text("day,value\n20240131,1.5\n20240229,2.5\n")
    assert zoo.data.from_path(path).train[0].tolist() == [20240131.0, 1.5]
    path.write_text("id,value\n9007199254740993,1.5\n")
    with pytest.raises(ValueError, match="9007199254740993.*2\\^53.*leave the column out"):
        zoo.data.from_path(path)
    np.save(tmp_path / "ids.npy", np.array([[2**53 + 1, 2]]))
    with pytest.raises(ValueError, match="at most 2\\^53"):
        zoo.data.from_path(tmp_path / "ids.npy")
    np.save(tmp_path / "days.npy", np.array([[20240131, 2]]))
    assert zoo.data.from_path(tmp_path / "days.npy").train[0, 0] == 20240131


def test_a_row_far_from_all_others():
    x = np.concatenate([rows(), [[1e20, 0.0]]])
    model = zoo.GaussianMixture(2, 2)
    fitted(model, x, zoo.EM(steps=20))
    responsibilities = model.encode(x)
    assert responsibilities.isfinite().all()
    assert torch.allclose(responsibilities.sum(1), torch.ones(61).double())
    assert (model.predict(x)[:-1] != model.predict(x)[-1]).all()


def test_naive_bayes_of_columns_in_very_different_units():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    x = np.stack([rng.normal(size=400), rng.normal(6.0 * y, 1.0)], 1)
    for kind in (False, True):
        model = zoo.NaiveBayes(2, kind="gaussian", bayesian=kind)
        fitted(model, (x * [1e9, 1e-6], y))
        assert (model.predict(x * [1e9, 1e-6]).numpy() == y).mean() > 0.99


@pytest.mark.parametrize("model", [zoo.LinearRegression, zoo.BayesianLinearRegression])
def test_price_on_the_year(model):
    rng = np.random.default_rng(0)
    year = np.arange(1990.0, 2024.0)
    price = 5e4 + 4931.0 * (year - 1990.0) + rng.normal(0.0, 3000.0, 34)
    slope = np.polyfit(year - year.mean(), price, 1)[0]
    fit = fitted(model(1), (year[:, None], price))
    draws = fit.posterior(2000)
    assert draws["weights"].mean().item() == pytest.approx(slope, abs=15.0)  # its sd is 55
    level = (draws["intercept"] + draws["weights"][..., 0] * year.mean()).mean().item()
    assert level == pytest.approx(price.mean(), abs=100.0)


# ---- rounding is no fault of a model ------------------------------------------------------------


@pytest.mark.parametrize("num_rows", [120, 200, 216])
def test_em_in_single_precision_on_few_rows_of_many_columns(num_rows):
    torch.manual_seed(num_rows)
    x = torch.randn(num_rows, 90)
    single, double = zoo.GaussianMixture(2, 90), zoo.GaussianMixture(2, 90).double()
    pair = [fitted(m, x, zoo.EM(steps=5)).objective for m in (single, double)]
    assert pair[0] == pytest.approx(pair[1], rel=1e-2)


FACTORS = {
    "fa": lambda: zoo.FactorAnalysis(2, 1),
    "fa missing": lambda: zoo.FactorAnalysis(2, 1, missing=True),
    "ppca": lambda: zoo.ProbabilisticPCA(2, 1),
    "ppca missing": lambda: zoo.ProbabilisticPCA(2, 1, missing=True),
    "bfa": lambda: zoo.BayesianFactorAnalysis(2, 1),
    "bfa missing": lambda: zoo.BayesianFactorAnalysis(2, 1, missing=True),
    "bayesian pca": lambda: zoo.BayesianFactorAnalysis(2, 1, "isotropic"),
}
MIXTURES = {
    **{c: lambda c=c: zoo.GaussianMixture(2, 2, c) for c in ("full", "tied", "diagonal")},
    **{
        f"bayesian {c}": lambda c=c: zoo.BayesianGaussianMixture(2, 2, c)
        for c in ("full", "tied", "diagonal", "spherical")
    },
}
Z = rows()
ALIKE = {"one row": Z[:1], "constant": np.ones((20, 2)), "duplicates": np.repeat(Z[:1], 20, 0)}
NARROW = {
    "two rows": Z[:2],
    "two rows, many times": np.repeat(Z[:2], 20, 0),
    "collinear": Z[:, :1] * [1.0, 2.0],
}
CONSTANT = np.stack([Z[:, 0], np.full(60, 3.3)], 1)


@pytest.mark.parametrize("data", ALIKE)
@pytest.mark.parametrize("model", FACTORS | MIXTURES)
def test_rows_that_are_all_the_same_are_refused(model, data):
    with pytest.raises(zoo.DataError, match=r"constant features 0, 1|got 1 rows"):
        fitted((FACTORS | MIXTURES)[model](), ALIKE[data])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("data", NARROW)
@pytest.mark.parametrize("model", FACTORS | MIXTURES)
def test_rows_in_a_subspace_have_a_limit(model, data, dtype):
    x = torch.tensor(NARROW[data], dtype=dtype)
    made = (FACTORS | MIXTURES)[model]()
    solver = zoo.EM if made.default_solver[0] == "EM" else zoo.CAVI
    fit = fitted(made, x, solver(steps=40))
    assert fit.stopped in ("converged", "max_steps")
    assert made.log_prob(x).isfinite().all()


@pytest.mark.parametrize("model", FACTORS)
def test_a_constant_column_beside_others_is_no_obstacle(model):
    made = FACTORS[model]()
    solver = zoo.EM if made.default_solver[0] == "EM" else zoo.CAVI
    fit = fitted(made, CONSTANT, solver(steps=40))
    assert np.isfinite(fit.objective) and made.log_prob(CONSTANT).isfinite().all()


@pytest.mark.parametrize("size", [1e300, 1e-300])
@pytest.mark.parametrize("model", FACTORS | MIXTURES)
def test_variances_beyond_the_range_of_numbers_are_refused(model, size):
    with pytest.raises(zoo.DataError, match="expected a spread from"):
        fitted((FACTORS | MIXTURES)[model](), size * Z)


def test_a_scale_mixture_of_collinear_columns_is_refused():
    with pytest.raises(zoo.DataError, match="subspace"):
        fitted(zoo.GaussianScaleMixture(2, 2), NARROW["collinear"])


# ---- numbers are taken right or refused ---------------------------------------------------------


def test_masked_values_are_missing():
    x = np.ma.array(rows(), mask=False)
    x[3, 1] = 1e6
    x.mask[3, 1] = True
    with pytest.raises(zoo.DataError, match=r"got nan at \(3, 1\).*missing=True"):
        fitted(zoo.GaussianMixture(2, 2), x)
    plain = rows()
    plain[3, 1] = np.nan
    masked, missing = (zoo.GaussianMixture(2, 2, missing=True) for _ in range(2))
    fits = fitted(masked, x, SHORT), fitted(missing, plain, SHORT)
    assert fits[0].objective == fits[1].objective
    whole = np.ma.array(rows(), mask=False)
    pair = (fitted(zoo.GaussianMixture(2, 2), x, SHORT).objective for x in (whole, rows()))
    assert next(pair) == next(pair)
    codes = np.ma.array([[1, 0], [0, 1], [1, 99]], mask=[[0, 0], [0, 0], [0, 1]])
    model = zoo.IndependentBernoulli(2)
    fitted(model, codes)
    assert np.isfinite(model.log_prob(codes).numpy()).all()


def test_unsigned_integers_beyond_int64_are_refused():
    x = np.array([[2**63 + 5, 1], [3, 4]], dtype=np.uint64)
    with pytest.raises(zoo.DataError, match=f"got the integer {2**63 + 5}, expected at most"):
        fitted(zoo.LinearRegression(2), (x, np.zeros(2)))
    assert zoo.LinearRegression(2).as_rows(x // 4).all()[0][0, 0] == (2**63 + 5) // 4


def test_numbers_beyond_single_precision_are_refused_there():
    x = rows()
    x[5, 0] = 1e300
    with pytest.raises(zoo.DataError, match=r"got 1e\+300, expected at most 3.4e\+38.*double"):
        fitted(zoo.GaussianMixture(2, 2).float(), x)
    with pytest.raises(zoo.DataError, match="got inf"):
        x[5, 0] = np.inf
        fitted(zoo.GaussianMixture(2, 2).float(), x)
