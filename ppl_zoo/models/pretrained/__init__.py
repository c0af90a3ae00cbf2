"""Models that this project trained, by name; beside each its card, ``NAME.md``."""

from ppl_zoo.models.pretrained.weights import PRETRAINED, load_pretrained

__all__ = ["PRETRAINED", "load_pretrained"]
