"""Second step: grow new heads where heads were pruned, and write the checkpoint with their warm-ups."""

from __future__ import annotations

from pathlib import Path

import torch

from plasticity_env.common.at_work import at_work_on
from plasticity_env.growth import grow_attention_heads_gradually
from plasticity_env.steps.opening import (
    comparison,
    head_ages,
    leave,
    listed,
    measured,
    open_checkpoint,
    output_path,
)
from plasticity_env.steps.step_arguments import ExpandConfig


def expand_heads(config: ExpandConfig) -> tuple[Path, list[str]]:
    """Grow heads of a pruned checkpoint behind gates that start almost closed, and write a checkpoint.

    Args:
        config: Arguments.

    Returns:
        The checkpoint, and sentences about what was done.

    Raises:
        InputError: Arguments that cannot be used, or no pruned head; nothing is written.
    """
    path = output_path(config.output_path, "expanded")
    with at_work_on(path):
        return path, _expand(config, path)


def _expand(config: ExpandConfig, path: Path) -> list[str]:
    checkpoint = open_checkpoint(config.model_path, config.model_name, config.device)
    model, age = checkpoint.loaded.model, head_ages(checkpoint)
    text = config.text.open(checkpoint)
    test, size = config.text.test(text), config.text.batch_size
    before = measured(model, test, size)
    grown = grow_attention_heads_gradually(
        model,
        config.growth_percentage,
        config.growth_strategy,
        config.initial_scale,
        config.warmup_steps,
        input_ids=config.text.calibration(text, config.seed),
        initial_weights=config.initial_weights,
        batch_size=size,
        generator=torch.Generator().manual_seed(config.seed),
    )
    after = measured(model, test, size)
    checkpoint.notes["head_ages"] = torch.where(grown.mask, 0, age).tolist()
    sources = [str(grown.sources[where]) for where in grown.added_heads]
    result = {"grown_heads": listed(grown.mask), "sources": sources, "before": before, "after": after}
    leave(checkpoint, path, "expand", config, result)
    slots = model.shape[0] * model.heads
    said = [f"{grown.added_count} of {slots} heads grown by {config.growth_strategy}"]
    wanted = round(config.growth_percentage * slots)
    if grown.added_count < wanted:
        said[0] += f": fewer than {wanted}, since no more were pruned"
    start, steps = grown.warmup_schedule.initial_scale, grown.warmup_schedule.warmup_steps
    said.append(f"their gates open from {start:g} to 1 in {steps} training steps" if steps else "their gates are open")
    return [*said, comparison(before, after, len(test))]
