"""Learning curves of every agent at equal numbers of environment steps, three seeds, in one figure.

python scripts/learning_curves.py --agents ppo,sb3_ppo,es --total_timesteps 20000 --output_dir runs/learning_curves
"""

from __future__ import annotations

from plasticity_env.agents.studies.curves_figure import curves_png, table
from plasticity_env.agents.studies.learning_curves import CurvesConfig, study
from plasticity_env.common import cli


def main(config: CurvesConfig) -> None:
    """Train every agent and evaluate it on held-out scenarios on the way; a cut study goes on where it was."""
    points = study(config)
    picture = config.output_dir / "learning_curves.png"
    curves_png(points, picture, config.reference, config.settings.model_name)
    print(f"Mean rise of the loss on held-out scenarios over {config.reference}'s:", *table(points), sep="\n")
    print(f"figure: {picture}")


if __name__ == "__main__":
    cli.run(CurvesConfig, main)
