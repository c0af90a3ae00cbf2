"""Parameter store: Pyro's store of parameters, one for each chain, as a torch module.

While a program runs, Pyro's global store holds the parameters of its chain and nothing else, so
that ``pyro.param``, ``pyro.module``, ``PyroModule`` and ``pyro.get_param_store()`` mean what they
mean in Pyro; afterwards the store is what it was. Model and guide of a chain share one store, so
a name stands for one parameter.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import pyro
import torch
from pyro.nn import module as pyro_module
from pyro.ops.provenance import detach_provenance
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

__all__ = ["ParameterStore", "isolated_store", "unescape"]


class ParameterStore(nn.Module):
    """The parameters that the programs of one chain declare, by Pyro's names.

    They are kept on the unconstrained scale, as Pyro keeps them. A parameter of a net that a
    program registers (``pyro.module``, ``PyroModule``) is the net's own in the first chain; other
    chains have copies, drawn anew, which take the place of the net's own while a program runs.

    Parameters
    ----------
    copies
        Whether parameters and buffers of nets are copied.
    """

    def __init__(self, copies: bool = False) -> None:
        super().__init__()
        self.copies = copies
        self.constraints: dict[str, constraints.Constraint] = {}
        self._foreign: set[str] = set()  # names of parameters that model or guide hold themselves
        self._undeclared: set[str] = set()  # loaded before a program has told the constraint
        self._places: list[_Place] = []

    # ---- while a program runs ---------------------------------------------------------------

    @contextlib.contextmanager
    def scope(self, *owners: nn.Module | None) -> Iterator[None]:
        """Let this be Pyro's parameter store; what is declared meanwhile is kept.

        Parameters
        ----------
        *owners
            Modules whose own parameters are not declared here, though Pyro lists them.
        """
        given = self._tensors()
        if _OPEN and _OPEN[-1] is not None and _OPEN[-1].is_of(self, given):
            yield  # a program within a step, which has the store open already
            return
        state = {"params": dict(given), "constraints": {n: self.constraints[n] for n in given}}
        shown = _Shown(self)
        with _Swapped(self), _pyro_store(state, _Opened(self, given)), shown:
            yield
        found = state["params"]
        for name, value in given.items():
            if found.get(name, value) is not value:
                self._overwrite(name, found[name])
        known = given.keys() | self._foreign
        new = {name: value for name, value in found.items() if name not in known}
        if new:
            self._declare(new, state["constraints"], owners, shown.names)

    def installed(self) -> contextlib.AbstractContextManager[None]:
        """Let nets have this chain's parameters: some are run by a density, after the program."""
        return _Swapped(self)

    def values(self) -> dict[str, Tensor]:
        """Return the parameters by name, on the constrained scale."""
        return {
            name: transform_to(self.constraints[name])(value.detach())
            for name, value in self._tensors().items()
        }

    def _tensors(self) -> dict[str, Tensor]:
        """Return the parameters by name, on the unconstrained scale."""
        kept = {unescape(k): v for k, v in self._buffers.items()}
        hidden = {name: v for name, v in kept.items() if name in self.constraints}
        return {unescape(k): v for k, v in self._parameters.items()} | hidden

    def _declare(
        self,
        found: Mapping[str, Tensor],
        found_constraints: Mapping[str, constraints.Constraint],
        owners: tuple[nn.Module | None, ...],
        shown: set[str],
    ) -> None:
        """Keep new parameters; those of the owners only by name.

        What a program hides (``poutine.block(hide_types=["param"])``) is not learnt, as in Pyro:
        it is a buffer here.
        """
        held = {id(p) for owner in owners if owner is not None for p in owner.parameters()}
        self._foreign |= {name for name, value in found.items() if id(value) in held}
        found = {name: value for name, value in found.items() if name not in self._foreign}
        places = _find_places({n: v for n, v in found.items() if isinstance(v, nn.Parameter)})
        for name, value in found.items():
            self.constraints[name] = found_constraints[name]
            if not isinstance(value, nn.Parameter) or self.copies:
                gradient = detach_provenance(value).grad
                value = nn.Parameter(detach_provenance(value).detach().clone())
                value.grad = gradient  # of the step in which it appeared
            # past register_parameter, which refuses names that a module has otherwise ("type")
            (self._parameters if name in shown else self._buffers)[_escape(name)] = value
        if self.copies:
            self._draw_anew(places)
        for module in {id(p.module()): p.module() for p in places}.values():
            owned = [p for p in places if p.module() is module and not p.is_buffer]
            prefix = owned[0].name[: len(owned[0].name) - len(owned[0].attribute)]
            for attribute, buffer in module._buffers.items():
                name = f"{prefix}{attribute}"
                if buffer is not None and _escape(name) not in self._buffers:
                    self._buffers[_escape(name)] = buffer.clone() if self.copies else buffer
                    places.append(_Place(weakref.ref(module), attribute, name, True))
        self._places += places

    @torch.no_grad()
    def _draw_anew(self, places: list[_Place]) -> None:
        """Give the copies a start of their own, by the nets' own initialisation."""
        for module in {id(p.module()): p.module() for p in places}.values():
            reset = getattr(module, "reset_parameters", None) or getattr(
                module, "_reset_parameters", None
            )
            if reset is None:
                continue
            before = {k: v.clone() for k, v in module.state_dict().items()}
            reset()
            for place in places:
                if place.module() is module:
                    drawn = module._parameters[place.attribute]
                    self._tensors()[place.name].copy_(drawn)
            module.load_state_dict(before)

    @torch.no_grad()
    def _overwrite(self, name: str, value: Tensor) -> None:
        """Take a value that a program wrote into Pyro's store."""
        own = self._tensors()[name]
        if not isinstance(own, nn.Parameter):  # a graph is being recorded
            raise ValueError(f"the program writes the parameter {name!r} into Pyro's store")
        value = detach_provenance(value).detach()
        if own.shape == value.shape:
            own.copy_(value)
        else:
            held = self._parameters if _escape(name) in self._parameters else self._buffers
            held[_escape(name)] = nn.Parameter(value.clone())

    # ---- copies, and what was saved ---------------------------------------------------------

    def fresh(self) -> ParameterStore:
        """Return an empty store, whose programs declare parameters of their own."""
        other = ParameterStore(copies=True)
        other.constraints = dict(self.constraints)
        other._places = list(self._places)
        return other

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Load parameters; those that no program has declared here yet as well."""
        for key, value in state_dict.items():
            name = key.removeprefix(prefix)
            if not key.startswith(prefix) or name in self._parameters or name in self._buffers:
                continue
            # one that no program declares is an estimator's own, as a baseline: unconstrained
            if unescape(name) not in self.constraints:
                self.constraints[unescape(name)] = constraints.real
                self._undeclared.add(unescape(name))
            self._parameters[name] = nn.Parameter(torch.empty_like(value))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


@contextlib.contextmanager
def isolated_store() -> Iterator[None]:
    """Let Pyro's parameter store be empty for a while; what is declared is forgotten."""
    with _pyro_store({"params": {}, "constraints": {}}, None), _Shown(None):
        yield


class _Opened:
    """A store that is open, with the tensors that it had when it was opened."""

    def __init__(self, store: ParameterStore, tensors: Mapping[str, Tensor]) -> None:
        self.store, self.tensors = store, tensors

    def is_of(self, store: ParameterStore, tensors: Mapping[str, Tensor]) -> bool:
        """Whether this is the store's scope, with these very tensors."""
        own = self.tensors
        return (
            self.store is store
            and len(own) == len(tensors)
            and all(own.get(name) is value for name, value in tensors.items())
        )


#: scopes that are open, the innermost last; None for an isolated store
_OPEN: list[_Opened | None] = []


@contextlib.contextmanager
def _pyro_store(state: dict[str, Any], opened: _Opened | None) -> Iterator[None]:
    """Let Pyro's global store have a state for a while; ``state`` takes what it has then."""
    local = pyro_module._MODULE_LOCAL_PARAMS
    pyro_module._MODULE_LOCAL_PARAMS = False  # modules then read and write this store
    _OPEN.append(opened)
    try:
        with pyro.get_param_store().scope(state):
            yield
    finally:
        _OPEN.pop()
        pyro_module._MODULE_LOCAL_PARAMS = local
    if any(isinstance(m, TraceMessenger) and m.param_only for m in _PYRO_STACK):
        # a step of Pyro's own SVI, which looks for what the scope's end takes away
        for value in state["params"].values():
            value.unconstrained = weakref.ref(value)


class _Shown(Messenger):
    """Note the parameters that programs show to their solver.

    Frozen weights of modules are kept out of Pyro's store, which would let them learn.
    """

    def __init__(self, store: ParameterStore | None) -> None:
        super().__init__()
        self.store = store
        self.names: set[str] = set()

    def _pyro_param(self, msg: dict) -> None:
        self.names.add(msg["name"])
        if self.store is not None and msg["name"] in self.store._undeclared:
            self.store._undeclared.discard(msg["name"])
            for known in (self.store.constraints, pyro.get_param_store()._constraints):
                known[msg["name"]] = msg["kwargs"]["constraint"]
        value = msg["args"][1] if len(msg["args"]) > 1 else None
        if isinstance(value, nn.Parameter) and not value.requires_grad:
            msg["value"], msg["done"] = value, True


class _Place:
    """Where a module holds a parameter or a buffer of the store."""

    def __init__(
        self, module: weakref.ref[nn.Module], attribute: str, name: str, is_buffer: bool = False
    ) -> None:
        self.module, self.attribute, self.name = module, attribute, name
        self.is_buffer = is_buffer

    def __deepcopy__(self, memo: dict[int, Any]) -> _Place:
        """Return itself: copies of a chain run the same nets."""
        return self


class _Swapped:
    """Put the store's tensors into the nets, and the nets' own back afterwards."""

    def __init__(self, store: ParameterStore) -> None:
        self.store = store
        self.before: list[tuple[dict[str, Any], str, Any]] = []

    def __enter__(self) -> None:
        for place in self.store._places:
            module = place.module()
            if module is None:
                continue
            held = module._buffers if place.is_buffer else module._parameters
            key = _escape(place.name)
            value = self.store._parameters.get(key, self.store._buffers.get(key))
            if value is not None and held[place.attribute] is not value:
                self.before.append((held, place.attribute, held[place.attribute]))
                held[place.attribute] = value

    def __exit__(self, *error: object) -> None:
        for held, attribute, value in self.before:
            held[attribute] = value
        self.before = []


def _find_places(parameters: Mapping[str, nn.Parameter]) -> list[_Place]:
    """Find the modules that hold these parameters: all of them, since weights may be tied."""
    names = {id(value): name for name, value in parameters.items()}
    if not names:
        return []
    return [
        _Place(weakref.ref(module), attribute, names[id(value)])
        for module in gc.get_objects()
        if issubclass(type(module), nn.Module) and not isinstance(module, ParameterStore)
        for attribute, value in module.__dict__.get("_parameters", {}).items()
        if id(value) in names
    ]


def _escape(name: str) -> str:
    """Write a parameter's name as torch lets modules name one: without a dot."""
    return name.replace("%", "%25").replace(".", "%2E")


def unescape(key: str) -> str:
    """Return a parameter's name from its key in a store."""
    return key.replace("%2E", ".").replace("%25", "%")
