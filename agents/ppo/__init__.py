"""Proximal policy optimisation, our own."""
