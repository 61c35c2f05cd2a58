"""What a table is opened with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plasticity_env.data.documents import EMBEDDED
from plasticity_env.envs.settings import Settings, bounds

if TYPE_CHECKING:
    from plasticity_env.agents.leaderboard.board_cells import Board


def short_name(model_name: str) -> str:
    """Name of a model, a GGUF file or a folder without where it lies."""
    path = Path(model_name)
    if path.suffix == ".gguf":
        return path.stem
    return path.resolve().name if path.is_dir() else model_name


@dataclass(frozen=True)
class Rules:
    """What a table is opened with; JSON-able, so that workers can open their own.

    Attributes:
        settings: Settings of the environments; players bring the number of rounds.
        test_blocks: Blocks of the test split that are scored.
    """

    settings: Settings = Settings(flop_price=4.0, max_sparsity=1.0)
    test_blocks: int = 64

    @property
    def board(self) -> Board:
        """The board that cells of these rules belong to."""
        from plasticity_env.agents.leaderboard.board_cells import Board

        own = self.settings
        return Board(
            short_name(own.model_name),
            "/".join(filter(None, (Path(own.dataset).name, own.dataset_config))),
            own.max_length,
            own.calibration_blocks,
            own.reward_blocks,
            self.test_blocks,
            own.repair,
            own.units,
            own.blocks_of_neurons,
            own.mode,
            bounds(own.flop_price)[0],
            own.order,
            "leading" if own.dataset in EMBEDDED else own.text_split,
            own.moment_blocks,
            own.labels,
        )
