"""The command lines of the original documents, as this package's commands, and what each is asked with.

A command line is played as the document writes it, but for the name of the model, which is an embedded one. Where a document
fixes the strategy, the same level with the strategy that this package takes by default stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from plasticity_env.common.cli import words
from plasticity_env.common.errors import unknown

SMALL, LARGE = "bard-gpt2-4x4", "bard-gpt2-6x8"
PLACE = "{folder}"  # in a command line: where the act may write
MODEL = "{model}"
SEEDS = 3  # of the acts whose figures carry a goal

Asked = Literal["the document's", "our default beside it", "our default"]

DOCUMENT: Asked = "the document's"
BESIDE: Asked = "our default beside it"
OURS: Asked = "our default"
_OWN = "--pruning_strategy residual_stepwise --repair least_squares --growth_init revive"
_BLOCKS = "--mlp_blocks 8 --neuron_order kfac"


@dataclass(frozen=True)
class Act:
    """One row of the table.

    Attributes:
        name: Short, in the table.
        asked: Whether the flags are the document's or ours.
        lines: Command lines, in order; the last one's figures are the row's.
        model: Embedded model that stands for the document's.
        seeds: How many seeds are played.
        beside: Name of the act that has the document's strategy at the same level.
        goal: Largest share of the FLOPs and largest rise over the control arm's perplexity, where the act has a goal.
    """

    name: str
    asked: Asked
    lines: tuple[str, ...]
    model: str = SMALL
    seeds: int = 1
    beside: str = ""
    goal: tuple[float, float] | None = None

    def commands(self, folder: str, seed: int) -> list[list[str]]:
        """Words of each command line, the command's name first.

        Args:
            folder: Folder that it writes into.
            seed: Seed of the whole act.
        """
        filled = (line.replace(MODEL, self.model).replace(PLACE, folder) for line in self.lines)
        return [[*line.split(), *_seed(line, seed)] for line in filled]

    def says(self) -> str:
        """What the row is, in a line."""
        if self.asked == DOCUMENT:
            return "as the document asks"
        if self.asked == BESIDE:
            return f"the level of {self.beside!r} with this package's default strategy"
        return "this package's defaults"


def _seed(line: str, seed: int) -> list[str]:
    """A grid counts its seeds from 0 by itself."""
    return [] if line.startswith("grid") else ["--seed", str(seed)]


def _run(name: str, strategy: str) -> Act:
    line = f"run --model_name {MODEL} --pruning_strategy {strategy} --pruning_level 0.2 --output_dir {PLACE}/run"
    return Act(name, DOCUMENT, (line,))


def _steps(name: str, asked: Asked, strategy: str, grow: bool, beside: str = "") -> Act:
    """Prune, grow if asked, fine-tune, each a file that the next one reads; a dense model is fine-tuned alike."""
    lines = [f"prune --model_name {MODEL} --pruning_level 0.3 --strategy {strategy} --output_path {PLACE}/pruned.pth"]
    last = "pruned"
    if grow:
        lines.append(
            f"grow --model_path {PLACE}/pruned.pth --model_name {MODEL} --growth_percentage 0.1 "
            f"--growth_strategy gradient_sensitivity --initial_scale 0.01 --warmup_steps 100 --output_path {PLACE}/grown.pth"
        )
        last = "grown"
    tune = f"fine-tune --model_name {MODEL} --learning_rate 5e-5 --new_head_lr_multiplier 5 --epochs 1"
    dense = f"prune --model_name {MODEL} --pruning_level 0 --strategy random --output_path {PLACE}/dense.pth"
    lines += [dense, f"{tune} --model_path {PLACE}/dense.pth --output_path {PLACE}/control.pth"]
    lines += [f"{tune} --model_path {PLACE}/{last}.pth --output_path {PLACE}/tuned.pth"]
    return Act(name, asked, tuple(lines), beside=beside)


def _at(level: float) -> str:
    """The cycle with this package's strategy on heads and blocks of MLP neurons; what is pruned stays so."""
    return f"{_CYCLE} {_OWN} {_BLOCKS} --growth_ratio 0 --initial_pruning {level}"


_CYCLE = f"cycle --model_name {MODEL} --dataset tiny_shakespeare --cycles 3 --output_dir {PLACE}/run"
_GRID = f"grid --model_name {MODEL} --growth_percentages 0.05,0.1,0.2 --output_dir {PLACE}/grid"
_ADAPTIVE = f"adaptive --model_name {MODEL} --output_dir {PLACE}/run"

ACTS = (
    Act("adaptive", OURS, (_ADAPTIVE,), LARGE, SEEDS, goal=(0.9, 0.02)),
    Act("quick test", OURS, (f"run --quick_test --output_dir {PLACE}/run",), LARGE, SEEDS, goal=(0.9, 0.02)),
    Act("cycle at 90%", OURS, (_at(0.12),), LARGE, SEEDS, goal=(0.9, 0.02)),
    Act("cycle at 80%", OURS, (_at(0.22),), LARGE, SEEDS, goal=(0.8, 0.05)),
    Act(
        "adaptive, 20% of the heads",
        DOCUMENT,
        (
            f"{_ADAPTIVE} --mlp_blocks 0 --pruning_level 0.2 --warmup_steps 200 --finetuning_steps 200 --analyze_steps 10 "
            "--entropy_threshold 1.5 --importance_threshold 0.7 --controller_lr 0.01",
        ),
        LARGE,
        SEEDS,
    ),
    Act(
        "cycle, entropy",
        DOCUMENT,
        (
            f"{_CYCLE} --pruning_strategy entropy --growth_strategy gradient_sensitivity --initial_pruning 0.3 "
            "--growth_ratio 0.5 --growth_init random --learning_rate 5e-5 --new_head_lr_multiplier 5",
        ),
        seeds=SEEDS,
    ),
    Act(
        "cycle, our strategy",
        BESIDE,
        (f"{_CYCLE} {_OWN} --initial_pruning 0.3 --growth_ratio 0.5 --learning_rate 5e-5",),
        seeds=SEEDS,
        beside="cycle, entropy",
    ),
    *(_run(f"run, {strategy}", strategy) for strategy in words("entropy,gradient,magnitude,random,combined,fisher")),
    _run("run, thresholds", "controller"),
    Act(
        "run, our strategy",
        BESIDE,
        (f"run --model_name {MODEL} {_OWN} --pruning_level 0.2 --output_dir {PLACE}/run",),
        beside="run, entropy",
    ),
    Act(
        "run, compressed",
        DOCUMENT,
        (
            f"run --model_name {MODEL} --pruning_strategy entropy --pruning_level 0.2 --pruning_mode compressed "
            f"--output_dir {PLACE}/run",
        ),
    ),
    Act(
        "run, compressed, our strategy",
        BESIDE,
        (f"run --model_name {MODEL} {_OWN} --pruning_level 0.2 --pruning_mode compressed --output_dir {PLACE}/run",),
        beside="run, compressed",
    ),
    _steps("prune, grow, tune: entropy", DOCUMENT, "entropy", grow=True),
    _steps("prune, tune: our strategy", BESIDE, "residual_stepwise", grow=False, beside="prune, grow, tune: entropy"),
    Act("grid", DOCUMENT, (f"{_GRID} --pruning_levels 0.1,0.3,0.5",)),
    Act(
        "grid, our strategy",
        BESIDE,
        (
            f"{_GRID} --pruning_levels 0.1,0.3,0.5 --growth_strategies none,revive --pruning_strategy residual_stepwise "
            "--repairs least_squares",
        ),
        beside="grid",
        goal=(0.9, 0.02),
    ),
)


def find_acts(names: str) -> list[Act]:
    """The acts of these names, separated by semicolons; all where there is none.

    Raises:
        InputError: No act of a name.
    """
    wanted = [name.strip() for name in names.split(";") if name.strip()]
    known = {act.name: act for act in ACTS}
    for name in wanted:
        if name not in known:
            raise unknown("act", name, known)
    return [known[name] for name in wanted] if wanted else list(ACTS)
