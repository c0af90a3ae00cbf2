"""Approximate marginals of a Bayesian network: likelihood weighting and loopy belief propagation.

For networks whose junction tree does not fit in memory. Each comes with an estimate of its error.
"""

from __future__ import annotations

import math
import string
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ppl_zoo.core.errors import QueryError
from ppl_zoo.models.discrete.bayes_net.counts import configuration_index
from ppl_zoo.models.discrete.bayes_net.marginals import Marginals

__all__ = ["ApproximateMarginals", "Factors", "likelihood_weighting", "loopy_propagation"]

MIN_EFFECTIVE_SAMPLES = 100  # with fewer, the standard errors themselves are no estimates
VALUES_PER_CHUNK = 2**22  # draws of one node at a time; cells of the factors of one shape
UNDAMPED_ITERATIONS = 100
DAMPING = 0.5
#: change of a message at rest
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


class ApproximateMarginals(Marginals):
    """Approximate posterior probabilities ``{node: (rows, states)}``, with estimated errors.

    Attributes
    ----------
    method
        "likelihood-weighting" or "loopy".
    errors
        ``{node: (rows, states)}``. Of likelihood weighting, the standard error; of loopy
        propagation, which has no error bound, the distance to likelihood weighting, or the
        standard error of that where it is larger (NaN where no draw met the evidence).
    effective_samples
        Effective number of draws of likelihood weighting, ``(rows,)``.
    converged
        Whether the messages of loopy propagation came to rest, ``(rows,)``; None otherwise.
    residual
        Largest change of a message in the last iteration, ``(rows,)``; None otherwise.
    """

    def __init__(
        self,
        marginals: Mapping[str, Tensor],
        method: str,
        errors: Mapping[str, Tensor],
        effective_samples: Float[Tensor, " rows"],
        converged: Bool[Tensor, " rows"] | None = None,
        residual: Float[Tensor, " rows"] | None = None,
    ) -> None:
        super().__init__(marginals)
        self.method, self.errors = method, dict(errors)
        self.effective_samples = effective_samples
        self.converged, self.residual = converged, residual

    @property
    def largest_error(self) -> float:
        """Largest estimated error of a probability; NaN where there is no estimate."""
        return max(float(error.max()) for error in self.errors.values())


@dataclass
class Factors:
    """Tables of a network, by index of the node.

    Attributes
    ----------
    nodes
        Names.
    order
        Indices, parents before their children.
    parents, sizes
        Parents of each node, and its number of states.
    tables
        ``(configurations, states)`` each.
    """

    nodes: Sequence[str]
    order: Sequence[int]
    parents: Sequence[tuple[int, ...]]
    sizes: Sequence[int]
    tables: Sequence[Tensor]

    def by_name(self, columns: Sequence[Tensor]) -> dict[str, Tensor]:
        """Tensors of the nodes, by their names."""
        return dict(zip(self.nodes, columns, strict=True))


def likelihood_weighting(
    factors: Factors, x: Tensor, soft: Mapping[int, Tensor], num_samples: int
) -> ApproximateMarginals:
    """Likelihood weighting: ancestral sampling with the evidence held, weighted by its likelihood.

    Parameters
    ----------
    factors
        The network.
    x
        Evidence ``(rows, nodes)``, -1 where unobserved.
    soft
        Likelihoods ``{node: (states, rows)}``.
    num_samples
        Draws for each row.

    Raises
    ------
    QueryError
        If no draw of a row has a positive weight.

    References
    ----------
    Fung & Chang 1990, Weighing and integrating evidence for stochastic simulation in Bayesian
    networks; Shachter & Peot 1990, Simulation approaches to general probabilistic inference.
    """
    rows, sums = len(x), [x.new_zeros((len(x), 2, s), dtype=torch.float64) for s in factors.sizes]
    shift = torch.full((rows,), -math.inf, dtype=torch.float64, device=x.device)
    left, size = num_samples, max(1, VALUES_PER_CHUNK // rows)
    while left:
        count = min(left, size)
        columns, log_weights = _weighted_draws(factors, x, soft, count)
        left -= count
        # weights are kept relative to the largest one so far
        top = torch.maximum(shift, log_weights.amax(1))
        rescale = torch.where(shift > -math.inf, (shift - top).exp(), 0.0)[:, None]
        weights = torch.where(log_weights > -math.inf, (log_weights - top[:, None]).exp(), 0.0)
        shift = top
        for node, states in enumerate(factors.sizes):
            index = columns[node] + states * torch.arange(rows, device=x.device)[:, None]
            for power in (1, 2):
                total = index.new_zeros(rows * states, dtype=torch.float64)
                total.index_add_(0, index.flatten(), (weights**power).flatten())
                part = sums[node][:, power - 1]
                part.mul_(rescale**power).add_(total.view(rows, states))
    total, squares = sums[0][:, 0].sum(1), sums[0][:, 1].sum(1)
    never = (total == 0).nonzero()[:, 0].tolist()
    if never:
        raise QueryError(
            f"likelihood weighting: none of {num_samples} draws agrees with the evidence of row "
            f"{never[0]}: it has probability 0, or too little for this method"
        )
    effective = total.square() / squares
    if bool((effective < MIN_EFFECTIVE_SAMPLES).any()):
        warnings.warn(
            f"likelihood weighting: {float(effective.min()):.3g} effective draws of "
            f"{num_samples}: its standard errors are not reliable; expected 100 or more, by a "
            "larger num_samples",
            stacklevel=4,
        )
    marginals, errors = [], []
    for part in sums:
        p = part[:, 0] / total[:, None]
        variance = (part[:, 1] * (1 - 2 * p) + p.square() * squares[:, None]) / total.square()[
            :, None
        ]
        # a state that was never drawn, or always, has an error as well
        error = variance.clamp_min(0.0).sqrt().maximum(1.0 / effective[:, None])
        marginals.append(p.to(factors.tables[0].dtype))
        errors.append(error.to(factors.tables[0].dtype))
    for node, error in enumerate(errors):
        error[x[:, node] >= 0] = 0.0
    return ApproximateMarginals(
        factors.by_name(marginals), "likelihood-weighting", factors.by_name(errors), effective
    )


def _weighted_draws(
    factors: Factors, x: Tensor, soft: Mapping[int, Tensor], count: int
) -> tuple[list[Tensor], Tensor]:
    """Draw states of all nodes, ``(rows, count)`` each, and their log weights."""
    shape = (len(x), count)
    columns: list[Tensor] = [x] * len(factors.sizes)
    log_weights = torch.zeros(shape, dtype=torch.float64, device=x.device)
    for node in factors.order:
        table, seen = factors.tables[node], x[:, node : node + 1]
        code = configuration_index(columns, factors.parents[node], factors.sizes)
        code = x.new_zeros(shape) if code is None else code
        observed = seen >= 0
        drawn = seen.expand(shape)
        if not bool(observed.all()):
            cumulative = table.cumsum(-1)
            # 1 - rand lies in (0, 1]: a state of probability 0 is never drawn
            level = (1.0 - torch.rand(shape, dtype=table.dtype, device=table.device)) * cumulative[
                :, -1
            ][code]
            free = torch.zeros_like(code)
            for state in range(table.shape[1] - 1):
                free += level > cumulative[:, state][code]
            drawn = torch.where(observed, drawn, free)
        if bool(observed.any()):
            likelihood = table.flatten()[code * table.shape[1] + drawn].double().log()
            log_weights += torch.where(observed, likelihood, 0.0)
        if node in soft:
            log_weights += soft[node].T.double().gather(1, drawn).log()
        columns[node] = drawn
    return columns, log_weights


@dataclass
class _Group:
    """Factors of one shape, stacked: ``(factors, states of each slot...)``, and their edges."""

    tables: Tensor
    edges: Tensor  # (factors, slots), indices into the messages
    states: tuple[int, ...]


def loopy_propagation(
    factors: Factors,
    x: Tensor,
    soft: Mapping[int, Tensor],
    num_samples: int,
    max_iterations: int,
) -> ApproximateMarginals:
    """Loopy belief propagation: sum-product messages on the graph of tables, until they rest.

    Exact on polytrees. Elsewhere it may be wrong though it converges, so that it is held against
    likelihood weighting.

    Parameters
    ----------
    factors, x, soft, num_samples
        As for `likelihood_weighting`, the check.
    max_iterations
        Iterations; damped by one half from the hundredth on.

    Raises
    ------
    QueryError
        If the messages rule out every state of a node: the evidence is impossible.

    References
    ----------
    Pearl 1988, Probabilistic Reasoning in Intelligent Systems, chapter 4; Murphy, Weiss & Jordan
    1999, Loopy belief propagation for approximate inference, https://arxiv.org/abs/1301.6725
    """
    groups, variables = _group_factors(factors)
    width = max(factors.sizes)
    cells = sum(group.tables.numel() for group in groups) + width * len(variables)
    size, parts = max(1, VALUES_PER_CHUNK // cells), []
    for first in range(0, len(x), size):
        rows = slice(first, first + size)
        likelihood = _likelihoods(factors, x[rows], {n: v[:, rows] for n, v in soft.items()})
        parts.append(_propagate(groups, variables, likelihood, max_iterations, first))
    beliefs, residual = (torch.cat(p) for p in zip(*parts, strict=True))
    converged = residual <= TOLERANCE[beliefs.dtype]
    marginals = [beliefs[:, node, :s].contiguous() for node, s in enumerate(factors.sizes)]
    try:
        check = likelihood_weighting(factors, x, soft, num_samples)
        errors = {
            node: (check[node] - p).abs().maximum(check.errors[node])
            for node, p in factors.by_name(marginals).items()
        }
        effective = check.effective_samples
    except QueryError as error:
        warnings.warn(f"loopy propagation is not checked: {error}", stacklevel=3)
        errors = {n: torch.full_like(p, math.nan) for n, p in factors.by_name(marginals).items()}
        effective = residual.new_zeros(len(x))
    if not bool(converged.all()):
        warnings.warn(
            f"loopy propagation: {int((~converged).sum())} of {len(x)} rows did not converge in "
            f"{max_iterations} iterations (residual {float(residual.max()):.2g})",
            stacklevel=3,
        )
    return ApproximateMarginals(
        factors.by_name(marginals), "loopy", errors, effective, converged, residual
    )


def _group_factors(factors: Factors) -> tuple[list[_Group], Tensor]:
    """Stack the tables of one shape; the node of each edge, table by table."""
    shapes: dict[tuple[int, ...], list[int]] = {}
    for node, parents in enumerate(factors.parents):
        shape = tuple(factors.sizes[n] for n in (*parents, node))
        shapes.setdefault(shape, []).append(node)
    groups, variables = [], []
    device = factors.tables[0].device
    for shape, members in shapes.items():
        start, slots = len(variables), len(shape)
        variables += [n for node in members for n in (*factors.parents[node], node)]
        edges = torch.arange(start, len(variables), device=device).view(-1, slots)
        tables = torch.stack([factors.tables[node].reshape(shape) for node in members])
        groups.append(_Group(tables, edges, shape))
    return groups, torch.tensor(variables, device=device)


def _likelihoods(factors: Factors, x: Tensor, soft: Mapping[int, Tensor]) -> Tensor:
    """Likelihood of every state of every node, ``(rows, nodes, states)``; 0 beyond its states."""
    like = factors.tables[0]
    out = like.new_zeros((len(x), len(factors.sizes), max(factors.sizes)))
    for node, states in enumerate(factors.sizes):
        column = x[:, node : node + 1]
        own = (column < 0) | (column == torch.arange(states, device=x.device))
        out[:, node, :states] = own.to(like.dtype)
        if node in soft:
            out[:, node, :states] *= soft[node].T
    return out


def _propagate(
    groups: Sequence[_Group],
    variables: Tensor,
    likelihood: Tensor,
    max_iterations: int,
    first: int,
) -> tuple[Tensor, Tensor]:
    """Pass messages until they rest: beliefs ``(rows, nodes, states)``, residuals ``(rows,)``."""
    valid = likelihood.new_zeros(likelihood.shape[1:])
    for group in groups:
        for slot, states in enumerate(group.states):
            valid[variables[group.edges[:, slot]], :states] = 1.0
    messages = (valid / valid.sum(-1, keepdim=True))[variables]
    messages = messages.expand(len(likelihood), *messages.shape).clone()  # (rows, edges, states)
    residual = likelihood.new_full((len(likelihood),), math.inf)
    tolerance = TOLERANCE[likelihood.dtype]
    beliefs, zeros, logs, dead = _collect(messages, variables, likelihood)
    for iteration in range(max_iterations):
        # messages to the tables: all but what came from them; a zero is counted, not divided by
        outgoing = (beliefs[:, variables] - logs).masked_fill(
            (zeros[:, variables] - dead) > 0, -math.inf
        )
        outgoing = _normalised(outgoing)
        updated = torch.zeros_like(messages)
        for group in groups:
            letters = string.ascii_letters[2 : 2 + len(group.states)]
            inputs = [
                outgoing[:, group.edges[:, slot], :states]
                for slot, states in enumerate(group.states)
            ]
            for slot, states in enumerate(group.states):
                others = [k for k in range(len(group.states)) if k != slot]
                terms = ",".join([f"b{letters}", *(f"ab{letters[k]}" for k in others)])
                sent = torch.einsum(
                    f"{terms}->{'a' if others else ''}b{letters[slot]}",
                    group.tables,
                    *(inputs[k] for k in others),
                )
                updated[:, group.edges[:, slot], :states] = sent
        updated = updated / updated.sum(-1, keepdim=True).clamp_min(
            torch.finfo(updated.dtype).tiny
        )
        if iteration >= UNDAMPED_ITERATIONS:
            updated = DAMPING * messages + (1 - DAMPING) * updated
        residual, messages = (updated - messages).abs().amax((1, 2)), updated
        beliefs, zeros, logs, dead = _collect(messages, variables, likelihood)
        if bool((residual <= tolerance).all()):
            break
    out = beliefs.masked_fill((zeros > 0) | (valid == 0), -math.inf)
    impossible = (out.amax(-1) == -math.inf).any(-1).nonzero()[:, 0].tolist()
    if impossible:
        raise QueryError(
            f"loopy propagation: the evidence of row {first + impossible[0]} rules out every "
            "state of a node: it has probability 0"
        )
    return _normalised(out), residual


def _collect(
    messages: Tensor, variables: Tensor, likelihood: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log beliefs and counts of zeros ``(rows, nodes, states)``; the same of each message."""
    tiny = torch.finfo(messages.dtype).tiny
    dead = (messages <= tiny).to(messages.dtype)
    logs = torch.where(dead > 0, 0.0, messages.clamp_min(tiny).log())
    none = likelihood <= 0
    beliefs = torch.where(none, 0.0, likelihood.clamp_min(tiny).log())
    beliefs = beliefs.index_add(1, variables, logs)
    zeros = none.to(messages.dtype).index_add(1, variables, dead)
    return beliefs, zeros, logs, dead


def _normalised(logs: Tensor) -> Tensor:
    """Probabilities of log weights; zeros where all of them are -inf."""
    top = logs.amax(-1, keepdim=True)
    weights = torch.where(top > -math.inf, (logs - top).exp(), 0.0)
    return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(logs.dtype).tiny)
