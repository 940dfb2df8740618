"""Connectors: from a grid of patch features to image tokens. One file each; a new file is found by its name.

A file holds the pydantic settings, which commands read without torch, and `build`, which makes the torch module that takes
[images, side * side, encoder_width] to [images, image_tokens, language_width].
"""
