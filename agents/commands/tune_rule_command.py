"""``plasticity tune-rule``: tune the thresholds of the classic rule by CMA-ES."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.studies.tuning_config import TuningConfig
from plasticity_env.common.at_work import at_work_on


@dataclass(frozen=True)
class TuneRuleConfig(TuningConfig):
    """Arguments of a search for thresholds."""

    output: Path = Path("runs/plasticity.json")
    """JSON file to write; controllers/tuned/plasticity.json is the one that controllers use"""


def main(config: TuneRuleConfig) -> None:
    """Search, choose on other scenarios, compare with the rule's defaults on yet others, and write the thresholds."""
    from plasticity_env.agents.studies.rule_tuning import ThresholdSearch, save

    shared = TuningConfig(**{name: getattr(config, name) for name in TuningConfig.__dataclass_fields__})
    with at_work_on(config.output):  # a place where nothing can be written is said before the search
        found = ThresholdSearch(shared).run()
        save(config.output, shared, found)
    print(
        f"{config.output}: rise of the loss {found.ratio:.3f} x {config.reference}'s ({found.steps} environment steps)"
    )
    print(f"the rule's defaults: {found.classic_ratio:.3f}")
    print("  ".join(f"{name}={value}" for name, value in found.options.items()))


COMMAND = Command("tune-rule", TuneRuleConfig, main)
