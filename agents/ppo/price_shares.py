"""How much a ranking should prune at which price: the share least regretted on any of the models that it was trained on."""

from __future__ import annotations

import numpy as np

from plasticity_env.agents.ppo.scenarios import Stage, choose_by
from plasticity_env.controllers.ann import ANNController

PRICES = tuple(float(price) for price in np.geomspace(1.0, 16.0, 8))
SHARES = tuple(share / 10 for share in range(1, 10))  # beyond the trained range, too: high prices want them
ROUNDS = 4  # decisions in which each is pruned
DRAWS = 3  # of blocks, a model


def price_shares(stage: Stage, controller: ANNController, seed: int = 0) -> list[tuple[float, float]]:
    """Play the range of shares on every model and choose for each price; nothing at all is a choice, too.

    Args:
        stage: Stage that holds the models.
        controller: Controller that plays.
        seed: Seed of the blocks.

    Returns:
        (price, share) pairs, prices rising.
    """
    random = np.random.default_rng([seed, 2])
    models = len(stage.models)
    rises, logs = np.zeros((2, models, len(SHARES) + 1))  # at share 0 nothing changes
    for number in range(DRAWS * models):
        scenario = stage.draw(random, number, 1, 0)
        for column, share in enumerate(SHARES, 1):
            played = stage.play(scenario.but(share=share, rounds=ROUNDS), choose_by([controller]), 1)
            rises[number % models, column] += played.rises[0] / DRAWS
            logs[number % models, column] += np.log(played.flops_kept[0]) / DRAWS
    return choose_shares(rises, logs)


def choose_shares(rises: np.ndarray, logs: np.ndarray) -> list[tuple[float, float]]:
    """The share of least regret at each price, on the model where it is regretted most; never less at a higher price.

    What a share pays is the default reward's: the fall of the loss minus price times the log of the FLOPs kept. A mean over
    models would let one that stands much pruning speak for one that does not.

    Args:
        rises: (models, 1 + shares) rise of the loss after pruning 0 and each of `SHARES`, nats per token.
        logs: (models, 1 + shares) log of the share of FLOPs kept.

    Returns:
        (price, share) pairs, prices rising.
    """
    choices, pairs, least = (0.0, *SHARES), [], 0
    for price in PRICES:
        pays = -rises - price * logs
        regret = (pays.max(1, keepdims=True) - pays).max(0)
        least = max(least, int(regret.argmin()))
        pairs.append((price, choices[least]))
    return pairs
