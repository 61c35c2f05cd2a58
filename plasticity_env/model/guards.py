"""No way around the wrapper: what stock calls on the wrapped model would do behind its back is refused, or does the right thing.

Each attention module refuses to run under another attention implementation while gates are closed or a pass measures, and
``save_pretrained`` of the stock model writes the masked weights, which is what was measured.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from plasticity_env.common.errors import InputError
from plasticity_env.model.attention import IMPLEMENTATION, LayerGate


def refuse_other_attention(module: nn.Module, args: Any) -> None:
    """Forward pre-hook on an attention module.

    Raises:
        InputError: Its configuration names an attention implementation that knows no gates, and gates are closed.
    """
    link = getattr(module, "plastic", None)
    if not isinstance(link, LayerGate) or (link.state.gates is None and link.state.recorder is None):
        return
    implementation = module.config._attn_implementation  # type: ignore[union-attr]
    if implementation != IMPLEMENTATION:
        raise InputError(
            f"attention is set to {implementation!r}, which knows no gates, so that pruned heads would come back: call "
            f"set_attn_implementation({IMPLEMENTATION!r}); attention patterns come from plasticity_env.attention_maps"
        )


def save_masked(model: nn.Module, masked: Callable[[], dict[str, Tensor]]) -> None:
    """Let the stock model's ``save_pretrained`` write the masked weights.

    Args:
        model: The Hugging Face model.
        masked: Makes them, under stock names; may refuse.
    """
    stock = type(model).save_pretrained  # type: ignore[union-attr]

    def save_pretrained(
        save_directory: Any, *args: Any, state_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        return stock(model, save_directory, *args, state_dict=masked() if state_dict is None else state_dict, **kwargs)

    model.save_pretrained = partial(save_pretrained)  # type: ignore[assignment]
