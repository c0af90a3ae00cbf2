"""Pretrained models, by name; the card of each is ``NAME.md``."""

from ppl_zoo.models.pretrained.weights import PRETRAINED, load_pretrained

__all__ = ["PRETRAINED", "load_pretrained"]
