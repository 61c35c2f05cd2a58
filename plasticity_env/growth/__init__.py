"""Growth: new heads in the slots of pruned ones, chosen by a strategy, behind gates that open slowly."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
