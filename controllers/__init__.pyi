"""The names of `plasticity_env.controllers`, and the files that they come from."""

from .ann import ANNController as ANNController
from .base import (
    ConstantEdit as ConstantEdit,
)
from .base import (
    Controller as Controller,
)
from .base import (
    KeepAll as KeepAll,
)
from .base import (
    RankedController as RankedController,
)
from .base import (
    flat_mask as flat_mask,
)
from .base import (
    sample_mask as sample_mask,
)
from .catalogue import (
    CONTROLLERS as CONTROLLERS,
)
from .catalogue import (
    SCORES as SCORES,
)
from .catalogue import (
    load as load,
)
from .catalogue import (
    make as make,
)
from .catalogue import (
    names as names,
)
from .catalogue import (
    register as register,
)
from .network import (
    HeadNetwork as HeadNetwork,
)
from .network import (
    NetworkConfig as NetworkConfig,
)
from .rules import PlasticityController as PlasticityController
from .score_controller import ScoreController as ScoreController
from .shipped import (
    shipped as shipped,
)
from .shipped import (
    shipped_folder as shipped_folder,
)
