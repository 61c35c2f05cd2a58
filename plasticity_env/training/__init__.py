"""Learning inside the cycle: rates of single heads, the trainer, distillation from the dense model."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
