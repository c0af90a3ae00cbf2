"""The compiler: a Pyro program captured as one tensor graph, compiled by XLA or Inductor."""

from ppl_zoo.compiler.capture import Captured, CaptureError, capture

__all__ = ["CaptureError", "Captured", "capture"]
