"""The names of `plasticity_env`, and the rooms that they come from."""

from . import agents as agents
from . import controllers as controllers
from .common.errors import InputError as InputError
from .common.metrics_logger import MetricsLogger as MetricsLogger
from .cycle import (
    ExperimentSettings as ExperimentSettings,
)
from .cycle import (
    NeuralPlasticityExperiment as NeuralPlasticityExperiment,
)
from .cycle import (
    RunRecord as RunRecord,
)
from .data.text import (
    TextSplits as TextSplits,
)
from .data.text import (
    load_text as load_text,
)
from .envs.edits import (
    EDITS as EDITS,
)
from .envs.edits import (
    GROW as GROW,
)
from .envs.edits import (
    KEEP as KEEP,
)
from .envs.edits import (
    PRUNE as PRUNE,
)
from .envs.edits import (
    REVIVE as REVIVE,
)
from .envs.make_env import make_env as make_env
from .envs.observation import (
    GLOBAL_FEATURES as GLOBAL_FEATURES,
)
from .envs.observation import (
    HEAD_FEATURES as HEAD_FEATURES,
)
from .envs.replay import (
    EpisodeRecord as EpisodeRecord,
)
from .envs.replay import (
    validate as validate,
)
from .envs.rewards import (
    RewardRule as RewardRule,
)
from .envs.rewards import (
    register_reward as register_reward,
)
from .envs.rewards import (
    reward_names as reward_names,
)
from .functional.functions import (
    apply_pruning_mask as apply_pruning_mask,
)
from .functional.functions import (
    calculate_head_entropy as calculate_head_entropy,
)
from .functional.functions import (
    calculate_head_gradients as calculate_head_gradients,
)
from .functional.functions import (
    generate_pruning_mask as generate_pruning_mask,
)
from .functional.loop import (
    run_plasticity_loop as run_plasticity_loop,
)
from .functional.loop import (
    train_with_plasticity as train_with_plasticity,
)
from .functional.pruning_module import PruningModule as PruningModule
from .growth import (
    GrowthResult as GrowthResult,
)
from .growth import (
    UNetSkip as UNetSkip,
)
from .growth import (
    WarmupSchedule as WarmupSchedule,
)
from .growth import (
    grow_attention_heads_gradually as grow_attention_heads_gradually,
)
from .model.attention_maps import attention_maps as attention_maps
from .model.checkpoints import (
    load_plastic as load_plastic,
)
from .model.checkpoints import (
    save_plastic as save_plastic,
)
from .model.embedded import (
    embedded_models as embedded_models,
)
from .model.embedded import (
    model_card as model_card,
)
from .model.flops import (
    flop_table as flop_table,
)
from .model.flops import (
    flops as flops,
)
from .model.flops import (
    kv_cache_bytes as kv_cache_bytes,
)
from .model.layout_table import (
    Layout as Layout,
)
from .model.layout_table import (
    register_layout as register_layout,
)
from .model.loading import (
    LoadedModel as LoadedModel,
)
from .model.loading import (
    load_model as load_model,
)
from .model.modes import PruningMode as PruningMode
from .model.plastic_model import PlasticModel as PlasticModel
from .plots.tensor_image import safe_tensor_imshow as safe_tensor_imshow
from .plots.visualize import (
    visualize_attention_patterns as visualize_attention_patterns,
)
from .plots.visualize import (
    visualize_head_entropy as visualize_head_entropy,
)
from .plots.visualize import (
    visualize_head_gradients as visualize_head_gradients,
)
from .plots.visualize import (
    visualize_pruning_decisions as visualize_pruning_decisions,
)
from .plots.visualize import (
    visualize_training_metrics as visualize_training_metrics,
)
from .signals.measure import (
    HeadSignals as HeadSignals,
)
from .signals.measure import (
    mean_loss as mean_loss,
)
from .signals.measure import (
    measure as measure,
)
from .signals.scores import (
    Score as Score,
)
from .signals.scores import (
    register_score as register_score,
)
from .signals.signal import (
    Signal as Signal,
)
from .signals.signal import (
    register_signal as register_signal,
)
from .signals.text_loss import evaluate_model as evaluate_model
from .training import (
    Distillation as Distillation,
)
from .training import (
    HeadLRManager as HeadLRManager,
)
from .training import (
    PlasticityTrainer as PlasticityTrainer,
)
from .training import (
    create_plasticity_trainer as create_plasticity_trainer,
)
from .training import (
    get_plasticity_optimizer as get_plasticity_optimizer,
)

__version__: str
