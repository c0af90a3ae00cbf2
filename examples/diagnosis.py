"""A medical diagnosis net, asked from the command line.

    python examples/diagnosis.py --evidence smoke=yes dysp=yes
    python examples/diagnosis.py --evidence asia=yes --do smoke=no
    python examples/diagnosis.py --bif other_net.bif --evidence NODE=STATE

The net is "asia": shortness of breath (dysp) may come from tuberculosis, lung cancer or
bronchitis, and a chest X-ray does not tell the first two apart. Lauritzen & Spiegelhalter 1988,
Local computations with probabilities on graphical structures and their application to expert
systems, https://doi.org/10.1111/j.2517-6161.1988.tb01721.x
"""

import argparse
import math

import ppl_zoo as zoo

PARENTS = {
    "asia": [],
    "smoke": [],
    "tub": ["asia"],
    "lung": ["smoke"],
    "bronc": ["smoke"],
    "either": ["tub", "lung"],
    "xray": ["either"],
    "dysp": ["either", "bronc"],
}
TABLES = {
    "asia": [0.01, 0.99],
    "smoke": [0.5, 0.5],
    "tub": [[0.05, 0.95], [0.01, 0.99]],
    "lung": [[0.10, 0.90], [0.01, 0.99]],
    "bronc": [[0.60, 0.40], [0.30, 0.70]],
    "either": [[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]],
    "xray": [[0.98, 0.02], [0.05, 0.95]],
    "dysp": [[[0.90, 0.10], [0.70, 0.30]], [[0.80, 0.20], [0.10, 0.90]]],
}


def asia():
    return zoo.BayesNet(PARENTS, dict.fromkeys(PARENTS, ["yes", "no"]), TABLES)


def pairs(words):
    return dict(word.partition("=")[::2] for word in words)


def main(evidence=("smoke=yes", "dysp=yes"), do=(), bif=None):
    net = zoo.BayesNet.from_bif(bif) if bif else asia()
    net = net.do(pairs(do)) if do else net
    seen = pairs(evidence)
    probability = math.exp(net.log_evidence(seen).item())
    print(f"P({', '.join(evidence) or 'no evidence'}) = {probability:.6g}")
    before, after = net.marginals(), net.marginals(seen)
    for node in net.nodes:
        if node in seen:
            continue
        print(f"  {node}")
        for i, state in enumerate(net.states[node]):
            old, new = before[node][0, i].item(), after[node][0, i].item()
            print(f"    {state:<12s} {old:7.4f} -> {new:7.4f}  {'#' * round(30 * new)}")
    best = net.most_probable(seen)
    words = ", ".join(f"{n}={s}" for n, s in net.names(best.states)[0].items() if n not in seen)
    share = math.exp(best.log_prob.item()) / probability
    print(f"most probable explanation ({share:.1%}): {words}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evidence", nargs="*", default=("smoke=yes", "dysp=yes"))
    parser.add_argument("--do", nargs="*", default=(), help="set a node from outside: NODE=STATE")
    parser.add_argument("--bif", help="another net, as a BIF file")
    try:
        main(**vars(parser.parse_args()))
    except (zoo.DataError, zoo.QueryError) as error:
        raise SystemExit(f"error: {error}") from None
