"""Catalogue: the cards of all models, family by family.

To add a model, add its card to ``CARDS`` in ``cards.py`` of its family.
"""

from __future__ import annotations

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.options import did_you_mean
from ppl_zoo.models.autoregressive import cards as autoregressive_cards
from ppl_zoo.models.card import Card
from ppl_zoo.models.discrete import cards as discrete_cards
from ppl_zoo.models.images import cards as images_cards
from ppl_zoo.models.latent import cards as latent_cards
from ppl_zoo.models.mixtures import cards as mixtures_cards
from ppl_zoo.models.regression import cards as regression_cards

__all__ = ["ZOO", "Card", "find"]

#: every model of the zoo
ZOO: tuple[Card, ...] = (
    *regression_cards.CARDS,
    *discrete_cards.CARDS,
    *mixtures_cards.CARDS,
    *latent_cards.CARDS,
    *autoregressive_cards.CARDS,
    *images_cards.CARDS,
)


def find(name: str) -> Card:
    """Find the card of a model by name.

    Parameters
    ----------
    name
        As ``ppl-zoo list`` shows it; the name of the class will do too.

    Returns
    -------
    Card

    Raises
    ------
    DataError
        If there is no such model; the message names the nearest ones.

    Examples
    --------
    >>> find("eight-schools").title
    'Eight schools'
    """
    key = _plain(name)
    for card in ZOO:
        if key in (_plain(card.name), _plain(card.factory.partition(":")[2])):
            return card
    names = [card.name for card in ZOO]
    hint = did_you_mean(name, names, num=2)
    raise DataError(f"model: got {name!r}{hint}; the zoo has: {', '.join(names)}")


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
