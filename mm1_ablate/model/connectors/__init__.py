"""Connectors: from a grid of patch features to image tokens. A new connector is found by the name of its file.

`mean.py` holds the pydantic settings of `type: mean`, which commands read without torch, and `build`. `_mean.py` beside it holds the torch
module, a class at the top of its file: [images, side * side, encoder_width] to [images, image_tokens, language_width]. `build` imports it
late. Those of kinds that share something are in one file (`_pooling.py`, `_learned_queries.py`); a connector that needs no module of its
own (`linear.py`, `mlp.py`) is one file itself.
"""
