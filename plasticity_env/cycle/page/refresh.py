"""The pages and pictures of a run, brought up to date while it goes on, as often as they are cheap."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from plasticity_env.common.tracking import Tracker
from plasticity_env.cycle.page.run_page import write_charts, write_pages
from plasticity_env.cycle.record import RunRecord

SHARE = 0.2  # of the time that pages may take from a run


class Pages:
    """Brings a run's pages up to date.

    Args:
        folder: Folder of the run.
        wanted: False writes none.
    """

    def __init__(self, folder: Path, wanted: bool = True) -> None:
        self.folder, self.wanted = folder, wanted
        self._last, self._took = time.monotonic(), 0.0

    def update(self, final: bool = False) -> None:
        """Write the pages; in between, only where that takes a small share of the time since the last one."""
        started = time.monotonic()
        if not self.wanted or (not final and self._took > SHARE * (started - self._last)):
            return
        write_pages(self.folder, final)
        self._last = time.monotonic()
        self._took = self._last - started

    def draw(self) -> None:
        """Write the pictures beside the page of a run that is over, and is about to say so."""
        if self.wanted:
            record = RunRecord.read(self.folder)
            write_charts(replace(record, config={**record.config, "status": "finished"}))

    def finish(self) -> None:
        """Write the page alone, for the last time."""
        if self.wanted:
            write_pages(self.folder, final=False)

    def track(self, tracker: Tracker, step: int) -> None:
        """Send the pictures where the numbers go."""
        for path in sorted([*self.folder.glob("visualizations/*.png"), *self.folder.glob("dashboards/*.png")]):
            tracker.picture(path.stem, path, step)
