"""``plasticity serve``: serve a model that picks a structure for each request, with OpenAI's endpoint and a page."""

from __future__ import annotations

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.serving.serve_config import ServeConfig
from plasticity_env.common.errors import InputError
from plasticity_env.common.packages import require


def main(config: ServeConfig) -> None:
    """Serve a model that picks a structure for each request: POST /v1/completions, and a page at /."""
    if config.demo == (config.bank is not None):
        raise InputError(
            "name a bank with --bank FOLDER and its model with --model_name, or say --demo: one of the two"
        )
    if config.bank is not None and config.model_name is None:
        raise InputError("--bank needs the model that it was fitted on: name it with --model_name")
    require("fastapi", "serve")
    require("uvicorn", "serve")
    from plasticity_env.agents.serving.serving import serve

    serve(config)


COMMAND = Command("serve", ServeConfig, main)
