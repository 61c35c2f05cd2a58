"""Real removal: a masked model becomes a smaller Hugging Face causal LM that saves, loads and generates as usual."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
