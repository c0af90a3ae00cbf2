"""A spam filter, generative against discriminative, by the number of labelled messages.

Naive Bayes learns how each kind of message is written, logistic regression only what tells them
apart: the first is good sooner, the second better in the end (Ng & Jordan 2002, On discriminative
vs. generative classifiers). Takes the SMS Spam collection if it can be had, or else tells
handwritten 8s from the other digits. Run:

    python examples/spam_filter.py --out out
"""

import argparse
from functools import partial
from pathlib import Path

import torch

import ppl_zoo as zoo


def load(data):
    """Words that occur, or black pixels; and labels."""
    if data in ("auto", "sms-spam"):
        try:
            found = zoo.data.load("sms-spam", supervised=True, binary=True)
            return "sms-spam", found.train, found.test, found.card.feature_names
        except (ConnectionError, FileNotFoundError) as error:
            if data != "auto":
                raise
            print(f"no SMS Spam here ({type(error).__name__}): handwritten digits instead")
    digits = zoo.data.load("digits", binarize=True)
    train, test = (
        (getattr(digits, s), (digits.labels[s] == 8).float()) for s in ("train", "test")
    )
    return "digits", train, test, None


def curve(make, sizes, seeds, train, test):
    """Mean error on the test rows after each number of training rows."""
    (x, y), (x_test, y_test) = train, test
    errors = torch.zeros(len(seeds), len(sizes))
    for s, seed in enumerate(seeds):
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
        for i, size in enumerate(sizes):
            model = make(x.shape[1])
            zoo.fit(model, (x[order[:size]], y[order[:size]]), device="cpu", progress=False)
            errors[s, i] = (model.predict(x_test) != y_test).float().mean()
    return errors.mean(0)


def draw(path, sizes, curves, name):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for label, values in curves.items():
        axes.semilogx(sizes, values, marker="o", label=label)
    axes.set(xlabel="training rows", ylabel="test error", title=name)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"figure: {path}")


def main(data="auto", sizes=(20, 50, 100, 200, 400, 800, 1600), seeds=3, out="out"):
    name, train, test, words = load(data)
    sizes = [size for size in sizes if size <= len(train[1])]
    # a tenth of a count more in every cell: most words are rare
    rare = partial(zoo.NaiveBayes, concentration=1.1)
    kinds = {"naive Bayes": rare, "logistic regression": zoo.LogisticRegression}
    curves = {
        label: curve(make, sizes, range(seeds), train, test) for label, make in kinds.items()
    }
    print(f"{name}: test error after")
    print("rows    " + "".join(f"{label:>21}" for label in curves))
    for i, size in enumerate(sizes):
        print(f"{size:<8}" + "".join(f"{values[i]:21.4f}" for values in curves.values()))
    draw(Path(out) / "spam_filter.png", sizes, curves, name)

    model = zoo.NaiveBayes(train[0].shape[1], concentration=0.1, bayesian=True)
    zoo.fit(model, train, device="cpu", progress=False)
    odds = model.table("rates")[1, :, 1].log() - model.table("rates")[0, :, 1].log()
    if words is not None:
        print("spam is told by:", ", ".join(words[i] for i in odds.argsort(descending=True)[:12]))
    sure, unsure = (model.predict_proba(test[0][:5], uncertainty=u)[:, 1] for u in (False, True))
    print("P(class 1) of five test rows:", [f"{p:.2g}" for p in sure.tolist()])
    print("with the rates uncertain:    ", [f"{p:.2g}" for p in unsure.tolist()])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="auto", choices=("auto", "sms-spam", "digits"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="out")
    main(**vars(parser.parse_args()))
