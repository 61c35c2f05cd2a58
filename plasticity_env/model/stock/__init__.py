"""Pruned models as stock Hugging Face folders, which load without this package."""
