"""Real removal: a masked model becomes a smaller Hugging Face causal LM that saves, loads and generates as usual."""

from plasticity_env.model.compact.build import compact
from plasticity_env.model.compact.classes import compact_classes, is_compact, register_all

__all__ = ["compact", "compact_classes", "is_compact", "register_all"]
