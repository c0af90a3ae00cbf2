"""Cards of the autoregressive models."""

from ppl_zoo.card import Card

__all__ = ["CARDS"]

CARDS: tuple[Card, ...] = ()
