"""Scan: a recursion over the entries of a sequence, recorded as one operation.

A Python loop is recorded step by step: its capture, its compilation and the compiled program grow
with its length. A scan is recorded once, as the graph of one step and of its gradient.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode, has_proxy_slot
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ppl_zoo.compiler.recording import functional, record

__all__ = ["STEPS", "ScanStep", "recorded_scans", "scan"]

Carry = TypeVar("Carry")
Tensors = list[Tensor]
#: carry and results of a step, and how the results were nested; None for none
Stepped = tuple[Tensors, Tensors, TreeSpec | None]


def scan(
    step: Callable[[Carry, Any], tuple[Carry, Any]],
    init: Carry,
    xs: Any = None,
    length: int | None = None,
) -> tuple[Carry, Any]:
    """Run a recursion ``carry, y = step(carry, x)`` over the entries of a sequence.

    The same as this loop, and recorded as one operation where a program is compiled, so that
    thousands of steps take seconds to compile::

        carry, ys = init, []
        for x in xs:
            carry, y = step(carry, x)
            ys.append(y)
        return carry, torch.stack(ys)

    Parameters
    ----------
    step
        A function of tensors; it may use tensors from outside (latents, parameters). Latents are
        drawn before the scan, their entries given by ``xs``.
    init
        The first carry: a tensor, or tuples, lists and dicts of tensors.
    xs
        Tensors (or tuples, lists and dicts of them) whose first dimension is that of the
        sequence; None for a recursion without inputs.
    length
        Number of steps where ``xs`` is None.

    Returns
    -------
    carry
        After the last step.
    ys
        Second results of all steps, stacked in a first dimension; None where a step gives None.

    Raises
    ------
    ValueError
        If the sequences differ in length or there are none and no ``length``, if it is empty, if
        a step draws latents, or, while a program is compiled, if the carry changes its shape or
        dtype from step to step.

    Notes
    -----
    The interface is that of ``jax.lax.scan``. Gradients pass through it once; carries are kept,
    not what a step computes on its way.
    """
    carry, carry_tree = tree_flatten(init)
    inputs, inputs_tree = tree_flatten(xs)
    inputs_tree, inputs = (inputs_tree, inputs) if xs is not None else (None, [])
    for name, values in (("init", carry), ("xs", inputs)):
        for value in values:
            if not isinstance(value, Tensor):
                raise ValueError(f"scan: {name} holds a {type(value).__name__}, not only tensors")
    if any(not x.dim() for x in inputs):
        raise ValueError("scan: xs holds a tensor without dimensions, which is no sequence")
    lengths = {len(x) for x in inputs} | (set() if length is None else {length})
    if len(lengths) != 1 or not min(lengths):
        raise ValueError(
            f"scan: got sequences of lengths {sorted(lengths)}, expected one, positive"
        )

    def flat(carry: Tensors, x: Tensors) -> Stepped:
        entry = None if inputs_tree is None else tree_unflatten(x, inputs_tree)
        new, y = step(tree_unflatten(carry, carry_tree), entry)
        new, new_tree = tree_flatten(new)
        if new_tree != carry_tree:
            raise ValueError(f"scan: the step returns a carry like {new_tree}, given {carry_tree}")
        ys, tree = tree_flatten(y) if y is not None else ([], None)
        return new, ys, tree

    with _NoSites():
        recorded = _RECORDED.get()
        if recorded is not None and torch._C._functorch.peek_interpreter_stack() is None:
            carry, ys, tree = _record(flat, carry, inputs, lengths.pop(), recorded)
        else:
            columns = []
            new, _, _ = flat(carry, [x[0] for x in inputs])
            carry = _grown(carry, new)
            for t in range(lengths.pop()):
                carry, y, tree = flat(carry, [x[t] for x in inputs])
                columns.append(y)
            ys = [torch.stack(column) for column in zip(*columns, strict=True)]
    return tree_unflatten(carry, carry_tree), None if tree is None else tree_unflatten(ys, tree)


class _NoSites(Messenger):
    """Refuse latents and parameters inside a step, which would have one name for all."""

    def _pyro_sample(self, msg: dict) -> None:
        raise ValueError(
            f"scan: the step draws {msg['name']!r}; draw it before, under a plate over the "
            "sequence, and give it by xs"
        )

    _pyro_param = _pyro_sample


# What a captured graph holds.


@dataclass(eq=False)
class ScanStep:
    """One step of a scan and its gradient, as aten graphs.

    Attributes
    ----------
    forward
        ``forward(*carry, *x, *closure)`` returns ``(*carry, *y)``.
    backward
        ``backward(*carry, *x, *closure, *g)`` for the gradients by those of the results that are
        floating returns those by the floating ones of carry, x and closure.
    num_carry, num_xs
        Tensors in a carry and in an entry.
    """

    forward: torch.fx.GraphModule
    backward: torch.fx.GraphModule
    num_carry: int
    num_xs: int
    key: int = 0


#: steps of the graphs that are in use, by what they compute
STEPS: WeakValueDictionary[int, ScanStep] = WeakValueDictionary()
#: steps of the program that is being captured; None while none is
_RECORDED: ContextVar[list[ScanStep] | None] = ContextVar("recorded scans", default=None)


@contextmanager
def recorded_scans() -> Iterator[list[ScanStep]]:
    """Record scans as operations, and collect their steps, which the graph must keep."""
    steps: list[ScanStep] = []
    token = _RECORDED.set(steps)
    try:
        yield steps
    finally:
        _RECORDED.reset(token)


def _record(
    flat: Callable[[Tensors, Tensors], Stepped],
    carry: Tensors,
    xs: Tensors,
    length: int,
    recorded: list[ScanStep],
) -> Stepped:
    """Record one step, and call the operation for all."""
    mode = get_proxy_mode()
    with _disable_current_modes(), torch.no_grad():
        first = [x[0].detach() for x in xs]
        new, _, tree = flat([c.detach() for c in carry], first)
    carry = [c.clone() for c in _grown(carry, new)]
    with _disable_current_modes(), torch.no_grad():
        examples = [c.detach().clone() for c in carry]
        count = len(carry)

        def one(*inputs: Tensor) -> Tensors:
            new, ys, _ = flat(list(inputs[:count]), list(inputs[count:]))
            return [*new, *ys]

        forward = _graph_of(one, [*examples, *first])
        closure = _closure_of(forward, lambda t: has_proxy_slot(t, mode.tracer))
        _lift(forward, closure, count + len(first))
        results = forward(*examples, *first, *closure)
        for before, after in zip(examples, results, strict=False):
            if before.shape != after.shape or before.dtype != after.dtype:
                raise ValueError(
                    f"scan: the step returns a carry of shape {tuple(after.shape)} and "
                    f"{after.dtype}, given {tuple(before.shape)} and {before.dtype}"
                )
        weights = [torch.ones_like(r) for r in results if r.is_floating_point()]
        gradient = partial(_gradient, one, count + len(first), closure)
        backward = _graph_of(gradient, [*examples, *first, *weights])
        _lift(backward, closure, count + len(first))
    made = ScanStep(forward, backward, count, len(xs))
    made.key = _key(made)
    kept = STEPS.setdefault(made.key, made)
    recorded.append(kept)
    out = _Scan.apply(kept, length, *carry, *xs, *closure)
    return list(out[:count]), list(out[count:]), tree


def _grown(carry: Tensors, new: Tensors) -> Tensors:
    """Broadcast a carry that begins as a number to what the first step makes of it."""
    pairs = zip(carry, new, strict=True)
    return [
        c
        if c.shape == n.shape and c.dtype == n.dtype or c.dim() > n.dim()
        else c.to(n.dtype).expand(torch.broadcast_shapes(c.shape, n.shape))
        for c, n in pairs
    ]


def _graph_of(function: Callable[..., Tensors], inputs: Tensors) -> torch.fx.GraphModule:
    graph = functional(record(function, inputs), inputs)
    if any(
        torch.Tag.nondeterministic_seeded in getattr(n.target, "tags", ())
        for n in graph.graph.nodes
    ):
        raise ValueError(
            "scan: the step draws random numbers; draw them before, and give them by xs"
        )
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _closure_of(graph: torch.fx.GraphModule, varies: Callable[[Tensor], bool]) -> Tensors:
    """Tensors that a step takes from outside; integers that are no results are its constants."""
    closure: Tensors = []
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            tensor = getattr(graph, node.target)
            lifted = tensor.is_floating_point() or varies(tensor)
            if lifted and not any(tensor is c for c in closure):
                closure.append(tensor)
    return closure


def _lift(graph: torch.fx.GraphModule, closure: Tensors, position: int) -> None:
    """Make inputs of the closure, behind so many others."""
    nodes = list(graph.graph.nodes)
    last = [n for n in nodes if n.op == "placeholder"][position - 1]
    held = {n: getattr(graph, n.target) for n in nodes if n.op == "get_attr"}
    for number, tensor in enumerate(closure):
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"closure{number}")
        last.meta["val"] = tensor.detach()
        for node in [n for n in held if held[n] is tensor]:
            node.replace_all_uses_with(last)
            graph.graph.erase_node(node)
    for name in {n.target for n in held if any(held[n] is tensor for tensor in closure)}:
        delattr(graph, name)
    graph.recompile()


def _gradient(
    one: Callable[..., Tensors], count: int, closure: Tensors, *given: Tensor
) -> Tensors:
    """Gradients of a step by what it is given, by torch: what is detached stays so."""
    leaves = [g.detach() for g in given[:count]]
    wanted = [leaf.requires_grad_() for leaf in leaves if leaf.is_floating_point()]
    wanted += [c for c in closure if c.is_floating_point()]
    with torch.enable_grad():
        outputs = [out for out in one(*leaves) if out.is_floating_point()]
        pairs = zip(outputs, given[count:], strict=True)
        pairs = [(out, g) for out, g in pairs if out.requires_grad]
        moved = [w for w in wanted if w.requires_grad]
        found: Iterator[Tensor | None] = iter(())
        if pairs:
            outs, weights = zip(*pairs, strict=True)
            found = iter(torch.autograd.grad(outs, moved, weights, allow_unused=True))
    gradients = [next(found, None) if w.requires_grad else None for w in wanted]
    return [
        torch.zeros_like(w) if g is None else g for w, g in zip(wanted, gradients, strict=True)
    ]


def _key(step: ScanStep) -> int:
    """Return a number that is the same for steps that compute the same."""
    lines = [f"{step.num_carry} {step.num_xs}"]
    for graph in (step.forward, step.backward):
        for node in graph.graph.nodes:
            value = node.meta.get("val")
            meta = (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else None
            lines.append(f"{node.name} {node.op} {node.target} {node.args} {node.kwargs} {meta}")
            if node.op == "get_attr":
                constant = getattr(graph, node.target).detach().cpu()
                lines.append(f"{constant.dtype} {constant.tolist()}")
    return int.from_bytes(hashlib.sha256("\n".join(lines).encode()).digest()[:7], "big")


class _Scan(torch.autograd.Function):
    """The operation, with the operation of its gradient."""

    @staticmethod
    def forward(ctx: Any, step: ScanStep, length: int, *given: Tensor) -> tuple[Tensor, ...]:
        ctx.step, ctx.length = step, length
        ctx.save_for_backward(*given)
        out = torch.ops.ppl_zoo.scan(step.key, length, *_parts(step, given))
        ctx.mark_non_differentiable(*(o for o in out if not o.is_floating_point()))
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple:
        given, step = ctx.saved_tensors, ctx.step
        floating = [g for g in grads if g is not None and g.is_floating_point()]
        parts = _parts(step, given)
        found = iter(torch.ops.ppl_zoo.scan_backward(step.key, ctx.length, *parts, floating))
        return None, None, *(next(found) if t.is_floating_point() else None for t in given)


def _parts(step: ScanStep, given: Sequence[Tensor]) -> tuple[Tensors, Tensors, Tensors]:
    first, second = step.num_carry, step.num_carry + step.num_xs
    return list(given[:first]), list(given[first:second]), list(given[second:])


def _run(
    key: int, length: int, carry: Tensors, xs: Tensors, closure: Tensors
) -> tuple[list[Tensors], list[Tensors]]:
    """Carries before each step and after the last, and the second results."""
    step, carries, ys = STEPS[key], [carry], []
    for t in range(length):
        out = step.forward(*carries[-1], *(x[t] for x in xs), *closure)
        carries.append(list(out[: step.num_carry]))
        ys.append(list(out[step.num_carry :]))
    return carries, ys


def _scan(key: int, length: int, carry: Tensors, xs: Tensors, closure: Tensors) -> Tensors:
    carries, ys = _run(key, length, carry, xs, closure)
    last = [c.clone() for c in carries[-1]]
    return last + [torch.stack(column) for column in zip(*ys, strict=True)]


def _scan_backward(
    key: int, length: int, carry: Tensors, xs: Tensors, closure: Tensors, grads: Tensors
) -> Tensors:
    step = STEPS[key]
    carries, _ = _run(key, length, carry, xs, closure)
    num_carry = sum(c.is_floating_point() for c in carry)
    num_xs = sum(x.is_floating_point() for x in xs)
    by_carry, by_ys = grads[:num_carry], grads[num_carry:]
    by_closure = [torch.zeros_like(c) for c in closure if c.is_floating_point()]
    by_xs = []
    for t in reversed(range(length)):
        out = step.backward(
            *carries[t], *(x[t] for x in xs), *closure, *by_carry, *(g[t] for g in by_ys)
        )
        by_carry = list(out[:num_carry])
        by_xs.append(out[num_carry : num_carry + num_xs])
        for total, g in zip(by_closure, out[num_carry + num_xs :], strict=True):
            total += g
    columns = [torch.stack(column) for column in zip(*reversed(by_xs), strict=True)]
    return [c.clone() for c in by_carry] + columns + by_closure


_LIBRARY = torch.library.Library("ppl_zoo", "DEF")
_GIVEN = "int key, int length, Tensor[] carry, Tensor[] xs, Tensor[] closure"
_LIBRARY.define(f"scan({_GIVEN}) -> Tensor[]")
_LIBRARY.define(f"scan_backward({_GIVEN}, Tensor[] grads) -> Tensor[]")
_LIBRARY.impl("scan", _scan, "CompositeExplicitAutograd")
_LIBRARY.impl("scan_backward", _scan_backward, "CompositeExplicitAutograd")
