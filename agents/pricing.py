"""How much a ranking should prune at which price: the share that pays best on the models that it was trained on."""

from __future__ import annotations

import itertools

import numpy as np

from agents.scenarios import Stage
from controllers.ann import ANNController
from plasticity_env.observation import Observation

PRICES = tuple(float(price) for price in np.geomspace(1.0, 16.0, 8))
SHARES = tuple(share / 10 for share in range(1, 10))  # beyond the trained range, too: high prices want them
ROUNDS = 2  # decisions in which each is pruned


def price_shares(stage: Stage, controller: ANNController, seed: int = 0) -> list[tuple[float, float]]:
    """Play the range of shares on every model and choose for each price; nothing at all is a choice, too.

    What it pays is the default reward's: the fall of the loss minus price times the log of the FLOPs kept. The best share
    cannot fall with the price, since a higher price only rewards what keeps fewer FLOPs.

    Args:
        stage: With the models.
        controller: Plays.
        seed: Of the blocks.

    Returns:
        (price, share) pairs, prices rising.
    """
    random = np.random.default_rng([seed, 2])
    drawn = [stage.draw(random, number, 1, 0) for number in range(len(stage.models))]
    rises, logs = np.zeros((2, len(drawn), len(SHARES) + 1))  # at share 0 nothing changes
    for (row, scenario), (column, share) in itertools.product(enumerate(drawn), enumerate(SHARES, 1)):
        played = stage.play(scenario.but(share=share, rounds=ROUNDS), lambda o: _scores(controller, o), 1)
        rises[row, column], logs[row, column] = played.rises[0], np.log(played.flops_kept[0])
    choices = [0.0, *SHARES]
    return [(price, choices[int((-rises - price * logs).mean(0).argmax())]) for price in PRICES]


def _scores(controller: ANNController, observation: Observation) -> np.ndarray:
    return np.asarray(controller.act({name: values[0] for name, values in observation.items()}))[None]
