"""Hyper-parameters: searching for them, and sets to start from."""
