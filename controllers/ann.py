"""ANNController: the trainable network as a controller, and its file format (safetensors + JSON)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from controllers.network import HeadNetwork, NetworkConfig
from controllers.protocol import Action, RankedController, allowed_edits, as_scores, wants_scores
from plasticity_env.edits import KEEP, PRUNE
from plasticity_env.errors import InputError
from plasticity_env.files import replace_file, write_text
from plasticity_env.observation import Observation

WEIGHTS, CONFIG = "controller.safetensors", "controller.json"
FORMAT = 1


class ANNController(RankedController):
    """Decides with a `HeadNetwork`.

    With ``sparsity`` None it plays its own policy and chooses for itself how much to prune, given the price that it
    observes. With a sparsity it prunes that share in ``rounds`` decisions, by its logits of pruning over keeping. On HeadRank,
    which has a target of its own, these logits are its scores; without a sparsity pruned heads may come back.

    Args:
        network: The network; a fresh one when None.
        sparsity: None, or the share of heads to prune.
        rounds: With a sparsity, decisions over which to spread it.
        deterministic: Take the likeliest edit instead of sampling.
        info: What is known of the training, saved with the weights.
    """

    name = "ann"

    def __init__(
        self,
        network: HeadNetwork | None = None,
        sparsity: float | None = None,
        rounds: int = 1,
        deterministic: bool = True,
        info: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(0.0 if sparsity is None else sparsity, rounds)
        self.network = HeadNetwork(NetworkConfig()) if network is None else network
        self.free = sparsity is None
        self.deterministic = deterministic
        self.info = dict(info or {})
        self.reset(0)

    def importance(self, observation: Observation) -> np.ndarray:
        logits, _ = self._logits(observation)
        return (logits[:, KEEP] - logits[:, PRUNE]).numpy()

    def act(self, observation: Observation) -> Action:
        if not self.free:
            return super().act(observation)
        if wants_scores(observation):
            return as_scores(self.importance(observation), np.ones(len(observation["heads"]), dtype=bool))
        edits, stop = self._logits(observation)
        if observation["action_mask"].ndim == 2:
            allowed = torch.from_numpy(allowed_edits(observation))
            return self._choose(edits.masked_fill(~allowed, -torch.inf)).astype(np.int64)
        joint = torch.cat([stop[None], (edits[:, 1:] - edits[:, :1]).T.flatten()])  # (1 + 3N,)
        allowed = torch.from_numpy(observation["action_mask"].astype(bool))
        return int(self._choose(joint.masked_fill(~allowed, -torch.inf)))

    def _choose(self, logits: Tensor) -> np.ndarray:
        if self.deterministic:
            return logits.argmax(-1).numpy()
        gumbel = self.random.gumbel(size=tuple(logits.shape))
        return (logits.numpy() + gumbel).argmax(-1)

    @torch.no_grad()
    def _logits(self, observation: Observation) -> tuple[Tensor, Tensor]:
        device = next(self.network.parameters()).device
        heads = torch.from_numpy(observation["heads"])[None].to(device)
        globals_ = torch.from_numpy(observation["globals"])[None].to(device)
        output = self.network(heads, globals_)
        return output.edits[0].float().cpu(), output.stop[0].float().cpu()

    def save(self, folder: str | Path) -> None:
        """Write ``controller.safetensors`` and ``controller.json`` into a folder."""
        folder = Path(folder)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        replace_file(folder / WEIGHTS, lambda path: save_file(weights, path))
        description = {"format": FORMAT, "network": self.network.config.to_json(), "info": self.info}
        write_text(folder / CONFIG, json.dumps(description, indent=1))

    @classmethod
    def load(cls, folder: str | Path, **options: Any) -> ANNController:
        """Read what `save` wrote.

        Args:
            folder: Where.
            **options: ``sparsity``, ``rounds``, ``deterministic`` of the controller.

        Raises:
            InputError: No controller there, of another format, with other features, or of another shape.
        """
        folder = Path(folder)
        if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
            raise InputError(
                f"no controller at {str(folder)!r}: give a folder with {WEIGHTS} and {CONFIG}, "
                "as scripts/train_controller.py writes it"
            )
        try:
            description = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            if description["format"] != FORMAT:
                raise InputError(f"{str(folder)!r} has controller format {description['format']}, known is {FORMAT}")
            network = HeadNetwork(NetworkConfig.from_json(description["network"]))
            network.load_state_dict(load_file(folder / WEIGHTS))
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0][:160]
            raise InputError(
                f"{str(folder)!r} does not hold a controller of the shape that it states ({reason})"
            ) from error
        return cls(network.eval(), info=description.get("info"), **options)
