"""A Markov chain writes text: each letter depends on the last few (Shannon 1948).

Learns from a text file (by default the licence of this project), says how well each order
predicts what it has not read, and goes on from a beginning. Run:

    python examples/markov_text.py --text FILE --order 4 --start "the "
"""

import argparse
from pathlib import Path

import torch

import ppl_zoo as zoo

LICENCE = Path(__file__).parent.parent / "LICENSE"


def main(text=LICENCE, orders=(0, 1, 2, 3), length=300, start="the ", chunk=200):
    words = " ".join(Path(text).read_text(encoding="utf-8").lower().split())
    letters = sorted(set(words))
    code = {letter: state for state, letter in enumerate(letters)}
    unknown = sorted(set(start.lower()) - set(letters))
    if unknown:
        raise SystemExit(f"start: the text has no {unknown[0]!r}")
    states = torch.tensor([code[letter] for letter in words])
    rows = states[: len(states) // chunk * chunk].reshape(-1, chunk)
    held_out = torch.arange(len(rows)) % 10 == 9
    print(f"{len(words)} letters, {len(letters)} of them different")
    print("order  parameters  bits a letter: read  not read")
    for order in orders:
        # a hundredth of a count more in every cell: most pasts are followed by few letters
        chain = zoo.MarkovChain(len(letters), order, concentration=1.01)
        zoo.fit(chain, rows[~held_out], device="cpu", progress=False)
        read, unread = (
            -chain.log_prob(r).mean() / chunk for r in (rows[~held_out], rows[held_out])
        )
        bits = [float(nats) / 0.693147 for nats in (read, unread)]
        print(f"{order:<6} {chain.num_free_parameters:>10}  {bits[0]:19.3f}  {bits[1]:8.3f}")
    often = chain.stationary().topk(5)
    found = [f"{letters[i]!r} {p:.3f}" for p, i in zip(*often, strict=True)]
    print("most frequent in the long run:", ", ".join(found))
    begin = torch.tensor([code[letter] for letter in start.lower()])
    torch.manual_seed(0)
    drawn = chain.sample(1, given=begin, length=len(begin) + length)[0]
    print("".join(letters[int(state)] for state in drawn))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", default=LICENCE)
    parser.add_argument("--order", type=int, default=3)
    parser.add_argument("--start", default="the ")
    parser.add_argument("--length", type=int, default=300)
    options = vars(parser.parse_args())
    order = options.pop("order")
    main(orders=range(order + 1), **options)
