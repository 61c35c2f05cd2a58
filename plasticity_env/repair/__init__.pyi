"""The names of `plasticity_env.repair`, and the files that they come from."""

from .methods import METHODS as METHODS
from .methods import RIDGE as RIDGE
from .methods import Change as Change
from .methods import Moments as Moments
from .methods import Projection as Projection
from .methods import bias as bias
from .methods import least_squares as least_squares
from .methods import scale as scale
from .parallel import Statistics as Statistics
from .parallel import repair_sites as repair_sites
from .registry import REPAIRS as REPAIRS
from .registry import Repair as Repair
from .registry import find_repair as find_repair
from .registry import register_repair as register_repair
from .sequential import repair_in_order as repair_in_order
