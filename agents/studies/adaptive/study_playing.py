"""One cell: an arm goes through the stages of training, and is measured at the end of each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from itertools import pairwise

import gymnasium as gym
import torch
from torch import Tensor

from plasticity_env.agents.studies.adaptive.study_arms import Arm, Decider
from plasticity_env.agents.studies.adaptive.study_cells import Cell, StageRecord
from plasticity_env.agents.studies.adaptive.study_setting import Setting
from plasticity_env.data.text import TextSplits
from plasticity_env.envs.base import PlasticityEnv
from plasticity_env.envs.observation import Observation
from plasticity_env.model.loading import LoadedModel

PRICE = 4.0  # as observed; nothing here is paid for FLOPs
STREAMS = 1000  # apart lie the streams of two stages, so that no text order comes twice


def play(
    arm: Arm,
    loaded: LoadedModel,
    texts: Mapping[str, TextSplits],
    setting: Setting,
    seed: int,
    control: Cell | None,
) -> Cell:
    """Play one cell; the model comes out as it went in.

    Args:
        arm: Arm that decides.
        loaded: The model, dense.
        texts: Texts by domain, cut into the setting's blocks.
        setting: What all arms share.
        seed: Fixes calibration and reward blocks, training order and random choices, alike for all arms.
        control: The control arm's cell of this seed, whose losses are the reference of observations; None for itself.

    Raises:
        InputError: A setting that does not fit the model or its texts.
    """
    began, dense = time.monotonic(), loaded.model.snapshot()
    decide, records = arm.decider(seed), []
    try:
        env = _make(arm, loaded, texts, setting)
        observation, info = env.reset(seed=seed, options={"stream": seed})
        start = _test(env, texts, setting)
        for number, domain in enumerate(setting.path):
            if number:
                reference = None if control is None else control.stages[number].losses
                stream = {"stream": seed + STREAMS * number}
                observation, info = env.go_on(texts[domain], reference, seed=seed, options=stream)
            records.append(_play_stage(env, decide, observation, info["loss"], domain, texts, setting, seed))
        named = {domain: text.name for domain, text in texts.items()}
        seconds = round(time.monotonic() - began, 1)
        return Cell(loaded.name, setting, arm.name, seed, named, start, records, seconds, arm.fingerprint)
    finally:
        loaded.model.restore(dense)


def _make(arm: Arm, loaded: LoadedModel, texts: Mapping[str, TextSplits], setting: Setting) -> PlasticityEnv:
    shared = {
        "horizon": setting.decisions,
        "max_sparsity": 1.0,
        "flop_price": PRICE,
        "train_steps": setting.train_steps,
        "learning_rate": setting.learning_rate,
        "batch_size": setting.batch_size,
        "max_length": setting.block_size,
        "repair": setting.repair,
        "calibration_blocks": setting.calibration_blocks,
        "reward_blocks": setting.reward_blocks,
    }
    text = texts[setting.path[0]]
    env = gym.make(arm.env_id, loaded=loaded, text=text, disable_env_checker=True, **{**shared, **arm.settings})
    return env.unwrapped  # type: ignore[return-value]


def _play_stage(
    env: PlasticityEnv,
    decide: Decider,
    observation: Observation,
    loss: float,
    domain: str,
    texts: Mapping[str, TextSplits],
    setting: Setting,
    seed: int,
) -> StageRecord:
    losses, masks, kept = [loss], [_mask(env)], 1.0
    for _ in range(setting.decisions):
        observation, _, _, _, info = env.step(decide(env, observation))
        losses.append(info["loss"])
        masks.append(_mask(env))
        kept = info["flops"] / env.dense_flops
    changes = [(after & ~before, before & ~after) for before, after in pairwise(masks)]
    back = masks[-1] & ~masks[0]
    closed, others = _ablate(env, back, texts[domain], setting, seed)
    return StageRecord(
        domain=domain,
        losses=losses,
        masks=["".join(map(str, mask.flatten().int().tolist())) for mask in masks[1:]],
        flops_kept=kept,
        prunes=sum(int(gone.sum()) for _, gone in changes),
        returns=sum(int(came.sum()) for came, _ in changes),
        test=_test(env, texts, setting),
        came_back=int(back.sum()),
        closed=closed,
        others=others,
    )


def _ablate(
    env: PlasticityEnv, back: Tensor, text: TextSplits, setting: Setting, seed: int
) -> tuple[float | None, float | None]:
    """Test losses with the heads that came back closed again, and with as many others closed instead."""
    active, count = _mask(env), int(back.sum())
    rest = (active & ~back).flatten().nonzero().flatten()
    if not count or not len(rest):
        return None, None
    closed = env.evaluate("test", setting.test_blocks, active & ~back, text)
    if len(rest) < count:
        return closed, None
    random, drawn = torch.Generator().manual_seed(seed), []
    for _ in range(setting.draws):
        mask = active.clone()
        mask.view(-1)[rest[torch.randperm(len(rest), generator=random)[:count]]] = False
        drawn.append(env.evaluate("test", setting.test_blocks, mask, text))
    return closed, statistics.fmean(drawn)


def _test(env: PlasticityEnv, texts: Mapping[str, TextSplits], setting: Setting) -> dict[str, float]:
    return {domain: env.evaluate("test", setting.test_blocks, text=text) for domain, text in texts.items()}


def _mask(env: PlasticityEnv) -> Tensor:
    return env.model.active
