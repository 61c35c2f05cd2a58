"""Learning inside the cycle: rates of single heads, the trainer, distillation from the dense model."""

from plasticity_env.data.batches import BlockBatches, LoaderBatches, TokenBatch, as_batches
from plasticity_env.training.distillation import Distillation, dense_teacher, distillation_loss
from plasticity_env.training.head_rates import HeadLRManager
from plasticity_env.training.optimizer import get_plasticity_optimizer
from plasticity_env.training.trainer import PlasticityTrainer, TrainStep, create_plasticity_trainer

__all__ = [
    "BlockBatches",
    "Distillation",
    "HeadLRManager",
    "LoaderBatches",
    "PlasticityTrainer",
    "TokenBatch",
    "TrainStep",
    "as_batches",
    "create_plasticity_trainer",
    "dense_teacher",
    "distillation_loss",
    "get_plasticity_optimizer",
]
