"""Cards of the models with continuous latent variables."""

from ppl_zoo.card import Card

__all__ = ["CARDS"]

CARDS: tuple[Card, ...] = ()
