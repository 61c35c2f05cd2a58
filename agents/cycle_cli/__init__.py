"""The plasticity cycle from the command line."""
