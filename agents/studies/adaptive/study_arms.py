"""The arms: who decides, on which environment; training and text are the same for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from plasticity_env import controllers
from plasticity_env.agents.leaderboard.players import Player, fingerprint
from plasticity_env.agents.studies.adaptive.searching import SwapSearch
from plasticity_env.agents.studies.adaptive.study_setting import Setting
from plasticity_env.common.errors import InputError, unknown
from plasticity_env.controllers.base import Action, Controller
from plasticity_env.controllers.reviving import RevivingController
from plasticity_env.envs.base import PlasticityEnv
from plasticity_env.envs.observation import Observation

HEADS, RANK = "plasticity/Heads-v1", "plasticity/HeadRank-v1"
SCORE = "fisher"


class Decider(Protocol):
    """Decides in an environment."""

    def __call__(self, env: PlasticityEnv, observation: Observation) -> Action: ...


@dataclass(frozen=True)
class Arm:
    """One way to decide.

    Attributes:
        name: Name in cells and tables.
        env_id: The environment.
        settings: Settings of the environment, beside the study's.
        decider: Makes what decides, afresh for a seed.
        fingerprint: Fingerprint of the network that decides; empty where the name says all.
    """

    name: str
    env_id: str
    decider: Callable[[int], Decider]
    settings: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""


@dataclass(frozen=True)
class Kind:
    """A family of arms; ``ARMS`` names them.

    Attributes:
        what: One line of explanation.
        make: Makes the arm of a name, an option and a setting.
        takes: What its option is ("" for none).
    """

    what: str
    make: Callable[[str, str, Setting], Arm]
    takes: str = ""


def make_arm(name: str, setting: Setting) -> Arm:
    """The arm of a name such as "once", "rule:residual_fisher" or "ann:runs/my_run/controller".

    Raises:
        InputError: No such arm, or an option that it does not take.
    """
    kind, _, option = name.partition(":")
    if kind not in ARMS:
        raise unknown("arm", kind, ARMS)
    if option and not ARMS[kind].takes:
        raise InputError(f"arm {kind!r} takes no option, got {name!r}")
    return ARMS[kind].make(name, option, setting)


def _watching(make: Callable[[], Controller]) -> Callable[[int], Decider]:
    """A decider that only reads observations."""

    def decider(seed: int) -> Decider:
        controller = make()
        controller.reset(seed)
        return lambda env, observation: controller.act(observation)

    make()  # an option that does not fit is an error now
    return decider


def _control(name: str, option: str, setting: Setting) -> Arm:
    return Arm(name, HEADS, _watching(controllers.KeepAll))


def _once(name: str, option: str, setting: Setting) -> Arm:
    return Arm(name, HEADS, _watching(lambda: controllers.make(option or SCORE, sparsity=setting.share)))


def _compressed(name: str, option: str, setting: Setting) -> Arm:
    return _rank(name, lambda: controllers.make(option or SCORE), setting, mode="compressed")


def _rule(name: str, option: str, setting: Setting) -> Arm:
    return _rank(name, lambda: RevivingController(option or SCORE), setting)


def _grow(name: str, option: str, setting: Setting) -> Arm:
    def make() -> Controller:
        return RevivingController(option or SCORE, setting.share, setting.decisions, returns="grow")

    return Arm(name, HEADS, _watching(make), {"growth_init": "transfer"})


def _plasticity(name: str, option: str, setting: Setting) -> Arm:
    return _rank(name, controllers.PlasticityController, setting)


def _thresholds(name: str, option: str, setting: Setting) -> Arm:
    return Arm(name, HEADS, _watching(controllers.PlasticityController), {"max_sparsity": setting.share})


def _search(name: str, option: str, setting: Setting) -> Arm:
    SwapSearch(option or SCORE)  # a score that there is not is an error now
    return Arm(name, RANK, lambda seed: SwapSearch(option or SCORE, seed=seed), {"pruned_share": setting.share})


def _ann(name: str, option: str, setting: Setting, mode: str = "adaptive") -> Arm:
    controller = controllers.load(option) if option else controllers.make("ann")
    if isinstance(controller, controllers.ANNController) and not controller.info:
        raise InputError(f"arm {name!r} needs a trained controller: name the folder of a saved one, ann:FOLDER")
    arm = _rank(name, lambda: controller, setting, mode=mode)
    return replace(arm, fingerprint=fingerprint(Player("ann", option), controller))


def _ann_fixed(name: str, option: str, setting: Setting) -> Arm:
    return _ann(name, option, setting, mode="compressed")


def _rank(name: str, make: Callable[[], Controller], setting: Setting, **settings: Any) -> Arm:
    return Arm(name, RANK, _watching(make), {"pruned_share": setting.share, **settings})


ARMS: dict[str, Kind] = {
    "control": Kind("nothing is pruned", _control),
    "once": Kind("the lowest-scored heads go at the first decision, all at once", _once, "score"),
    "compressed": Kind("the lowest-scored heads go over the first stage, permanently", _compressed, "score"),
    "rule": Kind(
        "the same, and at every decision pruned heads stand for choice beside the active ones", _rule, "score"
    ),
    "grow": Kind("the same, and what comes back has new weights (U-Net transfer)", _grow, "score"),
    "plasticity": Kind("`PlasticityController`, its urgency read as a ranking", _plasticity),
    "thresholds": Kind("`PlasticityController` with free hand up to the share", _thresholds),
    "search": Kind(
        "as `compressed`, then swaps of a pruned and an active head that lower the measured loss", _search, "score"
    ),
    "ann": Kind(
        "a trained network (the shipped one unless a folder is named) ranks all heads at every decision", _ann, "folder"
    ),
    "ann_fixed": Kind("the same network, and nothing comes back", _ann_fixed, "folder"),
}
