"""Naive Bayes and logistic regression beside scikit-learn, on spam and on sparse counts.

Run `OMP_NUM_THREADS=1 PPL_ZOO_DATA=... python benchmarks/naive_bayes.py`. In float64: accuracy
and log loss on the published split of the SMS Spam collection and in ten stratified folds of
Spambase, the largest difference between our predicted probabilities and scikit-learn's; what
messages without a label add to 50 with one; and the time of fit and prediction on 20,000 x 5,000
sparse counts. Times are of the processor, medians of runs in turn, so that the ratios hold on a
busy machine. The result goes to `benchmarks/results/naive_bayes.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import scipy
import scipy.sparse as sp
import sklearn
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, matthews_corrcoef
from sklearn.model_selection import StratifiedKFold
from sklearn.naive_bayes import BernoulliNB, ComplementNB, GaussianNB, MultinomialNB

import ppl_zoo as zoo

RESULT = Path(__file__).parent / "results" / "naive_bayes.json"
NUM_LABELLED = 50


def ours(kind, num_features):
    if kind == "logistic":
        return zoo.LogisticRegression(num_features).double()
    return zoo.NaiveBayes(num_features, kind=kind).double()


PEERS = {
    "bernoulli": BernoulliNB,
    "multinomial": MultinomialNB,
    "gaussian": GaussianNB,
    "logistic": lambda: LogisticRegression(max_iter=100_000, tol=1e-10),
}


def compare(kind, train, test):
    """Fit both to the same rows; return accuracies, log losses and the largest difference."""
    (x, y), (x_test, y_test) = (
        [np.asarray(a, np.float64) for a in pair] for pair in (train, test)
    )
    model = ours(kind, x.shape[1])
    zoo.fit(model, (x, y.astype(int)), device="cpu", progress=False)
    p = model.predict_proba(x_test).numpy()
    peer = PEERS[kind]()
    if kind == "logistic" and x.shape[1] < 500:
        peer.set_params(solver="newton-cholesky")  # L-BFGS stops at some 1e-6
    q = peer.fit(x, y.astype(int)).predict_proba(x_test)
    return {
        "accuracy": float((p.argmax(-1) == y_test).mean()),
        "log_loss": float(log_loss(y_test, p)),
        "accuracy_sklearn": float((q.argmax(-1) == y_test).mean()),
        "log_loss_sklearn": float(log_loss(y_test, q)),
        "largest_difference": float(np.abs(p - q).max()),
    }


def sms():
    out = {}
    for kind in ("bernoulli", "multinomial", "logistic"):
        data = zoo.data.load("sms-spam", supervised=True, binary=kind == "bernoulli")
        out[kind] = compare(kind, data.train, data.test)
    (x, y), (x_test, y_test) = data.train, data.test
    peer = ComplementNB().fit(x.numpy(), y.numpy())
    out["complement"] = {
        "accuracy_sklearn": float((peer.predict(x_test) == y_test.numpy()).mean())
    }
    return out


def spambase():
    data = zoo.data.load("spambase")
    x, y = data.train.double().numpy(), data.labels["train"].numpy()
    folds = list(StratifiedKFold(10, shuffle=True, random_state=0).split(x, y))
    out = {}
    for kind in ("bernoulli", "gaussian", "logistic"):
        parts = []
        for train, test in folds:
            rows = x
            if kind == "bernoulli":
                rows = (x > 0).astype(np.float64)
            elif kind == "logistic":
                rows = np.log1p(x)
                rows = (rows - rows[train].mean(0)) / rows[train].std(0)
            parts.append(compare(kind, (rows[train], y[train]), (rows[test], y[test])))
        out[kind] = {
            key: (max if key == "largest_difference" else statistics.fmean)(p[key] for p in parts)
            for key in parts[0]
        }
    return out


def semi_supervised(seeds):
    """Accuracy and Matthews correlation with 50 labels alone, and with 1,624 rows without one."""
    data = zoo.data.load("sms-spam", supervised=True)
    (x, y), (x_test, y_test) = data.train, data.test
    x, x_test = sp.csr_array(x.double().numpy()), sp.csr_array(x_test.double().numpy())
    runs = []
    for seed in range(seeds):
        chosen = np.random.default_rng(seed).choice(len(y), NUM_LABELLED, replace=False)
        told = torch.full_like(y, -1.0)
        told[chosen] = y[chosen]
        row = {"seed": seed, "spam_among_labelled": int(y[chosen].sum())}
        for name, pair in (("supervised", (x[chosen], y[chosen])), ("semi", (x, told))):
            model = ours("multinomial", x.shape[1])
            zoo.fit(model, pair, device="cpu", progress=False)
            found = model.predict(x_test)
            row[name] = float((found == y_test).double().mean())
            row[f"{name}_mcc"] = float(matthews_corrcoef(y_test, found))
        runs.append(row)
    return {
        "runs": runs,
        "mean_supervised": statistics.fmean(r["supervised"] for r in runs),
        "mean_semi": statistics.fmean(r["semi"] for r in runs),
        "wins": sum(r["semi"] > r["supervised"] for r in runs),
    }


def speed(repeats, rows=20_000, columns=5_000):
    rng = np.random.default_rng(0)
    x = sp.random(rows, columns, density=0.01, format="csr", random_state=0, dtype=np.float64)
    x.data = np.ceil(3.0 * x.data)
    y = rng.integers(0, 2, rows)
    out = {}
    for kind, table in (("multinomial", x), ("bernoulli", (x > 0).astype(np.float64).tocsr())):
        model, peer = ours(kind, columns).learn(table, y), PEERS[kind]().fit(table, y)
        jobs = {
            "learn": lambda t=table, k=kind: ours(k, columns).learn(t, y),
            "fit_sklearn": lambda t=table, k=kind: PEERS[k]().fit(t, y),
            "predict": lambda t=table, m=model: m.predict_proba(t),
            "predict_sklearn": lambda t=table, m=peer: m.predict_proba(t),
            "zoo_fit": lambda t=table, k=kind: zoo.fit(
                ours(k, columns), (t, y), device="cpu", progress=False
            ),
        }
        times = {name: [] for name in jobs}
        for _ in range(repeats):
            for name, job in jobs.items():
                start = time.process_time()
                job()
                times[name].append(1e3 * (time.process_time() - start))
        found = {f"{name}_ms": statistics.median(values) for name, values in times.items()}
        found["learn_ratio"] = found["learn_ms"] / found["fit_sklearn_ms"]
        found["predict_ratio"] = found["predict_ms"] / found["predict_sklearn_ms"]
        found["largest_difference"] = float(
            np.abs(model.predict_proba(table).numpy() - peer.predict_proba(table)).max()
        )
        out[kind] = found
    return out


def main(seeds=10, repeats=31, out=RESULT):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = {
        "sms_spam": sms(),
        "spambase_ten_folds": spambase(),
        "semi_supervised_sms_50_labels": semi_supervised(seeds),
        "speed_20000_x_5000_sparse_processor_ms": speed(repeats),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "scikit-learn": sklearn.__version__,
            "scipy": scipy.__version__,
        },
    }
    Path(out).parent.mkdir(exist_ok=True)
    Path(out).write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--out", default=RESULT)
    main(**vars(parser.parse_args()))
