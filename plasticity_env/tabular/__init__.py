"""Tables of what was measured, opened without a model: the leaderboard's cells, route tables, and every mask of a small model.

>>> from plasticity_env.tabular import open_masks, open_table
>>> masks = open_masks("bard-gpt2-4x4")
>>> masks.query("1111/1111/1111/1110").reward_loss
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
