"""``plasticity documents``: play every command line of the original documents into one table."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from plasticity_env.agents.commands.command import Command
from plasticity_env.common.at_work import at_work_on
from plasticity_env.common.marked_pages import MarkedPage

MARKS = "<!-- tables: made by scripts/play_documents.py -->", "<!-- end of tables -->"


@dataclass(frozen=True)
class DocumentsConfig:
    """Arguments."""

    acts: str = ""
    """names of acts, separated by semicolons; unset: all, which takes hours of one core"""
    output: Path = Path("runs/documents/rows.jsonl")
    """finished rows, one JSON line each; a second run goes on where the first was cut"""
    folder: Path = Path("runs/documents/plays")
    """where the commands write while they are played"""
    keep: bool = False
    """leave what they wrote, pages and models included"""
    page: Path | None = None
    """also put the table between the marks of this Markdown file"""


def main(config: DocumentsConfig) -> None:
    """Play the documents' command lines that are missing on embedded models, and print the table."""
    from plasticity_env.agents.studies.documents.act_playing import play_acts
    from plasticity_env.agents.studies.documents.act_row import act_rows
    from plasticity_env.agents.studies.documents.act_tables import acts_table, said
    from plasticity_env.agents.studies.documents.acts import find_acts

    acts = find_acts(config.acts)
    by_name = {act.name: act for act in acts}
    page = None if config.page is None else MarkedPage(config.page, *MARKS)
    with at_work_on(config.output):
        for row, known in play_acts(acts, config.output, config.folder, config.keep):
            if not known:
                print(said(row, by_name[row.act]), file=sys.stderr, flush=True)
        table = acts_table(act_rows(config.output).read())
    print(table)
    if page is not None:
        page.renew(table)


COMMAND = Command("documents", DocumentsConfig, main)
