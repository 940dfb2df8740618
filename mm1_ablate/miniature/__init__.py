"""The miniature world: images, captions, interleaved documents, text and tasks drawn by code, from seeds.

Nothing in it knows what an ablation should show. The formats in which a model is judged never occur with images in training.
"""
