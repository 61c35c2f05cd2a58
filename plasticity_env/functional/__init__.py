"""The plasticity cycle as plain functions, for notebooks and scripts."""
