"""The plasticity cycle as an experiment: train, prune, measure, grow, learn, beside a control arm."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
