"""``plasticity curves``: compare the learning curves of agents at equal steps."""

from __future__ import annotations

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.studies.curves_config import CurvesConfig


def main(config: CurvesConfig) -> None:
    """Train every agent and evaluate it on held-out scenarios on the way; an interrupted study continues."""
    from plasticity_env.agents.studies.curves_figure import curves_png, table
    from plasticity_env.agents.studies.learning_curves import study

    points = study(config)
    picture = config.output_dir / "learning_curves.png"
    curves_png(points, picture, config.reference, config.settings.model_name)
    print(f"Mean rise of the loss on held-out scenarios over {config.reference}'s:", *table(points), sep="\n")
    print(f"figure: {picture}")


COMMAND = Command("curves", CurvesConfig, main)
