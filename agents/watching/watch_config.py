"""The arguments of the page that shows runs."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from plasticity_env.common.arguments import check_counts
from plasticity_env.common.errors import InputError
from plasticity_env.common.values import check_number

MOST = 8  # runs whose colours can be told apart


@dataclass(frozen=True)
class WatchConfig:
    """Arguments of the page that shows runs."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """folders of one run or of several, which are shown side by side"""
    every: float = 1.0
    """seconds between two looks at the folders"""
    host: str = "127.0.0.1"
    """address to listen at; any but a loopback address lets others in"""
    port: int = 8001
    """port to listen at; 0 takes a free one"""
    browser: bool = False
    """open the page in a browser"""

    def __post_init__(self) -> None:
        check_counts(self, port=0)
        if self.port > 65535:
            raise InputError(f"port must lie in [0, 65535], got {self.port}: 0 takes a free one")
        check_number("every", self.every, 0, 3600, above=True)
        if len(self.runs) > MOST:
            raise InputError(f"{len(self.runs)} runs are too many to tell apart: name at most {MOST}")
