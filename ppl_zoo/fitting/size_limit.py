"""Limit on the size of a model that a file describes, held while it is built.

A model is built of its arguments before its weights are loaded into it, and a number in a file
may ask for more than there is memory. What is asked for is held against what the file itself
holds: by the sizes among the arguments first, then at each operation, on torch's "meta" device,
which knows shapes and allocates nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ppl_zoo.core.errors import RunError

__all__ = ["SizeLimit", "check_sizes"]

#: bytes that a model may allocate while it is built, and how many times the bytes that it holds:
#: initial values, masks and factors come and go
SPARE_BYTES, TIMES_HELD = 2**28, 16
#: operations of a model that is built, and how many more for each tensor that it holds
SPARE_OPERATIONS, OPERATIONS_A_TENSOR = 2000, 20
#: bytes from which an operation is asked for its size before it runs; others are measured after
ASKED_BYTES = 2**24
#: what an integer, and the sum of a list of them, may be whatever the file holds
MAX_INTEGER, MAX_SUM = 2**16, 2**18


def check_sizes(config: Mapping[str, Any], held: Iterable[Tensor]) -> None:
    """Hold the integers among a model's arguments against the numbers that its file holds.

    Parameters
    ----------
    config
        Arguments of a model of the zoo, whose integers are sizes, or a ``seed``.
    held
        All tensors of the file.

    Raises
    ------
    RunError
        If there are not as many numbers as one of them says.
    """
    total = sum(tensor.numel() for tensor in held)
    for name, value in config.items():
        if name != "seed" and _is_too_large(value, total):
            raise RunError(
                f"config.{name}: got {value!r:.60}, expected sizes of a model of {total} numbers"
            )


def _is_too_large(value: Any, total: int) -> bool:
    if isinstance(value, Mapping):
        return any(_is_too_large(v, total) for v in value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        whole = [abs(v) for v in value if isinstance(v, int)]
        # the order of n variables has the sum n^2 / 2
        return sum(whole) > max(MAX_SUM, total, len(value) ** 2) or any(
            _is_too_large(v, total) for v in value
        )
    return isinstance(value, int) and abs(value) > max(MAX_INTEGER, total)


class SizeLimit(TorchDispatchMode):
    """Refuse operations that would hold more memory at once than a model of these tensors needs.

    Parameters
    ----------
    held
        The tensors that are to be loaded into the model.
    counted
        Whether the operations are limited in number, too; a model of the zoo takes hundreds, one
        of a user's own may compute whatever it likes.

    Raises
    ------
    RunError
        Instead of the operation.
    """

    def __init__(self, held: Sequence[Tensor], counted: bool = True) -> None:
        super().__init__()
        self.held_bytes = sum(t.numel() * t.element_size() for t in held)
        self.most_bytes = SPARE_BYTES + TIMES_HELD * self.held_bytes
        most = SPARE_OPERATIONS + OPERATIONS_A_TENSOR * len(held)
        self.most_operations = most if counted else math.inf
        self.operations = 0
        self.living: list[tuple[StorageWeakRef, int]] = []
        self.bytes = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Leave torch's compiler, whose import takes seconds, out of it."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation after its size has been asked."""
        kwargs = kwargs or {}
        if any(returned.alias_info is not None for returned in func._schema.returns):
            return func(*args, **kwargs)
        self.operations += 1
        small = _bytes_at_most(args, kwargs) < ASKED_BYTES
        asked = 0 if small else _output_bytes(func, args, kwargs)
        if self.bytes + asked > self.most_bytes:
            self._forget_freed()
        if self.bytes + asked > self.most_bytes or self.operations > self.most_operations:
            what = "operations" if self.operations > self.most_operations else "memory"
            raise RunError(
                f"its arguments ask for more {what} than a model of {self.held_bytes} bytes does; "
                "if they are right, build the model and pass it, zoo.load(path, model=...)"
            )
        out = func(*args, **kwargs)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.living.append((StorageWeakRef(storage), storage.nbytes()))
                self.bytes += storage.nbytes()
        return out

    def _forget_freed(self) -> None:
        self.living = [(storage, size) for storage, size in self.living if not storage.expired()]
        self.bytes = sum(size for _, size in self.living)


def _bytes_at_most(args: tuple, kwargs: dict[str, Any]) -> float:
    """Bound on the bytes of what an operation returns: its sizes, numbers and tensors multiplied.

    Unlike ``_output_bytes``, whose kernels for "meta" may import seconds of algebra, it is quick.
    """
    total = 8.0
    for leaf in tree_leaves((args, kwargs)):
        size = leaf.numel() if isinstance(leaf, Tensor) else leaf
        if isinstance(size, (int, float)) and abs(size) > 1:
            total *= abs(float(size))
    return total


def _output_bytes(func: Any, args: tuple, kwargs: dict[str, Any]) -> int:
    """Bytes of what an operation returns; 0 where that depends on values."""
    args, kwargs = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
    if any(argument.name == "device" for argument in func._schema.arguments):
        kwargs = {**kwargs, "device": torch.device("meta")}
    try:
        out = func(*args, **kwargs)
    except (NotImplementedError, RuntimeError):
        return 0
    return sum(t.numel() * t.element_size() for t in tree_leaves(out) if isinstance(t, Tensor))
