"""
Generative against discriminative: a spam filter
================================================

Naive Bayes learns how each kind of message is written, logistic regression only what tells them
apart: the first is good sooner, the second better in the end (Ng & Jordan 2002, On discriminative
vs. generative classifiers). Where the SMS Spam collection is at hand, messages are classified, by
their words; without it, handwritten 8s are told from the other digits.
"""

from functools import partial

import matplotlib.pyplot as plt
import torch

import ppl_zoo as zoo

data = "digits"  # or "sms-spam", which is downloaded
sizes = (20, 50, 100, 200, 400, 800)
seeds = 3

# %%
# Rows of zeros and ones, and a label.

if data == "sms-spam":
    found = zoo.data.load("sms-spam", supervised=True, binary=True)
    train, test, words = found.train, found.test, found.card.feature_names
else:
    digits, words = zoo.data.load("digits", binarize=True), None
    train, test = (
        (getattr(digits, split), (digits.labels[split] == 8).float())
        for split in ("train", "test")
    )


# %%
# Errors on new rows after ever more training rows, the mean of some random orders. A tenth of a
# count more in each cell of naive Bayes, since most words are rare.


def curve(make):
    errors = torch.zeros(seeds, len(sizes))
    for seed in range(seeds):
        order = torch.randperm(len(train[1]), generator=torch.Generator().manual_seed(seed))
        for i, size in enumerate(sizes):
            model = make(train[0].shape[1])
            rows = order[:size]
            zoo.fit(model, (train[0][rows], train[1][rows]), device="cpu", progress=False)
            errors[seed, i] = (model.predict(test[0]) != test[1]).float().mean()
    return errors.mean(0)


curves = {
    "naive Bayes": curve(partial(zoo.NaiveBayes, concentration=1.1)),
    "logistic regression": curve(zoo.LogisticRegression),
}
print("rows    " + "".join(f"{label:>21}" for label in curves))
for i, size in enumerate(sizes):
    print(f"{size:<8}" + "".join(f"{values[i]:21.4f}" for values in curves.values()))

# %%
# The crossing of Ng and Jordan.

plt.figure(figsize=(6, 4), layout="constrained")
for label, values in curves.items():
    plt.semilogx(sizes, 100 * values, marker="o", label=label)
plt.xlabel("training rows")
plt.ylabel("errors on new rows, %")
plt.legend()
plt.show()

# %%
# With a posterior over its rates, naive Bayes is less sure of what it has seldom seen.

model = zoo.NaiveBayes(train[0].shape[1], concentration=0.1, bayesian=True)
zoo.fit(model, train, device="cpu", progress=False)
if words is not None:
    odds = model.table("rates")[1, :, 1].log() - model.table("rates")[0, :, 1].log()
    print("spam is told by:", ", ".join(words[i] for i in odds.argsort(descending=True)[:12]))
sure, unsure = (model.predict_proba(test[0][:5], uncertainty=u)[:, 1] for u in (False, True))
print("P(class 1) of five new rows:", [f"{p:.2g}" for p in sure.tolist()])
print("with the rates uncertain:   ", [f"{p:.2g}" for p in unsure.tolist()])
