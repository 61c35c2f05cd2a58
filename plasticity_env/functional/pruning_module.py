"""PruningModule: load a model by name, close heads, see what it costs; for a first look."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from plasticity_env.common.errors import InputError
from plasticity_env.data.text import load_text, pack
from plasticity_env.functional.functions import apply_pruning_mask
from plasticity_env.model.loading import LoadedModel, load_model
from plasticity_env.model.modes import PruningMode
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.text_loss import Data, evaluate_model


class PruningModule:
    """A language model by name, whose heads can be zeroed and brought back.

    Args:
        model_name: What `load_model` takes; loaded when first needed.
        device: Device that the model goes to.
        mode: Whether zeroed heads may come back.

    Example::

        module = PruningModule("bard-gpt2-4x4")
        before = module.evaluate(text)["perplexity"]
        module.zero_heads([(0, 1), (2, 3)])
        after = module.evaluate(text)["perplexity"]
    """

    def __init__(
        self,
        model_name: str = "bard-gpt2-4x4",
        device: str | torch.device = "cpu",
        mode: str | PruningMode = PruningMode.ADAPTIVE,
    ) -> None:
        self.model_name, self.device, self.mode = model_name, device, PruningMode.parse(mode)
        self._loaded: LoadedModel | None = None

    def load(self) -> LoadedModel:
        """Load the model, if that was not done.

        Raises:
            InputError: Nothing of this name, or no such device.
        """
        if self._loaded is None:
            self._loaded = load_model(self.model_name, mode=self.mode, device=self.device)
        return self._loaded

    @property
    def model(self) -> PlasticModel:
        """The wrapped model."""
        return self.load().model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self.load().tokenizer

    @property
    def num_layers(self) -> int:
        """Number L of layers."""
        return self.model.shape[0]

    @property
    def num_heads(self) -> int:
        """H, query heads a layer."""
        return self.model.heads

    def zero_heads(self, heads: Tensor | Iterable[tuple[int, int]]) -> None:
        """Close the gates of heads.

        Args:
            heads: (L, H) boolean mask, True = zero; or (layer, head) pairs.

        Raises:
            InputError: A head that the model has not, or no head would be left.
        """
        apply_pruning_mask(self.model, self._mask(heads))

    def restore_heads(self, heads: Tensor | Iterable[tuple[int, int]] | None = None) -> None:
        """Open heads again with the weights that they had; all of them when None.

        Raises:
            InputError: A head that the model has not, or the mode is compressed.
        """
        self.model.revive(~self.model.active if heads is None else self._mask(heads))

    @property
    def active_heads(self) -> list[tuple[int, int]]:
        """(layer, head) of every open head."""
        heads = self.model.active[:, : self.num_heads]
        return [(layer, head) for layer, head in heads.nonzero().tolist()]

    @property
    def params(self) -> dict[str, Tensor]:
        """The model's weights by name; the tensors themselves, no copies."""
        return dict(self.model.named_parameters())

    def calibration_ids(self, blocks: int = 16, max_length: int = 128) -> Tensor:
        """(blocks, max_length) token ids to measure heads on: the calibration split of the embedded Shakespeare text."""
        return load_text("shakespeare", self.tokenizer, block_size=max_length).blocks("calibration")[:blocks]

    def evaluate(self, data: str | Data, max_length: int = 128, batch_size: int = 8) -> dict[str, float]:
        """Loss and perplexity as the model is.

        Args:
            data: A text, cut into full blocks (all of it is one block where it is shorter); or what `evaluate_model` takes.
            max_length: Tokens a block of a text.
            batch_size: Sequences in one pass.

        Returns:
            What `evaluate_model` returns.

        Raises:
            InputError: A text of fewer than two tokens, or nothing to read.
        """
        if isinstance(data, str):
            blocks = pack(self.tokenizer, data, max_length)
            data = blocks if len(blocks) else self.tokenizer(data, return_tensors="pt")["input_ids"].long()
        return evaluate_model(self.model, data, batch_size=batch_size)

    @torch.no_grad()
    def generate(self, prompt: str, max_new_tokens: int = 40) -> str:
        """What the model makes of a prompt, greedily: prompt and continuation."""
        words = self.tokenizer(prompt, return_tensors="pt").to(self.model.device)
        out = self.model.generate(**words, max_new_tokens=max_new_tokens, do_sample=False)
        return str(self.tokenizer.decode(out[0], skip_special_tokens=True))

    def _mask(self, heads: Tensor | Iterable[tuple[int, int]]) -> Tensor:
        if isinstance(heads, Tensor):
            return heads
        mask = torch.zeros(self.num_layers, self.num_heads, dtype=torch.bool)
        for layer, head in heads:
            if not (0 <= layer < self.num_layers and 0 <= head < self.num_heads):
                raise InputError(
                    f"{self.model_name!r} has no head {head} in layer {layer}: it has layers 0 to {self.num_layers - 1} of "
                    f"heads 0 to {self.num_heads - 1}"
                )
            mask[layer, head] = True
        return mask
