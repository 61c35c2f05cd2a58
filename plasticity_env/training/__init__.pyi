"""The names of `plasticity_env.training`, and the files that they come from."""

from .distillation import Distillation as Distillation
from .distillation import dense_teacher as dense_teacher
from .distillation import distillation_loss as distillation_loss
from .head_rates import HeadLRManager as HeadLRManager
from .optimizer import get_plasticity_optimizer as get_plasticity_optimizer
from .trainer import BlockBatches as BlockBatches
from .trainer import LoaderBatches as LoaderBatches
from .trainer import PlasticityTrainer as PlasticityTrainer
from .trainer import TokenBatch as TokenBatch
from .trainer import TrainStep as TrainStep
from .trainer import as_batches as as_batches
from .trainer import create_plasticity_trainer as create_plasticity_trainer
