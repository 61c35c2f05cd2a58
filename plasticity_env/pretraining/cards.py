"""A model's card: what it is, what it cost, how good it is, what each head is worth; as card.json and README.md."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from plasticity_env.pretraining.corpus import LICENCE
from plasticity_env.pretraining.evaluation import Score


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


@dataclass(frozen=True)
class Comparison:
    """The naive run beside this model: same shape, same tokenizer, plain AdamW; its cost and its test score."""

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
    licence: str = f"Weights: as the package. Text: {LICENCE}"
    naive: Comparison | None = None

    def save(self, folder: Path) -> None:
        """Write card.json and README.md into the model's folder."""
        (folder / "card.json").write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(self.readme(), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Card:
        """Read card.json back."""
        fields = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        fields["training"] = Training(**fields["training"])
        fields["test"] = Score(**fields["test"])
        fields["ablation"] = Ablation(**fields["ablation"])
        if fields["naive"] is not None:
            fields["naive"] = Comparison(**fields["naive"] | {"test": Score(**fields["naive"]["test"])})
        return cls(**fields)

    def readme(self) -> str:
        """The card for people, in Markdown."""
        t, a = self.training, self.ablation
        rows = [
            ("architecture", self.architecture),
            ("layers x heads x KV heads", f"{self.layers} x {self.heads} x {self.kv_heads}"),
            ("head dim, width, inner", f"{self.head_dim}, {self.width}, {self.inner}"),
            ("parameters", f"{self.parameters:,}"),
            ("vocabulary, positions", f"{self.vocabulary}, {self.positions}"),
            ("trained on", f"{t.tokens:,} tokens ({t.epochs:.2f} epochs, {t.steps} steps), recipe `{t.recipe}`"),
            ("training time", f"{t.seconds:.0f} s, {t.threads} thread(s), {t.device}, seed {t.seed}"),
            ("test perplexity per token", f"{self.test.perplexity:.3f} ({self.test.nll:.4f} nats)"),
            ("test bits per byte", f"{self.test.bits_per_byte:.4f}"),
            ("sha256 of model.safetensors", f"`{self.sha256}`"),
        ]
        lines = [f"# {self.name}", "", f"A small {self.architecture} language model, pretrained on Shakespeare.", ""]
        if self.held_out:
            lines += ["**Held out**: this family is never used to train a controller, only to test one.", ""]
        lines += ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows), ""]
        lines += [
            f"Test: the whole test split in {self.test.tokens // (self.test.block_length - 1)} packed blocks of "
            f"{self.test.block_length} tokens, float32, first token of a block not scored "
            f"({self.test.tokens:,} tokens). Per byte is per character: the texts are ASCII.",
            "",
            f"## What each head is worth\n\nRise in nats per token when one head alone is silenced, on the first "
            f"{a.blocks} blocks of the {a.split} split: min {a.min:.4f}, median {a.median:.4f}, max {a.max:.4f}, "
            f"std {a.std:.4f}.",
            "",
            "| layer | " + " | ".join(f"head {h}" for h in range(self.heads)) + " |",
            "|---" * (self.heads + 1) + "|",
            *(f"| {i} | " + " | ".join(f"{d:.4f}" for d in row) + " |" for i, row in enumerate(a.deltas)),
            "",
        ]
        if self.naive is not None:
            n = self.naive
            lines += [
                "## Against naive training\n",
                f"The same shape trained naively (AdamW, constant 3e-4, 8 x 256 tokens) for {n.seconds:.0f} s "
                f"({n.tokens:,} tokens, {n.threads} thread(s)) reaches a test perplexity of {n.test.perplexity:.3f} "
                f"({n.test.bits_per_byte:.4f} bits per byte).",
                "",
            ]
        lines += [f"Weights are stored as float16; load with `dtype=torch.float32` on a CPU. {LICENCE}", ""]
        return "\n".join(lines)
