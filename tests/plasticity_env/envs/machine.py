"""A state machine that plays the four ids on toy models in any order of calls, and what must hold after each of them."""

from __future__ import annotations

import copy
import math
import pickle
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as from_seed
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from plasticity_env import GROW, PRUNE, REVIVE, InputError, load_plastic, save_plastic, validate
from tests.plasticity_env.envs.playing import same
from tests.plasticity_env.envs.plays import Play, arguments, potential
from tests.plasticity_env.envs.toy_models import BLOCKS, TOKENS, flops_by_hand, toy_model, toy_text

STEPS_AN_EXAMPLE = 25
SEEDS = st.integers(0, 2**16)
TALLY: Counter[str] = Counter()


def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def loss_of(logits: torch.Tensor, ids: torch.Tensor) -> float:
    return float(F.cross_entropy(logits[:, :-1].flatten(0, 1).double(), ids[:, 1:].flatten()))


class Machine(RuleBasedStateMachine):
    """Up to three environments that share a model where they are forks of a frozen one; one of them is played at a time."""

    @initialize(drawn=arguments(), seed=SEEDS)
    def make(self, drawn: tuple[str, str, dict[str, Any]], seed: int) -> None:
        self.architecture, self.env_id, self.values = drawn
        self.plays = [Play(self.fresh())]
        self.saved: tuple[Play, Any] | None = None
        TALLY[self.env_id] += 1
        TALLY["episodes that train" if self.values["train_steps"] else "frozen"] += 1
        self.play.begin(*self.play.env.reset(seed=seed))

    def fresh(self) -> Any:
        blocks = BLOCKS if self.values["units"] == "heads+mlp" else 0
        loaded = toy_model(self.architecture, blocks)
        return gym.make(self.env_id, loaded=loaded, text=toy_text(), **self.values).unwrapped

    @property
    def play(self) -> Play:
        return self.plays[-1]

    @property
    def trains(self) -> bool:
        return bool(self.values["train_steps"])

    def action(self, seed: int, masked: bool) -> Any:
        """A random action of the space; one that the mask allows."""
        space, random = self.play.env.action_space, np.random.default_rng(seed)
        mask = self.play.shown["action_mask"]
        if self.env_id.startswith("plasticity/HeadRank") or self.values.get("action") == "scores":
            return random.uniform(-1, 1, space.shape).astype(np.float32)
        if self.env_id.startswith("plasticity/HeadEdit"):
            choices = np.flatnonzero(mask) if masked else np.arange(space.n)
            stop = random.random() < 0.1 or len(choices) == 1
            return int(0 if stop else random.choice(choices[1:]))
        if self.env_id.startswith("plasticity/Levels"):
            offered = np.split(mask, np.cumsum(space.nvec)[:-1])
            return np.array([random.choice(np.flatnonzero(row) if masked else len(row)) for row in offered])
        if masked:
            return np.array([random.choice(np.flatnonzero(row)) for row in mask])
        return random.integers(0, 4, len(mask))

    # -- what is called, in any order --------------------------------------------------------------------------------

    @rule(seed=SEEDS)
    def reset(self, seed: int) -> None:
        TALLY["reset"] += 1
        self.play.begin(*self.play.env.reset(seed=seed))
        assert bool(self.play.state.active.all())

    @precondition(lambda self: not self.play.over)
    @rule(seed=SEEDS)
    def random_step(self, seed: int) -> None:
        self.step(seed, False)

    @precondition(lambda self: not self.play.over)
    @rule(seed=SEEDS)
    def masked_step(self, seed: int) -> None:
        self.step(seed, True)

    @precondition(lambda self: not self.play.over)
    @rule(seeds=st.lists(SEEDS, min_size=2, max_size=4))
    def several_steps(self, seeds: list[int]) -> None:
        for seed in seeds:
            if not self.play.over:
                self.step(seed, bool(seed % 2))

    def move(self, seed: int) -> None:
        """What nearly every rule begins with, so that few of them look at what was looked at before."""
        if seed % 4 == 0:
            return
        if self.play.over:
            self.reset(seed)
        else:
            self.step(seed, seed % 4 == 1)

    def step(self, seed: int, masked: bool) -> None:
        TALLY["masked step" if masked else "random step"] += 1
        action = self.action(seed, masked)
        before = self.play.state.active
        foreseen = self.play.env.preview(action)
        self.play.step(action)
        after = self.play.state.active
        assert torch.equal(foreseen, after)
        if masked and self.env_id.startswith("plasticity/HeadEdit"):
            assert self.play.info["invalid_actions"] == 0
            assert int((after != before).sum()) == (action > 0)

    @precondition(lambda self: self.play.over)
    @rule(seed=SEEDS)
    def step_past_the_end(self, seed: int) -> None:
        TALLY["step past the end"] += 1
        with pytest.raises(gym.error.ResetNeeded):
            self.play.env.step(self.action(seed, False))
        self.reset(seed)

    @rule(seed=SEEDS)
    def step_with_nonsense(self, seed: int) -> None:
        self.move(seed)
        if self.play.over:
            return
        TALLY["nonsense refused"] += 1
        with pytest.raises(InputError):
            self.play.env.step(np.full(99, 7.5))

    @precondition(lambda self: not self.play.over)
    @rule(way=st.sampled_from(("fork", "deepcopy", "pickle")), seed=SEEDS, keep=st.booleans())
    def branch(self, way: str, seed: int, keep: bool) -> None:
        """A copy does what the original does, and may be played beside it from then on."""
        TALLY[way] += 1
        env = self.play.env
        ways = {"fork": env.fork, "deepcopy": lambda: copy.deepcopy(env), "pickle": lambda: _pickled(env)}
        twin = self.play.twin(ways[way]())
        action = self.action(seed, True)
        assert same(twin.step(action), self.play.step(action))
        if keep and len(self.plays) < 3:
            self.plays.append(twin)

    @precondition(lambda self: len(self.plays) > 1)
    @rule(drop=st.booleans())
    def switch(self, drop: bool) -> None:
        TALLY["switch"] += 1
        last = self.plays.pop()
        self.plays += [] if drop else [self.plays.pop(0), last][::-1]
        self.saved = None

    @rule(seed=SEEDS)
    def save_state(self, seed: int) -> None:
        self.move(seed)
        TALLY["state saved"] += 1
        self.saved = self.play.twin(self.play.env), self.play.env.get_state()

    @precondition(lambda self: self.saved is not None and self.saved[0].env is self.play.env)
    @rule()
    def come_back(self) -> None:
        TALLY["state restored"] += 1
        assert self.saved is not None
        play, state = self.saved
        play.env.set_state(state)
        self.plays[-1] = play.twin(play.env)

    @precondition(lambda self: not self.play.over)
    @rule(first=SEEDS, second=SEEDS)
    def try_and_undo(self, first: int, second: int) -> None:
        """What a step pays does not depend on what was tried and undone before it."""
        TALLY["tried and undone"] += 1
        play, env = self.play, self.play.env
        state, kept = env.get_state(), play.twin(env)
        action, other = self.action(first, True), self.action(second, False)
        once = play.step(action)
        env.set_state(state)
        kept.twin(env).step(other)
        env.set_state(state)
        assert same(kept.step(action), once)
        self.plays[-1] = kept

    @precondition(lambda self: self.trains and self.play.over)
    @rule(seed=SEEDS)
    def go_on(self, seed: int) -> None:
        TALLY["gone on"] += 1
        before = self.play.state.active
        self.play.begin(*self.play.env.go_on(seed=seed))
        assert torch.equal(self.play.state.active, before)

    @rule(seed=SEEDS, own=st.booleans(), forget=st.booleans())
    def evaluate(self, seed: int, own: bool, forget: bool) -> None:
        """The present mask or another is evaluated, which leaves the episode as it is."""
        self.move(seed)
        TALLY["evaluated"] += 1
        env = self.play.env
        if forget:
            TALLY["memo emptied"] += 1
            env.workbench.forget()
        other = torch.from_numpy(np.random.default_rng(seed).random(self.play.state.active.shape) < 0.7)
        other[:, 0] = True
        loss = env.evaluate("test", 2, None if own else other)
        assert loss == env.evaluate("test", 2, None if own else other)
        if own:
            ids = toy_text().blocks("test")[:2]
            assert loss == pytest.approx(loss_of(logits_of(env.model, ids), ids), abs=1e-5)

    # -- what is looked at ---------------------------------------------------------------------------------------------

    @rule(seed=SEEDS)
    def look_at_the_model(self, seed: int) -> None:
        """The model that is handed out has the loss that was paid, its compact form too, at the FLOPs that were paid."""
        self.move(seed)
        TALLY["model looked at"] += 1
        env, state = self.play.env, self.play.state
        ids = toy_text().blocks("reward")[list(state.reward)]
        model = env.model
        assert torch.equal(model.active, state.active)
        logits = logits_of(model, ids)
        assert loss_of(logits, ids) == pytest.approx(self.play.info["loss"], abs=1e-5)
        small = model.compact()
        torch.testing.assert_close(logits_of(small, ids), logits, atol=1e-4, rtol=1e-4)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            logits_of(small, ids[:1])
        if bool((model.gates == model.active).all()):
            assert counter.get_total_flops() / TOKENS == pytest.approx(self.play.info["flops"])
        if env.settings.reward == "kl":
            dense = env.workbench.teacher(state.reward)
            apart = F.kl_div(logits[:, :-1].log_softmax(-1), dense, reduction="none", log_target=True).sum(-1).mean()
            assert float(apart) == pytest.approx(state.measurement.kl, abs=1e-5)

    @rule(seed=SEEDS)
    def prune_and_revive(self, seed: int) -> None:
        """Whatever is pruned and comes back before anything trained, the logits are the same to the bit."""
        self.move(seed)
        TALLY["pruned and revived"] += 1
        model = copy.deepcopy(self.play.env.model)
        ids = toy_text().blocks("test")
        model.undo_repair()  # repairs go with the units that they made up for
        random = np.random.default_rng(seed)
        gone = model.active & torch.from_numpy(random.random(tuple(model.shape)) < 0.5)
        if not bool((model.active & ~gone)[:, : model.heads].any()):
            gone[:, : model.heads] = False
        growing = model.gates != model.active  # a warm-up that is broken off does not go on
        gone &= ~growing
        logits = logits_of(model, ids)
        model.prune(gone)
        if bool(gone.any()):
            logits_of(model, ids)
        model.revive(gone)
        assert torch.equal(logits_of(model, ids), logits)

    @precondition(lambda self: not self.trains)
    @rule(seed=SEEDS)
    def revive_everything(self, seed: int) -> None:
        """A frozen model is the pristine one again, to the bit."""
        self.move(seed)
        TALLY["made dense"] += 1
        model = self.play.env.model
        model.make_dense()
        ids = toy_text().blocks("test")
        pristine = toy_model(self.architecture, model.mlp_blocks).model
        assert torch.equal(logits_of(model, ids), logits_of(pristine, ids))

    @rule(seed=SEEDS, file=st.booleans())
    def save_the_model(self, seed: int, file: bool) -> None:
        self.move(seed)
        TALLY["model saved"] += 1
        model, ids = self.play.env.model, toy_text().blocks("test")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ("model.pth" if file else "model")
            save_plastic(model, path)
            again = load_plastic(path).model
        assert torch.equal(again.active, model.active)
        assert torch.equal(logits_of(again, ids), logits_of(model, ids))

    @precondition(lambda self: self.play.env._record is not None)
    @rule(seed=SEEDS)
    def replay(self, seed: int) -> None:
        self.move(seed)
        TALLY["replayed"] += 1
        record = self.play.env.episode_record()
        assert list(record.rewards) == self.play.rewards
        validate(record, env=self.fresh())

    # -- what holds after each of them ---------------------------------------------------------------------------------

    @invariant()
    def what_is_shown_lies_in_its_space(self) -> None:
        TALLY["steps"] += 1
        env = self.play.env
        assert env.observation_space.contains(dict(self.play.shown))
        assert same(env.action_masks(), self.play.shown["action_mask"].astype(bool).reshape(-1))

    @invariant()
    def rewards_telescope(self) -> None:
        assert math.fsum(self.play.rewards) == pytest.approx(potential(self.play) - self.play.start, abs=1e-7)

    @invariant()
    def flops_are_those_of_a_count_by_hand(self) -> None:
        active = self.play.state.active
        assert self.play.info["flops"] == pytest.approx(flops_by_hand(self.architecture, active))

    @invariant()
    def gates_are_the_mask(self) -> None:
        """Of a model that trains always; a frozen one gets each environment's mask when that is asked for it."""
        env, active = self.play.env, self.play.state.active
        model = env.workbench.model
        if self.trains:
            assert torch.equal(model.active, active)
        gates, published = model.active * model.scale, model.state.gates
        assert torch.equal(torch.ones_like(gates) if published is None else published.cpu(), gates)
        assert self.play.info["active_units"] == int(active.sum())

    @invariant()
    def limits_are_kept(self) -> None:
        env, active = self.play.env, self.play.state.active
        heads = active[:, : env.workbench.model.heads]
        assert int(heads.sum()) >= 1
        assert int(heads.sum(1).min()) >= env.settings.min_heads_per_layer
        assert int((~active).sum()) <= env.settings.max_sparsity * active.numel() + 1e-9
        if env.settings.reward == "budget":
            assert self.play.info["flops"] >= self.play.state.budget * env.dense_flops - 1e-6
        if env.settings.mode == "compressed":
            assert all(bool((after <= before).all()) for before, after in pairwise(self.play.masks))

    @precondition(lambda self: self.env_id.startswith("plasticity/Levels"))
    @invariant()
    def levels_save_the_most_that_is_due(self) -> None:
        """No unit that its site would prune next has room, but for limits; and every site is at one of its levels."""
        env, state, table = self.play.env, self.play.state, self.play.env.table
        levels = self.play.info["levels"]
        assert torch.equal(table.mask(levels), state.active)
        share = state.share * min(1.0, state.step / env.settings.horizon)
        saved = env.dense_flops - flops_by_hand(self.architecture, state.active)
        due = share * (env.dense_flops - env.workbench.flop_table.base)
        if env.settings.reward == "budget":
            due = min(due, (1 - state.budget) * env.dense_flops)
        assert saved <= due + 1e-6
        for site, level in enumerate(levels):
            deeper = levels.copy()
            deeper[site] += 1
            least = env.settings.min_heads_per_layer if table.holds_heads[site] else 0
            if level + least < table.deepest[site] and table.mask(deeper)[:, : env.workbench.model.heads].any():
                assert env.dense_flops - flops_by_hand(self.architecture, table.mask(deeper)) > due - 1e-6

    @invariant()
    def the_mask_allows_what_no_limit_forbids(self) -> None:
        env, active = self.play.env, self.play.state.active
        adaptive, heads = env.settings.mode == "adaptive", env.workbench.model.heads
        allowed = torch.zeros(*active.shape, 4, dtype=torch.bool)
        allowed[..., 0] = True
        allowed[..., REVIVE] = ~active & adaptive
        allowed[..., GROW] = ~active & adaptive & self.trains
        for layer, unit in active.nonzero().tolist():
            after = active.clone()
            after[layer, unit] = False
            left = after[:, :heads].sum(1)
            few = int(left.sum()) < 1 or (unit < heads and int(left[layer]) < env.settings.min_heads_per_layer)
            most = min(math.floor(env.settings.max_sparsity * active.numel() + 1e-9), active.numel() - 1)
            cheap = env.settings.reward == "budget" and (
                flops_by_hand(self.architecture, after) < self.play.state.budget * env.dense_flops
            )
            allowed[layer, unit, PRUNE] = not few and not cheap and int((~after).sum()) <= most
        if env.kind == "levels":
            return  # what it shows is of levels
        table = allowed.view(-1, 4).numpy()
        shown = self.play.shown["action_mask"].astype(bool)
        if env.kind == "head_rank":
            assert same(shown, table[:, PRUNE] | table[:, REVIVE])
        elif env.kind == "head_edit":
            assert same(shown, np.concatenate([[True], *(table[:, edit] for edit in (PRUNE, REVIVE, GROW))]))
        else:
            assert same(shown, table)


def _pickled(env: Any) -> Any:
    return pickle.loads(pickle.dumps(env))


def run(steps: int, seed: int) -> Counter[str]:
    """Play until so many rules were carried out; a failure prints the shortest program that leads to it."""
    TALLY.clear()
    while TALLY["steps"] < steps:
        examples = max(1, (steps - TALLY["steps"]) // STEPS_AN_EXAMPLE)
        limits = settings(
            max_examples=min(examples, 20),
            stateful_step_count=STEPS_AN_EXAMPLE,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        machine = type("Machine", (Machine,), {})
        run_state_machine_as_test(from_seed(seed)(machine), settings=limits)
        seed += 1
    return TALLY
