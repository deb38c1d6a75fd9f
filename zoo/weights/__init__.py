"""Weights that come with the package (``files``) and the cards of all weights (``cards``); no code."""
