"""Weights: what there is (cards), and getting it (sources, cache, mirror, hash). Nothing here imports torch."""

from zoo.hub.cards import Card, Source, is_card_name
from zoo.hub.catalogue import find_card, list_cards, pretrained_card
from zoo.hub.fetching import cached_file, fetch, weights_cache

__all__ = [
    "Card",
    "Source",
    "cached_file",
    "fetch",
    "find_card",
    "is_card_name",
    "list_cards",
    "pretrained_card",
    "weights_cache",
]
