"""Fit a linear ranking of heads to what each head really costs, measured one by one: the start of the shipped controller.

python scripts/fit_ranking.py --costs scripts/configs/ranker --output_dir runs/ranking
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from agents.head_costs import CostConfig, measure_costs
from agents.ranking_fit import FitConfig, check_others, fit_ranking, leave_one_out
from plasticity_env import cli
from plasticity_env.cli import words
from plasticity_env.errors import InputError
from plasticity_env.tracking import new_run_folder


@dataclass(frozen=True)
class Config:
    """Arguments."""

    cost: CostConfig = field(default_factory=CostConfig)
    """what is measured"""
    fit: FitConfig = field(default_factory=FitConfig)
    """how the ranking is fitted"""
    costs: Path | None = None
    """folder of measured costs, a file a model; missing states are measured into it; unset: in --output_dir"""
    leave_one_out: bool = False
    """also print, for each model, what a ranking fitted to the others pays there over Fisher"""
    output_dir: Path | None = None
    """run folder; unset: a new one under runs/"""

    def __post_init__(self) -> None:
        if self.costs is not None and self.costs.is_file():
            raise InputError(f"--costs {str(self.costs)!r} is a file: name a folder")
        if self.leave_one_out:
            check_others(len(words(self.cost.model_name)))


def main(config: Config) -> None:
    """Measure what is missing, fit, and write ``controller/``."""
    folder = config.output_dir or new_run_folder("ranking")
    files = measure_costs(config.cost, config.costs or folder / "costs")
    if config.leave_one_out:
        for name, ratios in leave_one_out(files, config.fit).items():
            print(
                f"{name}: " + "  ".join(f"{ratio:.3f}" for ratio in ratios) + " x Fisher (12, 25, 40% of active heads)"
            )
    controller = fit_ranking(files, config.fit)
    controller.save(folder / "controller")
    weights = controller.network.linear.weight[0].tolist()
    print("  ".join(f"{name} {value:+.2f}" for name, value in zip(config.fit.features, weights, strict=True)))
    print(f"controller: {folder / 'controller'}")


if __name__ == "__main__":
    cli.run(Config, main)
