"""A running estimate of a stream: what it said lately, and a prior that stands for what it has not said yet."""

from __future__ import annotations

from plasticity_env.common.values import check_number
from plasticity_env.dynamic.fitting import fit_structures
from plasticity_env.dynamic.structure import Structure
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.text_sums import TextSums


class RunningEstimate:
    """Sums of a prior text, which count as so many tokens, and of the chunks that were measured.

    Args:
        prior: Sums of a mixture of texts, with gradients.
        prior_tokens: How many tokens of the stream the prior counts for.
        forget: What a chunk still counts for when the next one is measured, in [0, 1].

    Raises:
        InputError: A number outside its range.
    """

    def __init__(self, prior: TextSums, prior_tokens: float = 2048.0, forget: float = 0.8) -> None:
        check_number("prior_tokens", prior_tokens, 1)
        check_number("forget", forget, 0, 1)
        self._prior, self._forget = prior * (prior_tokens / prior.tokens), forget
        self._own: TextSums | None = None

    def add(self, chunk: TextSums) -> None:
        """Take in the sums of another chunk."""
        self._own = chunk if self._own is None else self._own * self._forget + chunk

    def clear(self) -> None:
        """Forget the stream."""
        self._own = None

    @property
    def sums(self) -> TextSums:
        """Prior and stream together."""
        return self._prior if self._own is None else self._prior + self._own

    def structure(self, model: PlasticModel, share: float, seq_len: int, name: str = "measured") -> Structure:
        """The structure that the estimate asks for.

        Args:
            model: The dense model.
            share: Share of the units that go.
            seq_len: Tokens of a chunk, on which the FLOPs of a head depend.
            name: What it is called.
        """
        (found,) = fit_structures(model, self.sums, (share,), seq_len, name)
        return found


def measuring_flops(model: PlasticModel, tokens: int, flops_per_token: float) -> float:
    """FLOPs of measuring a chunk and fitting a structure to it.

    A forward and a backward (twice a forward) of the dense model over its tokens, and at each site some 12 I^3 for second
    moments, their inverse, the elimination and the repair (I inputs).

    Args:
        model: The model.
        tokens: Number of tokens in the chunk.
        flops_per_token: FLOPs of the dense model's forward pass per token.
    """
    algebra = sum(12.0 * site.output_weight().shape[0] ** 3 for site in model.sites if site.gated)
    return 3.0 * tokens * flops_per_token + algebra
