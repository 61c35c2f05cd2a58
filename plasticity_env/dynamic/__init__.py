"""Dynamic inference: many structures over one set of weights, and a router that picks one for each text."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
