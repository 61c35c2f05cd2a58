"""A model's card: what it is, what it cost, how good it is and what each of its heads is worth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from torch import Tensor

from plasticity_env.agents.pretraining.corpora import CORPORA
from plasticity_env.agents.pretraining.head_values import Score

CARD: Final = "card.json"


@dataclass(frozen=True)
class Ablation:
    """Rise in nats per token when one head alone is silenced: summary, and `deltas` as L lists of H."""

    split: str
    blocks: int
    block_length: int
    min: float
    median: float
    max: float
    std: float
    deltas: list[list[float]]

    @classmethod
    def of(cls, deltas: Tensor, split: str, blocks: int, block_length: int) -> Ablation:
        """Summarise (L, H) deltas measured on `blocks` blocks of a split."""
        return cls(
            split=split,
            blocks=blocks,
            block_length=block_length,
            min=float(deltas.min()),
            median=float(deltas.median()),
            max=float(deltas.max()),
            std=float(deltas.std()),
            deltas=[[round(float(value), 6) for value in row] for row in deltas],
        )


@dataclass(frozen=True)
class Training:
    """How a model was trained: recipe, length of the run, machine."""

    recipe: str
    seed: int
    steps: int
    tokens: int
    epochs: float
    seconds: float
    threads: int
    device: str
    torch: str
    transformers: str
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """The naive run beside this model (same shape and tokenizer, plain AdamW): its cost and test score."""

    recipe: str
    steps: int
    tokens: int
    seconds: float
    threads: int
    test: Score


@dataclass(frozen=True)
class Card:
    """Everything that is said about one model of the zoo."""

    name: str
    architecture: str
    held_out: bool
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    inner: int
    parameters: int
    vocabulary: int
    positions: int
    training: Training
    test: Score
    ablation: Ablation
    sha256: str
    licence: str = ""
    naive: Comparison | None = None
    corpus: str = "plays"
    kinds: dict[str, Score] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write card.json and README.md into the model's folder."""
        (folder / CARD).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(self.readme(), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Card:
        """Read card.json back."""
        fields = json.loads((folder / CARD).read_text(encoding="utf-8"))
        fields["training"] = Training(**fields["training"])
        fields["test"] = Score(**fields["test"])
        fields["ablation"] = Ablation(**fields["ablation"])
        fields["kinds"] = {kind: Score(**values) for kind, values in fields.get("kinds", {}).items()}
        if fields["naive"] is not None:
            fields["naive"] = Comparison(**fields["naive"] | {"test": Score(**fields["naive"]["test"])})
        return cls(**fields)

    def _ablated(self) -> str:
        blocks = self.ablation.blocks
        return (
            f"the first {blocks} blocks"
            if not self.kinds
            else f"the first {blocks // len(self.kinds)} blocks of each kind"
        )

    def readme(self) -> str:
        """The card for people, in Markdown."""
        t, a = self.training, self.ablation
        rows = [
            ("architecture", self.architecture),
            ("layers x heads x KV heads", f"{self.layers} x {self.heads} x {self.kv_heads}"),
            ("head dim, width, inner", f"{self.head_dim}, {self.width}, {self.inner}"),
            ("parameters", f"{self.parameters:,}"),
            ("vocabulary, positions", f"{self.vocabulary}, {self.positions}"),
            (
                "trained on",
                f"{t.tokens:,} tokens ({t.epochs:.2f} epochs, {t.steps} steps), recipe `{t.recipe}`",
            ),
            ("training time", f"{t.seconds:.0f} s, {t.threads} thread(s), {t.device}, seed {t.seed}"),
            ("test perplexity per token", f"{self.test.perplexity:.3f} ({self.test.nll:.4f} nats)"),
            ("test bits per byte", f"{self.test.bits_per_byte:.4f}"),
            ("sha256 of model.safetensors", f"`{self.sha256}`"),
        ]
        heads = range(self.heads)
        intro = f"A small {self.architecture} language model, pretrained on {CORPORA[self.corpus].title}."
        held_out = "**Held out**: never used to train a controller, only to test one."
        parts = [
            f"# {self.name}",
            f"{intro}\n\n{held_out}" if self.held_out else intro,
            "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows)]),
            f"Test: the whole test split in {self.test.tokens // (self.test.block_length - 1)} packed blocks of "
            f"{self.test.block_length} tokens, float32; the first token of a block is not scored "
            f"({self.test.tokens:,} tokens are). Per byte is per character: the texts are ASCII.",
            "## What each head is worth",
            f"Rise in nats per token when one head alone is silenced, on {self._ablated()} of the "
            f"{a.split} split: min {a.min:.4f}, median {a.median:.4f}, max {a.max:.4f}, std {a.std:.4f}.",
            "\n".join(
                [
                    "| layer | " + " | ".join(f"head {head}" for head in heads) + " |",
                    "|---" * (self.heads + 1) + "|",
                    *(f"| {i} | " + " | ".join(f"{d:.4f}" for d in row) + " |" for i, row in enumerate(a.deltas)),
                ]
            ),
        ]
        if self.kinds:
            parts[4:4] = ["## By kind of text", "\n".join(_kinds_table(self.kinds))]
        if t.note:
            parts.append(f"Note: {t.note}")
        if self.naive is not None:
            n = self.naive
            parts += [
                "## Against naive training",
                f"The same shape trained naively (AdamW, constant 3e-4, 8 x 256 tokens) for {n.seconds:.0f} s "
                f"({n.tokens:,} tokens, {n.threads} thread(s)) reaches a test perplexity of "
                f"{n.test.perplexity:.3f} ({n.test.bits_per_byte:.4f} bits per byte).",
            ]
        parts.append(
            f"Weights are stored as float16; load with `dtype=torch.float32` on a CPU. {CORPORA[self.corpus].licence}"
        )
        return "\n\n".join(parts) + "\n"


def _kinds_table(kinds: Mapping[str, Score]) -> list[str]:
    """Test scores of each kind of text in lines of Markdown."""
    rows = [
        f"| {kind} | {score.perplexity:.3f} ({score.nll:.4f} nats) | {score.bits_per_byte:.4f} | {score.tokens:,} |"
        for kind, score in kinds.items()
    ]
    return ["| kind | test perplexity per token | bits per byte | tokens |", "|---|---|---|---|", *rows]
