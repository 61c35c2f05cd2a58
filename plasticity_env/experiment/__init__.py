"""The plasticity cycle as an experiment: train, prune, measure, grow, learn, beside a control arm."""

from plasticity_env.experiment.record import RunRecord, RunWriter

__all__ = ["RunRecord", "RunWriter"]
