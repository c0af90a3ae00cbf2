"""Cards of the models of images."""

from ppl_zoo.card import Card

__all__ = ["CARDS"]

CARDS: tuple[Card, ...] = ()
