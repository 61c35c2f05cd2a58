"""``plasticity push``: send a controller with its card to the Hugging Face hub, or write both into a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plasticity_env.agents.commands.command import Command
from plasticity_env.common.errors import InputError


@dataclass(frozen=True)
class PushConfig:
    """Arguments."""

    controller: str = "ann"
    """folder of a saved controller, or ann"""
    repo_id: str = ""
    """USER/NAME on the hub; made if it is not there"""
    run: Path | None = None
    """folder of the training, whose arguments and last metrics the card names"""
    results: Path | None = None
    """results.json of plasticity evaluate, which becomes the card's table"""
    private: bool = False
    """nobody else may see it"""
    output_dir: Path | None = None
    """write the files here instead of sending them"""


def main(config: PushConfig) -> None:
    """Send a trained controller to the Hugging Face hub: safetensors, its description, and a card written from its run."""
    if not config.repo_id and config.output_dir is None:
        raise InputError(
            "nowhere to push to: give --repo_id USER/NAME, or --output_dir FOLDER to look at the files first"
        )
    from plasticity_env import controllers
    from plasticity_env.common.files import new_folder
    from plasticity_env.controllers.ann import ANNController

    found = controllers.make(config.controller)
    if not isinstance(found, ANNController):
        raise InputError(
            f"--controller {config.controller!r} has no weights to push: give ann or a saved controller's folder"
        )
    if config.output_dir is None:
        url = found.push_to_hub(config.repo_id, run=config.run, results=config.results, private=config.private or None)
        print(f"controller: {url}")
        return
    card = {"repo": config.repo_id or str(config.output_dir), "run": config.run, "results": config.results}
    with new_folder(config.output_dir) as folder:
        found.save_pretrained(folder, model_card_kwargs=card)
    print(f"controller: {config.output_dir}")


COMMAND = Command("push", PushConfig, main)
