"""The names of `plasticity_env.tabular`, and the files that they come from."""

from .cell_table import CellTable as CellTable
from .cell_table import open_table as open_table
from .mask_table import MaskTable as MaskTable
from .mask_table import open_masks as open_masks
from .route_losses import RouteLosses as RouteLosses
from .route_losses import open_routes as open_routes
