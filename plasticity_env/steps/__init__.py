"""Pruning, growing and fine-tuning as three steps that pass a checkpoint from file to file."""
