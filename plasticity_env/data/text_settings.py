"""Which text is read, and how it is cut: the arguments that the environment, the cycle, the grid and the steps share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from plasticity_env.common.arguments import check_counts
from plasticity_env.common.errors import unknown
from plasticity_env.common.values import check_text, plain_value
from plasticity_env.data.documents import TEXT_SPLITS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from plasticity_env.data.text import TextSplits


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """Which text is read, and how it is cut into splits, blocks and batches; other settings are made of it.

    Attributes:
        dataset: Text: shakespeare (tiny_shakespeare is the same), a path, or a hub data set.
        dataset_config: Configuration of a hub data set.
        text_split: How a text without splits of its own is split: documents (each is dealt as a whole, by a hash, and draws
            take blocks of as many as they can), or leading (64 blocks of calibration, 64 of reward, then test and train), as
            version 0 of the environments does. The embedded text is split by play in any case.
        batch_size: Sequences in one pass (no measurement depends on it) and in one step of fine-tuning.
        max_length: Tokens per block.
    """

    dataset: str = "shakespeare"
    dataset_config: str | None = None
    text_split: str = "documents"
    batch_size: int = 8
    max_length: int = 128

    def __post_init__(self) -> None:
        for entry in fields(self):
            if "Path" not in str(entry.type):  # all but places: as JSON can hold it
                object.__setattr__(self, entry.name, plain_value(getattr(self, entry.name)))
        if self.dataset != "":  # where a command finds a text for the model that it is given
            check_text("dataset", self.dataset)
        if self.dataset_config is not None:
            check_text("dataset_config", self.dataset_config)
        if self.text_split not in TEXT_SPLITS:
            raise unknown("text_split", self.text_split, TEXT_SPLITS)
        check_counts(self, batch_size=1, max_length=2)

    def load(self, tokenizer: PreTrainedTokenizerBase) -> TextSplits:
        """The text, tokenised when its splits are first asked for.

        Raises:
            InputError: Nothing of this name, or a text too short for four splits.
        """
        from plasticity_env.data.text import load_text

        return load_text(
            self.dataset,
            tokenizer,
            dataset_config=self.dataset_config,
            block_size=self.max_length,
            text_split=self.text_split,
        )
