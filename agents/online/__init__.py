"""A controller that learns while it decides."""
