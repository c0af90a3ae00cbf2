"""Engines of SVI: Pyro's interpreter, and the captured graph compiled by XLA or Inductor.

All advance all chains, record an objective for each step, and leave the same state behind, so
that a fit can be saved, resumed and stopped alike.
"""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.compiler import Captured, CaptureError, capture
from ppl_zoo.core.functions import module_of, user_programs
from ppl_zoo.core.random import chain_seed, set_seed
from ppl_zoo.core.rows import Rows
from ppl_zoo.solvers.elbos import differentiable_loss
from ppl_zoo.solvers.loop import Pace
from ppl_zoo.solvers.svi.chain import SVIChain

__all__ = [
    "XLAEngine",
    "InductorEngine",
    "InterpretedEngine",
    "Minibatches",
    "choose_engine",
    "capture_step",
    "window_of",
]

#: Steps, chains added up, from which "auto" compiles. Pyro's interpreter takes a millisecond or
#: more a step and compiling takes seconds. It is a count and not a measured time, since the two
#: engines draw different noise: which one runs must not depend on how busy a machine is.
COMPILE_FROM = 2000
#: steps after which a graph is first held against its program
CHECK_FROM = 1000
#: data of more bytes than this are not compiled unless asked for
MAX_COMPILED_BYTES = 2**30


class Minibatches:
    """Minibatches without replacement: each pass' own permutation, cut into batches."""

    def __init__(self, seed: int, size: int | None, total: int) -> None:
        self.seed, self.total = seed, total
        self.size = size if size and size < total else None
        self._kept: dict[tuple[int, int], Tensor] = {}

    def rows(self, chain: int, step: int) -> Tensor:
        """Choose rows ``(batch,)``; each row comes once a pass, and each batch is of one size."""
        number, place = divmod(step * self.size, self.total)
        chosen = self._pass(chain, number)[place : place + self.size]
        if len(chosen) < self.size:  # the end of one pass and the beginning of the next
            rest = self._pass(chain, number + 1)[: self.size - len(chosen)]
            chosen = torch.cat([chosen, rest])
        return chosen

    def _pass(self, chain: int, number: int) -> Tensor:
        key = (chain, number)
        if key not in self._kept:
            self._kept = {k: v for k, v in self._kept.items() if k[0] != chain or k[1] >= number}
            generator = torch.Generator().manual_seed(chain_seed(self.seed, chain, -3 - number))
            self._kept[key] = torch.randperm(self.total, generator=generator)
        return self._kept[key]


class InterpretedEngine:
    """Interpreted steps: one at a time, chain by chain, by Pyro's interpreter."""

    name = "interpreted"

    def __init__(
        self, rows: Rows, batches: Minibatches, seed: int, clip_norm: float | None
    ) -> None:
        self.rows, self.batches, self.seed, self.clip_norm = rows, batches, seed, clip_norm
        self.full = rows.all() if batches.size is None else ()

    def data(self, chain: SVIChain, step: int) -> tuple[Tensor, ...]:
        """Return the rows that one step sees."""
        if self.batches.size is None:
            return self.full
        return self.rows[self.batches.rows(chain.index, step)]

    def advance(self, chains: Sequence[SVIChain], max_steps: int) -> int:
        """Take one step of each chain."""
        for chain in chains:
            step = len(chain.objective)
            set_seed(chain_seed(self.seed, chain.index, step), self.rows.device)
            chain.step(self.data(chain, step), len(self.rows), self.clip_norm)
        return 1

    def is_due(self, chain: SVIChain, max_steps: int) -> bool:
        """Say yes: stopping rules are asked after each step."""
        return True

    def vector(self, chain: SVIChain) -> Tensor:
        """All parameters of a chain."""
        return torch.cat([p.detach().flatten() for p in chain.parameters])

    def sync(self) -> None:
        """Do nothing: the chains hold their parameters themselves."""


class InductorEngine(InterpretedEngine):
    """Interpreted steps whose loss and gradients come from a graph that Inductor compiled.

    Noise, optimizer and stopping are the interpreter's own, and so are the results.

    Raises
    ------
    CaptureError
        If the programs have no static graph.
    ValueError
        If Inductor cannot compile here; says why.
    """

    name = "inductor"

    def __init__(self, chains: Sequence[SVIChain], interpreted: InterpretedEngine) -> None:
        from ppl_zoo.compiler import inductor

        super().__init__(
            interpreted.rows, interpreted.batches, interpreted.seed, interpreted.clip_norm
        )
        missing = inductor.lacks(self.rows.device)
        if missing:
            raise ValueError(missing)
        captured, order = capture_step(chains, interpreted)
        run = inductor.compile_graph(captured, self.rows.device)
        for chain in chains:
            chain.compiled_gradient = partial(_gradient, run, [chain.parameters[i] for i in order])


class XLAEngine:
    """Blocks of steps of all chains at once, in one XLA program.

    ``tables`` are the data of each chain, where they have some of their own.

    Raises
    ------
    CaptureError
        If the programs have no static graph.
    ValueError
        If XLA cannot do what the fit asks for; says what.
    """

    def __init__(
        self,
        chains: Sequence[SVIChain],
        interpreted: InterpretedEngine,
        window: int,
        tables: Sequence[Rows] | None = None,
    ) -> None:
        from ppl_zoo.compiler.xla import lowering, svi_steps

        self.chains, self.interpreted, self.window = chains, interpreted, window
        chain, rows = chains[0], interpreted.rows
        if not lowering.supports(rows.device):
            raise ValueError(f"JAX does not run on {rows.device} here")
        if chain.alternation is not None:
            raise ValueError("the compiled loop moves all parameters in every step")
        captured, self.order = capture_step(chains, interpreted)
        options = _adam_options(chain, interpreted.clip_norm, self.order)
        self.captured, self.checked, self.outdated = captured, 0, False
        data = rows.all()
        if tables is not None:
            columns = zip(*(table.all() for table in tables), strict=True)
            data = tuple(torch.stack(column) for column in columns)
        self.stepper = svi_steps.Stepper(
            captured,
            data,
            rows.per_row,
            svi_steps.AdamOptions(**options),
            interpreted.seed,
            tables is not None,
            window,
        )
        self.loaded, self.pace = False, Pace()

    @property
    def name(self) -> str:
        """What runs the steps: "xla", or "interpreted" once the graph is outdated."""
        return "interpreted" if self.outdated else "xla"

    def check(self, step: int) -> None:
        """Hold the graph against the program, after so many steps and then twice as many.

        Where they differ, the program depends on what the capture could not see; the steps to
        come are interpreted.
        """
        if step < max(2 * self.checked, CHECK_FROM) or self.outdated:
            return
        self.checked = step
        self.sync()
        chain = self.chains[0]
        set_seed(
            chain_seed(self.interpreted.seed, chain.index, step), self.interpreted.rows.device
        )
        parameters = [chain.parameters[place] for place in self.order]
        reason = self.captured.outdated(parameters, self.interpreted.data(chain, step))
        if reason:
            warnings.warn(
                f"SVI goes on uncompiled from step {step}: {reason}; the steps before may have "
                "gone by what the graph held (compile=False interprets all of them)",
                stacklevel=2,
            )
            self.outdated = True

    def advance(self, chains: Sequence[SVIChain], max_steps: int) -> int:
        """Take the steps that are left in the stopping rule's window, or that time allows."""
        self.check(len(chains[0].objective))
        if self.outdated:
            return self.interpreted.advance(chains, max_steps)
        if not self.loaded:
            self.stepper.load([self._read(chain) for chain in self.chains])
            self.loaded = True
        step = len(chains[0].objective)
        count = self.pace.steps(min(self.window - step % self.window, max_steps - step))
        begun = time.perf_counter()
        active = {chain.index for chain in chains}
        rates = np.zeros((count, len(self.chains), 4))
        for chain in chains:
            rates[:, chain.index] = _rates(chain, count)
        values = self.stepper.run(
            [step] * len(self.chains),
            rates,
            np.array([chain.index in active for chain in self.chains]),
            self._index(step, count),
        )
        self.pace.took(count, time.perf_counter() - begun)
        for chain in chains:
            row = values[chain.index]
            if np.isfinite(row).all() and chain.skipped == 0:
                chain.objective.extend(row.tolist())
                continue
            self.sync()
            for value in row.tolist():
                chain.record(value, self.interpreted.data(chain, step))
        return count

    def is_due(self, chain: SVIChain, max_steps: int) -> bool:
        """Whether a chain is at the end of a window, where stopping rules are asked."""
        step = len(chain.objective)
        return self.outdated or step % self.window == 0 or step >= max_steps

    def vector(self, chain: SVIChain) -> Tensor:
        """All parameters of a chain."""
        if self.outdated:
            return self.interpreted.vector(chain)
        return torch.from_numpy(self.stepper.flat(chain.index))

    def sync(self) -> None:
        """Write parameters and optimizer states back into the chains."""
        if not self.loaded or self.outdated:
            return
        like = [self.chains[0].parameters[i] for i in self.order]
        for chain, state in zip(self.chains, self.stepper.unload(like), strict=True):
            if chain.stopped == "converged" and not chain.objective:
                continue
            counts = self.stepper.counts()
            for place, (value, first, second) in zip(self.order, state, strict=True):
                parameter = chain.parameters[place]
                with torch.no_grad():
                    parameter.copy_(value)
                chain.optimizer.state[parameter] = {
                    "step": torch.tensor(float(counts[chain.index])),
                    "exp_avg": first,
                    "exp_avg_sq": second,
                }

    def _read(self, chain: SVIChain) -> list[tuple[Tensor, Tensor, Tensor, int]]:
        out = []
        for place in self.order:
            parameter = chain.parameters[place]
            state = chain.optimizer.state.get(parameter, {})
            zeros = torch.zeros_like(parameter)
            first, second = state.get("exp_avg", zeros), state.get("exp_avg_sq", zeros)
            out.append((parameter.detach(), first, second, int(state.get("step", 0))))
        return out

    def _index(self, step: int, count: int) -> np.ndarray | None:
        batches = self.interpreted.batches
        if batches.size is None:
            return None
        rows = [
            [batches.rows(chain.index, s).numpy() for chain in self.chains]
            for s in range(step, step + count)
        ]
        return np.array(rows)


def _gradient(
    run: Callable[..., Any], parameters: list[Tensor], data: tuple[Tensor, ...]
) -> float:
    """Run a compiled graph: the loss, its gradients left in the parameters."""
    loss, *gradients = run(parameters, data)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return loss.item()


def _adam_options(
    chain: SVIChain, clip_norm: float | None, order: Sequence[int]
) -> dict[str, Any]:
    optimizer = chain.optimizer
    groups = optimizer.param_groups
    if type(optimizer) is not torch.optim.Adam or len(groups) != 1:
        raise ValueError(f"the compiled loop has Adam, not {type(optimizer).__name__}")
    for option in ("amsgrad", "maximize", "decoupled_weight_decay"):
        if groups[0].get(option):
            raise ValueError(f"the compiled loop has Adam without {option}")
    return {
        "eps": groups[0]["eps"],
        "weight_decay": groups[0]["weight_decay"],
        "clip_norm": clip_norm,
        "decayed": tuple(chain.decayed[i] for i in order) if any(chain.decayed) else (),
    }


def _rates(chain: SVIChain, count: int) -> np.ndarray:
    """Learning rate, beta1, beta2 and weight decay of the steps to come, ``(step, 4)``."""
    group = chain.optimizer.param_groups[0]

    def now() -> tuple[float, float, float, float]:
        return float(group["lr"]), *map(float, group["betas"]), chain.decay

    if chain.schedule is None:
        return np.tile(now(), (count, 1))
    chain.optimizer._opt_called = True  # the steps are taken elsewhere; torch would warn
    rates = []
    for _ in range(count):
        rates.append(now())
        chain.schedule.step()
    return np.array(rates)


def window_of(engine: str, steps: int, noisy: bool = False) -> int:
    """Return the number of steps in a window of the convergence test.

    ``noisy`` says that gradients are score-function estimates, whose plateaus come late.
    """
    if engine != "xla" and not noisy:
        return 100
    return min(1000, max(100, steps // 20))  # a short fit shall see its learning rate fall, too


def choose_engine(
    mode: str | bool,
    chains: Sequence[SVIChain],
    interpreted: InterpretedEngine,
    steps: int,
    window: int | None,
    tables: Sequence[Rows] | None = None,
) -> InterpretedEngine | XLAEngine:
    """Choose the engine: compile where asked for or where it pays.

    "auto" compiles fits of many steps, where JAX is installed and the data fit into memory. A
    program that cannot be captured runs interpreted, with a warning that names its line.
    """
    if mode is False:
        return interpreted
    asked = mode != "auto"
    if not asked:
        if (
            importlib.util.find_spec("jax") is None
            or interpreted.rows.num_bytes > MAX_COMPILED_BYTES
        ):
            return interpreted
        if steps * len(chains) < COMPILE_FROM or not chains[0].model.compiles:
            return interpreted
    try:
        if mode == "inductor":
            return InductorEngine(chains, interpreted)
        return XLAEngine(chains, interpreted, window or window_of("xla", steps), tables)
    except CaptureError as error:
        warnings.warn(f"SVI runs uncompiled, since a graph stops at {error}", stacklevel=2)
    except (ValueError, RuntimeError) as error:
        if mode == "xla":
            raise ValueError(f"compile='xla': {error}") from error
        # an operation; optimizers and devices are no surprise
        if asked or isinstance(error, RuntimeError):
            warnings.warn(f"SVI runs uncompiled: {error}", stacklevel=2)
    return interpreted


def capture_step(
    chains: Sequence[SVIChain], interpreted: InterpretedEngine
) -> tuple[Captured, list[int]]:
    """Capture the graph of one step, and number its parameters as the chains do.

    Raises
    ------
    CaptureError
        If they have no static graph, or chains have different ones.
    """

    def captured_of(chain: SVIChain) -> Captured:
        def objective(*data: Tensor) -> Tensor:
            with chain.model.scaled_to(len(interpreted.rows)), chain.model.defaults():
                return differentiable_loss(chain.elbo, chain.pair, data)

        modules = [m for m in (chain.model, module_of(chain.guide)) if m is not None]
        programs = user_programs(chain.model, chain.guide)
        return capture(objective, modules, interpreted.data(chain, 0), programs)

    captured = captured_of(chains[0])
    order, identity = _order(chains[0], captured), captured.fingerprint()
    # a second capture: of another chain, or of the one again
    other = chains[-1]
    again = captured_of(other)
    shapes = [[p.shape for p in chain.parameters] for chain in chains]
    same = _order(other, again) == order and again.fingerprint() == identity
    if not same or any(own != shapes[0] for own in shapes):
        what = (
            "the programs of chains differ in more than their parameters"
            if chains[1:]
            else "the program changes from one run to the next by something that is not a tensor"
        )
        raise CaptureError(what)
    return captured, order


def _order(chain: SVIChain, captured: Captured) -> list[int]:
    places = {id(p): i for i, p in enumerate(chain.parameters)}
    return [places[id(p)] for p in captured.parameters]
