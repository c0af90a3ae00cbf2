"""
A Markov chain writes text
==========================

Each letter depends on the last few (Shannon 1948,
https://doi.org/10.1002/j.1538-7305.1948.tb01338.x). The chain learns from a text, here NumPy's own
documentation; what it has not read tells how far it should look back.
"""

import inspect
import math

import matplotlib.pyplot as plt
import numpy as np
import torch

import ppl_zoo as zoo

text = " ".join(inspect.getdoc(getattr(np, name)) or "" for name in np.__all__)  # or a book
orders = (0, 1, 2, 3, 4)
most, length, chunk, start = 100_000, 300, 200, "the "

# %%
# Letters as numbers, cut into chunks; every tenth chunk is held out.

words = "".join(c if c.isalpha() and c.isascii() else " " for c in text.lower())
words = " ".join(words.split())[:most]
letters = sorted(set(words))
code = {letter: state for state, letter in enumerate(letters)}
states = torch.tensor([code[letter] for letter in words])
rows = states[: len(states) // chunk * chunk].reshape(-1, chunk)
held_out = torch.arange(len(rows)) % 10 == 9
print(f"{len(words)} letters, {len(letters)} of them different")

# %%
# The longer the memory, the better a chain predicts what it has read; what it has not read says
# where that ends. A hundredth of a count more in each cell, as most pasts have few successors.

bits = []
print("order  parameters  bits a letter: read  not read")
for order in orders:
    chain = zoo.MarkovChain(len(letters), order, concentration=1.01)
    zoo.fit(chain, rows[~held_out], device="cpu", progress=False)
    nats = [-float(chain.log_prob(r).mean()) / chunk for r in (rows[~held_out], rows[held_out])]
    bits.append([value / math.log(2) for value in nats])
    print(f"{order:<6} {chain.num_free_parameters:>10}  {bits[-1][0]:19.3f}  {bits[-1][1]:8.3f}")

# %%
# What the longest memory writes, and which letters it uses most in the long run.

often = chain.stationary().topk(5)
print("most frequent:", ", ".join(f"{letters[i]!r} {p:.3f}" for p, i in zip(*often, strict=True)))
begin = torch.tensor([code[letter] for letter in start])
torch.manual_seed(0)
drawn = chain.sample(1, given=begin, length=len(begin) + length)[0]
print("".join(letters[int(state)] for state in drawn))

# %%
# Bits a letter, read and not read.

plt.figure(figsize=(5.5, 3.6), layout="constrained")
for values, label in zip(zip(*bits, strict=True), ("read", "not read"), strict=True):
    plt.plot(orders, values, marker="o", label=label)
plt.xlabel("letters remembered")
plt.ylabel("bits a letter")
plt.xticks(orders)
plt.legend()
plt.show()
