"""The names of `plasticity_env.model.compact`, and the files that they come from."""

from .auto_classes import register_all as register_all
from .build import compact as compact
from .classes import compact_classes as compact_classes
from .classes import is_compact as is_compact
