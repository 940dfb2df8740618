"""Image encoder (timm), connector and language model (transformers), and how they become one model."""
