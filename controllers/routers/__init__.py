"""Routers: who picks a structure for each text, played on a route table or inside a `RoutedModel`."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
