"""The arguments of a run in which a network decides and keeps learning."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from plasticity_env.common.arguments import flags
from plasticity_env.common.cli import words
from plasticity_env.common.errors import InputError
from plasticity_env.common.tracking import TrackingOptions
from plasticity_env.cycle.run_settings import CONTROLLER, ExperimentSettings
from plasticity_env.steps.step_arguments import with_text

if TYPE_CHECKING:
    from plasticity_env.agents.online.bounds import PruneBounds
    from plasticity_env.agents.online.online_decider import OnlineDecider

QUICK = {
    "model_name": "bard-gpt2-4x4",
    "max_length": 64,
    "warmup_steps": 4,
    "finetuning_steps": 6,
    "decision_every": 2,
    "analyze_steps": 2,
    "cycles": 2,
    "reward_blocks": 8,
    "test_blocks": 8,
    "growth_warmup_steps": 2,
    "sample_tokens": 12,
}


EXPERIMENT = words(  # arguments of the experiment that are arguments of such a run
    "model_name,dataset,dataset_config,text_split,device,batch_size,max_length,warmup_steps,cycles,pruning_level,mlp_blocks,"
    "neuron_order,pruning_mode,prune_entropy,learning_rate,decision_every,flop_price,repair,growth_init,"
    "growth_warmup_steps,growth_trial_steps,new_head_lr_multiplier,reward_blocks,test_blocks,sample_tokens,seed,"
)


@dataclass(frozen=True)
class OnlineRunConfig:
    """Arguments of a run in which an ANN controller decides and keeps learning."""

    experiment: Annotated[
        ExperimentSettings,
        flags(ExperimentSettings, *EXPERIMENT, finetuning_steps="training_steps", analyze_steps="analysis_steps"),
    ] = ExperimentSettings(
        model_name="gpt2",
        dataset="",
        pruning_strategy=CONTROLLER,
        free_policy=True,
        pruning_level=0.125,
        mlp_blocks=8,  # at 90% of the FLOPs, pruning heads alone costs several times as much
        warmup_steps=100,
        training_steps=100,
        decision_every=25,
        repair="least_squares",
        growth_init="revive",  # random weights behind an open gate cost more than they bring in so few steps
    )
    """arguments of the cycle; the network chooses how many units are pruned, up to --pruning_level. Units are heads and, unless
    --mlp_blocks 0 is given, blocks of MLP neurons: where heads alone are pruned, the same FLOPs cost more perplexity"""
    entropy_threshold: float = 1.5
    """nats: only heads on the prune side of it may be pruned"""
    importance_threshold: float = 0.7
    """quantile of the active heads' Fisher scores: heads above it are protected from pruning"""
    controller_lr: float = 0.01
    """learning rate of the controller's Adam; 0 decides without learning"""
    entropy_bonus: float = 0.01
    """weight of the policy's entropy in what the controller maximises"""
    controller: Path | None = None
    """folder of a trained controller to start from; unset: the shipped ranking"""
    from_scratch: bool = False
    """start with a fresh network instead"""
    output_dir: Path | None = None
    """a new folder; unset: runs/neural_plasticity/run_YYYYMMDD_HHMMSS"""
    resume: Path | None = None
    """continue the run in this folder, with the arguments that it was started with"""
    quick_test: bool = False
    """other defaults: an embedded model and few steps, under a minute; flags that are given still count"""
    verbose: bool = True
    """print every decision and what it earned"""
    tracking: TrackingOptions = field(default_factory=TrackingOptions)

    def settings(self) -> ExperimentSettings:
        """The experiment's part, with the text filled in where none was named."""
        own = with_text(self.experiment, self.experiment.model_name)
        controller = str(self.controller or ("a fresh network" if self.from_scratch else "the shipped ranking"))
        return replace(own, controller=controller, tracking=self.tracking)

    def bounds(self) -> PruneBounds:
        """What may be pruned.

        Raises:
            InputError: A value out of range.
        """
        from plasticity_env.agents.online.bounds import PruneBounds

        return PruneBounds(self.entropy_threshold, self.importance_threshold, self.experiment.prune_entropy)

    def decider(self) -> OnlineDecider:
        """The controller, ready to learn.

        Raises:
            InputError: A value out of range, or no controller in the folder.
        """
        import torch

        from plasticity_env.agents.online.online import OnlineConfig, OnlineLearner
        from plasticity_env.agents.online.online_decider import OnlineDecider
        from plasticity_env.agents.online.ranked_start import ranked_start
        from plasticity_env.controllers.ann import ANNController
        from plasticity_env.controllers.network import HeadNetwork, NetworkConfig

        config = OnlineConfig(self.controller_lr, self.entropy_bonus, seed=self.experiment.seed)
        if self.controller is not None:
            if self.from_scratch:
                raise InputError("--from_scratch begins with a fresh network: leave it out, or leave out --controller")
            controller = ANNController.load(self.controller)
            if "price_shares" in controller.info:
                controller = ranked_start(self.controller)
        elif not self.from_scratch:
            controller = ranked_start(mlp_blocks=self.experiment.mlp_blocks > 0)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.experiment.seed)
                controller = ANNController(HeadNetwork(NetworkConfig()))
        return OnlineDecider(OnlineLearner(controller, config), self.bounds())
