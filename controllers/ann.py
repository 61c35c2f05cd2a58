"""ANNController: the trainable network as a controller, and its file format (safetensors + JSON)."""

from __future__ import annotations

import json
from pathlib import Path
from pickle import PickleError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from plasticity_env.common.digests import checked_folder, load_archive, write_manifest
from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.files import replace_file, write_text
from plasticity_env.common.values import user_path
from plasticity_env.controllers.base import Action, RankedController, allowed_edits, as_scores, wants_scores
from plasticity_env.controllers.hub_files import CONFIG, WEIGHTS, HubController
from plasticity_env.controllers.network import HeadNetwork, NetworkConfig
from plasticity_env.envs.edits import KEEP, PRUNE
from plasticity_env.envs.observation import Observation, global_columns, global_value, head_column, kind_of
from plasticity_env.signals.slopes import KINDS, SCORES

FORMAT = 1
SETTINGS = {  # column -> the environment's setting that measures it
    "obs_z": "obs_signal",
    **{f"{kind}_{score}_z": f"{kind}_signal" for kind in KINDS for score in SCORES},
    "residual_fisher_per_flop_z": "residual_signal",
    "residual_stepwise_per_flop_z": "residual_signal",
    **{f"crossfit_{score}_per_flop_z": "crossfit_signal" for score in ("token_fisher", "kfac", "stepwise")},
}


class ANNController(RankedController, HubController):
    """Decides with a `HeadNetwork`.

    With ``sparsity`` None it plays its own policy and chooses for itself how much to prune, given the price that it
    observes. With a sparsity it prunes that share in ``rounds`` decisions, by its logits of pruning over keeping. On HeadRank,
    which has a target of its own, these logits are its scores; without a sparsity pruned heads may come back.

    A controller that was trained on HeadRank knows which heads matter, not how many. Where it is to choose the share itself, it
    takes the one least regretted at the observed price on any model that it was trained on (``price_shares`` of its info),
    and prunes it over the episode.

    Args:
        network: The network; a fresh one when None.
        sparsity: None, or the share of heads to prune.
        rounds: With a sparsity, decisions over which to spread it.
        deterministic: Take the likeliest edit instead of sampling.
        info: What is known of the training, saved with the weights.
    """

    name = "ann"
    per_flop = False  # the network sees what a unit costs

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
        self._checked = False
        self.reset(0)

    def importance(self, observation: Observation) -> np.ndarray:
        if "price_shares" in self.info and not wants_scores(observation):
            observation = self._with_shares(observation)
        logits, _ = self._logits(observation)
        return (logits[:, KEEP] - logits[:, PRUNE]).numpy()

    def act(self, observation: Observation) -> Action:
        self.check(observation)
        if not self.free:
            return super().act(observation)
        if "price_shares" in self.info and not wants_scores(observation):
            return self._act_by_price(observation)
        if wants_scores(observation):
            return as_scores(self.importance(observation), np.ones(len(observation["heads"]), dtype=bool))
        edits, stop = self._logits(observation)
        if kind_of(observation) == "heads":
            allowed = torch.from_numpy(allowed_edits(observation))
            return self._choose(edits.masked_fill(~allowed, -torch.inf)).astype(np.int64)
        joint = torch.cat([stop[None], (edits[:, 1:] - edits[:, :1]).T.flatten()])  # (1 + 3N,)
        allowed = torch.from_numpy(observation["action_mask"].astype(bool))
        return int(self._choose(joint.masked_fill(~allowed, -torch.inf)))

    def share_at(self, price: float) -> float:
        """The share of units that a controller of HeadRank takes for the best at a price.

        Raises:
            InputError: If it was not trained on HeadRank.
        """
        if "price_shares" not in self.info:
            raise InputError(
                "the controller was not trained to prune a given share: it plays prices on plasticity/Heads-v1"
            )
        prices, shares = zip(*self.info["price_shares"], strict=True)
        return float(np.interp(np.log(price), np.log(prices), shares))

    def _act_by_price(self, observation: Observation) -> Action:
        self.sparsity = self.share_at(float(np.exp(global_value(observation, "log_flop_price"))))
        self.rounds = max(1, round(global_value(observation, "horizon")))
        return super().act(observation)

    def _with_shares(self, observation: Observation) -> Observation:
        """What HeadRank would show of the target and of this round's part, where this controller sets both."""
        active = head_column(observation, "active") > 0.5
        shown = observation["globals"].copy()
        due = self._due(observation, np.ones(len(active))) / len(active)
        shown[global_columns(("target_share", "due_share"))] = self.sparsity, due
        return observation.but(globals=shown)

    def check(self, observation: Observation) -> None:
        """Refuse an environment that does not measure what the network was trained to read.

        Raises:
            InputError: The network does not fit.
        """
        if self._checked or (head_column(observation, "active") > 0.5).sum() < 2:
            return  # of one head alone, normalised columns tell nothing
        for column, setting in SETTINGS.items():
            reads = column in self.network.config.head_features and setting in self.info.get("signals", ())
            if reads and not head_column(observation, column).any():
                raise InputError(
                    f"the controller was trained on {column!r}, which the environment does not measure: make it with "
                    f"{setting}=True, or use another controller"
                )
        self._checked = True

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
        """Write ``controller.safetensors`` and ``controller.json`` into a folder.

        Raises:
            InputError: Weights that are not finite; nothing is written.
        """
        folder = user_path(folder, "the folder of a controller")
        self._check_weights()
        weights = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        replace_file(folder / WEIGHTS, lambda path: save_file(weights, path))
        description = {"format": FORMAT, "network": self.network.config.to_json(), "info": self.info}
        write_text(folder / CONFIG, json.dumps(description, indent=1))
        write_manifest(folder, WEIGHTS, CONFIG)

    @classmethod
    def load(cls, folder: str | Path, **options: Any) -> ANNController:
        """Read what `save` wrote, or the ``controller.pt`` of an online run.

        Args:
            folder: A folder; or a ``.pt`` file of the network's weights, read with ``weights_only=True``. The network's
                shape is that of the folder ``controller`` beside the file, where there is one, else a fresh network's.
            **options: ``sparsity``, ``rounds``, ``deterministic`` of the controller.

        Raises:
            InputError: No controller there, of another format, with other features, of another shape, or with weights that
                are not finite.
        """
        folder = user_path(folder, "the folder of a controller")
        if folder.suffix in (".pt", ".pth") and folder.is_file():
            return cls._of_weights(folder, options)
        if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
            raise InputError(
                f"no controller at {str(folder)!r}: give a folder with {WEIGHTS} and {CONFIG}, "
                "as scripts/train_controller.py writes it"
            )
        try:
            with checked_folder(folder):
                description = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
                if description["format"] != FORMAT:
                    raise InputError(f"it has controller format {description['format']}, known is {FORMAT}")
                network = HeadNetwork(NetworkConfig.from_json(description["network"]))
                network.load_state_dict(load_file(folder / WEIGHTS))
                found = cls(network.eval(), info=description.get("info"), **options)
                found._check_weights()
        except InputError as error:
            raise InputError(f"{str(folder)!r}: {error}") from error
        except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError, SafetensorError) as error:
            reason = first_line(error)
            raise InputError(
                f"{str(folder)!r} does not hold a controller of the shape that it states ({reason})"
            ) from error
        return found

    @classmethod
    def _of_weights(cls, path: Path, options: dict[str, Any]) -> ANNController:
        beside, info = path.parent / "controller" / CONFIG, None
        try:
            config = NetworkConfig()
            if beside.is_file():
                description = json.loads(beside.read_text(encoding="utf-8"))
                config, info = NetworkConfig.from_json(description["network"]), description.get("info")
            network = HeadNetwork(config)
            network.load_state_dict(load_archive(path))
        except InputError:
            raise
        except (OSError, EOFError, KeyError, TypeError, ValueError, AttributeError, RuntimeError, PickleError) as error:
            raise InputError(
                f"{str(path)!r} holds no weights of a controller of the shape that is expected ({first_line(error)}): give "
                "the controller's folder, which states its shape"
            ) from error
        found = cls(network.eval(), info=info, **options)
        found._check_weights()
        return found

    def _check_weights(self) -> None:
        if not all(bool(torch.isfinite(value).all()) for value in self.network.state_dict().values()):
            raise InputError("the network's weights are not finite: it diverged (lower the learning rate) or is broken")
