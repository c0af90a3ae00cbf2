"""Inductor: a captured graph compiled by ``torch.compile``, with CUDA graphs on a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ppl_zoo.compiler.capture import Captured

__all__ = ["compile_graph", "lacks"]


def lacks(device: torch.device) -> str | None:
    """Say in one line what Inductor lacks to compile for a device; None if it has all."""
    if device.type != "cpu":
        return None  # Triton comes with torch
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except (exc.InvalidCxxCompiler, RuntimeError, OSError):
        return "Inductor found no C++ compiler (set CXX, or use compile='xla')"
    return None


def compile_graph(
    captured: Captured, device: torch.device
) -> Callable[[Sequence[Tensor], tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """Return ``function(parameters, data)``: loss and gradients, as the graph has them.

    Noise comes from torch's own generators, in the order of the program, so that it is the
    interpreter's for the same seed.

    Raises
    ------
    ValueError
        If Inductor cannot compile the graph; says why.
    """
    options = {"fallback_random": True, "triton.cudagraphs": device.type == "cuda"}
    compiled = torch.compile(captured.graph, fullgraph=True, dynamic=False, options=options)

    def run(parameters: Sequence[Tensor], data: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        with torch.no_grad():
            loss, *gradients = compiled(*(p.detach() for p in parameters), *data)
            # copies, since the next replay of a CUDA graph writes over its results
            return loss.clone(), *(g.clone() for g in gradients)

    count = len(captured.parameters)
    seeds = [device] if device.type == "cuda" else []
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=seeds):
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch's own code
            run(captured.inputs[:count], captured.inputs[count:])
    except torch._dynamo.exc.TorchDynamoException as error:
        text = str(error).strip().splitlines()
        raise ValueError(f"Inductor cannot compile it ({' '.join(text[:2])})") from error
    return run
