"""A policy that begins as a ranking: whoever the shipped ranking prunes first is likely to be pruned first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from plasticity_env.common.errors import InputError
from plasticity_env.controllers.ann import ANNController
from plasticity_env.controllers.network import HeadNetwork
from plasticity_env.controllers.shipped import DEFAULT, UNITS, shipped_folder
from plasticity_env.envs.edits import GROW, KEEP, PRUNE, REVIVE
from plasticity_env.envs.observation import Observation

RARE = 4.0  # logit of keeping a pruned head over either way back: a ranking knows nothing of them, so seldom at first
SHARP = 3.0  # the ranking's logits times this: few units far down the ranking are pruned to see what that does
START = "starts_from_ranking"  # in the controller's info: its bias waits for the first observation


def ranked_start(folder: Path | None = None, mlp_blocks: bool = False) -> ANNController:
    """A policy over all edits with the weights of a ranking; `calibrate` fits its bias to the first observation.

    Args:
        folder: Folder of a controller that was trained on HeadRank with a linear network; None: a shipped ranking.
        mlp_blocks: Whether blocks of MLP neurons are units too: the shipped ranking is then the one that was trained on both.

    Raises:
        InputError: No such controller, or another kind of network.
    """
    shipped = shipped_folder(UNITS if mlp_blocks else DEFAULT)
    ranking = ANNController.load(shipped if folder is None else folder)
    config = ranking.network.config
    if config.context != "linear":
        raise InputError(
            f"the controller in {str(folder)!r} ranks heads and does not decide how many go, and its network is not "
            "a linear one whose bias could decide it: give one trained with --env heads, or --from_scratch for a fresh network"
        )
    network = HeadNetwork(replace(config))
    network.load_state_dict(ranking.network.state_dict())
    with torch.no_grad():
        for values in (
            network.linear.weight,
            network.linear.bias,
        ):  # keep: 0, so that ways back do not hang on the rank
            values[PRUNE] -= values[KEEP].clone()
            values[PRUNE] *= SHARP
            values[[KEEP, REVIVE, GROW]] = 0.0
        network.linear.bias[[REVIVE, GROW]] = -RARE
    return ANNController(network.eval(), info={START: True})


@torch.no_grad()
def calibrate(controller: ANNController, observation: Observation, wanted: float) -> None:
    """Set the bias of pruning so that so many heads are expected to be pruned in this observation.

    Args:
        controller: A controller from `ranked_start`; others, and one that is calibrated already, are left as they are.
        observation: Observation of ``plasticity/Heads-v1``, whose mask says which heads may be pruned.
        wanted: Expected number of heads; at most half a head less than those that may be pruned.
    """
    if not controller.info.pop(START, False):
        return
    network = controller.network
    device = next(network.parameters()).device
    heads, globals_ = (torch.from_numpy(observation[name])[None].to(device) for name in ("heads", "globals"))
    logits = network(heads, globals_).edits[0].double().cpu().numpy()  # (N, 4)
    margin = (logits[:, PRUNE] - logits[:, KEEP])[observation["action_mask"][:, PRUNE] > 0]  # (n,)
    if not len(margin):
        return
    target = min(max(wanted, 0.5), len(margin) - 0.5)
    low, high = -float(margin.max()) - 30.0, -float(margin.min()) + 30.0
    for _ in range(60):
        middle = (low + high) / 2
        expected = float((1 / (1 + np.exp(-(margin + middle)))).sum())
        low, high = (middle, high) if expected < target else (low, middle)
    network.linear.bias[PRUNE] += (low + high) / 2
