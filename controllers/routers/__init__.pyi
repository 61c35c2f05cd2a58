"""The names of `plasticity_env.controllers.routers`, and the files that they come from."""

from .learned_router import LearnedRouter as LearnedRouter
from .nearest_centroid import NearestCentroid as NearestCentroid
from .oracles import LabelOracle as LabelOracle
from .oracles import TextOracle as TextOracle
from .plain_routers import FixedRouter as FixedRouter
from .plain_routers import NearestRouter as NearestRouter
from .plain_routers import ProbingRouter as ProbingRouter
from .plain_routers import RandomRouter as RandomRouter
from .predicted_loss import PredictedLoss as PredictedLoss
from .route_player import Played as Played
from .route_player import RoutePlayer as RoutePlayer
from .router_network import RouterNetwork as RouterNetwork
