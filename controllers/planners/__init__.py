"""Planners: searches and other people's pruning, which may measure before they choose."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
