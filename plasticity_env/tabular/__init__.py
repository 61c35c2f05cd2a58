"""Tables of what was measured, opened without a model: the leaderboard's cells, and every mask of a small model.

>>> from plasticity_env.tabular import open_masks, open_table
>>> masks = open_masks("runs/tabular/bard-gpt2-4x4/table")
>>> masks.query("1111/1111/1111/1110").reward_loss
"""

from plasticity_env.tabular.cell_table import CellTable as CellTable
from plasticity_env.tabular.cell_table import open_table as open_table
from plasticity_env.tabular.mask_table import MaskTable as MaskTable
from plasticity_env.tabular.mask_table import open_masks as open_masks
