"""The picture of a study: what the trials earned, and which arguments it depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from plasticity_env.plots.charts import PALETTE, blank_figure, save_png


def importances(study: Any) -> dict[str, float]:
    """Share of each argument in what tells good trials from others (PED-ANOVA), largest first; none of too few trials."""
    import optuna

    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len({trial.value for trial in complete}) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def study_png(study: Any, path: Path) -> None:
    """Draw a study.

    Args:
        study: An Optuna study with one completed trial at least.
        path: File that the PNG goes to.
    """
    figure = blank_figure(11, 4.2)
    history, shares = figure.subplots(1, 2)
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.value is not None]
    for name, colour, label in (("COMPLETE", PALETTE[0], "completed"), ("PRUNED", PALETTE[1], "pruned")):
        own = [trial for trial in trials if trial.state.name == name]
        history.scatter([trial.number for trial in own], [trial.value for trial in own], c=colour, label=label, s=22)
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    best = np.maximum.accumulate([trial.value for trial in complete])
    history.step([trial.number for trial in complete], best, where="post", color="black", label="best so far")
    history.set_xlabel("trial")
    history.xaxis.get_major_locator().set_params(integer=True)
    history.set_ylabel("return, nats")
    history.legend(frameon=False)
    found = importances(study)
    names = list(found)[::-1]
    shares.barh(range(len(names)), [found[name] for name in names], color=PALETTE[2])
    shares.set_yticks(range(len(names)), names)
    shares.set_xlabel("importance" if found else "importance: too few trials")
    save_png(figure, path)
