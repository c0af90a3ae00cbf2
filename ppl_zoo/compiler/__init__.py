"""The compiler: a Pyro program as one tensor graph, run through XLA."""

from ppl_zoo.compiler.capture import Captured, CaptureError, capture

__all__ = ["CaptureError", "Captured", "capture"]
