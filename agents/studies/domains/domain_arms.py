"""Ways to learn texts one after another: the whole model, with or without replay, and domains over a frozen body."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity_env.agents.studies.domains.domain_settings import HOME, Setting
from plasticity_env.data.batches import BlockBatches
from plasticity_env.data.text import TextSplits, load_text
from plasticity_env.dynamic.bank import DENSE
from plasticity_env.dynamic.domain_body import Domains
from plasticity_env.dynamic.domain_router import DomainRouter
from plasticity_env.dynamic.low_rank import rank_of_size
from plasticity_env.dynamic.new_domain import NewDomainTest
from plasticity_env.model.loading import LoadedModel, load_model
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.measure import mean_loss
from plasticity_env.training.optimizer import get_plasticity_optimizer
from plasticity_env.training.trainer import PlasticityTrainer, TrainStep

REPLAY = {"full": 0.0, "replay 10%": 0.1, "replay 50%": 0.5}  # arms that train the whole model
OWN, UNITS, LOW_RANK, PRUNED = "own", "own + units", "own + low rank", "pruned + low rank"
ARMS = (*REPLAY, OWN, UNITS, LOW_RANK, PRUNED)
READ_EVERY, READ_BLOCKS = 20, 8  # the online loss: so often, on so many blocks that come next


@dataclass(frozen=True)
class Cell:
    """One arm with one seed; losses on test text in nats per token.

    Attributes:
        model, arm, seed, setting: The cell's place.
        online: Mean loss on the new text's next blocks while it is learnt, mean over the new texts.
        before, learnt, end: Loss on each text: before anything, when the text had just been learnt, at the end.
        fixed: Least mean loss over the new texts of any one state of the arm that is kept fixed.
        parameters: Numbers that a new text has for its own; those of the whole model where all of it is trained.
        seconds: Seconds by the clock on the wall.
        home_flops, new_flops: FLOPs of the first text and of a new one at the end, over the dense model's.
        training_flops: FLOPs of a training step's forward pass over the dense model's.
        named: Share of test texts whose domain the nearest texts' router names right; None without domains.
        false_alarms, caught: Share of chunks of known and of unknown text that the test for new domains calls new.
        window_false_alarms, window_caught: The same of windows of chunks.
        delay: Chunks of the unknown text until a window is called new; None where none is, or without domains.
    """

    model: str
    arm: str
    seed: int
    setting: Setting
    online: float
    before: dict[str, float]
    learnt: dict[str, float]
    end: dict[str, float]
    fixed: float
    parameters: int
    seconds: float
    home_flops: float = 1.0
    new_flops: float = 1.0
    training_flops: float = 1.0
    named: float | None = None
    false_alarms: float | None = None
    caught: float | None = None
    window_false_alarms: float | None = None
    window_caught: float | None = None
    delay: int | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """What tells cells apart."""
        return (self.model, self.arm, self.seed, self.setting)

    @property
    def forgotten(self) -> float:
        """Mean rise of the loss on a text between when it had just been learnt and the end."""
        rises = [self.end[text] - self.learnt[text] for text in self.learnt]
        return sum(rises) / len(rises)

    @property
    def regret(self) -> float:
        """What learning on the way cost over the best fixed state, known in hindsight."""
        return self.online - self.fixed


class Bench:
    """One model and its texts with one seed.

    Args:
        name: Name of the model.
        seed: Fixes training order, calibration text and what low-rank rows start from.
        setting: All other settings.
    """

    def __init__(self, name: str, seed: int, setting: Setting) -> None:
        self.name, self.seed, self.setting = name, seed, setting
        self.loaded = self._load()
        self.texts = {
            each: load_text(each, self.loaded.tokenizer, block_size=setting.length)
            for each in (HOME, *setting.texts, setting.unknown)
        }

    def measured(self, arm: str) -> Cell:
        """Play one arm."""
        began = time.perf_counter()
        self.loaded = self._load()  # its own body
        found = self._whole(REPLAY[arm]) if arm in REPLAY else self._domains(arm)
        return Cell(self.name, arm, self.seed, self.setting, **found, seconds=time.perf_counter() - began)  # type: ignore[arg-type]

    # -- ways ----------------------------------------------------------------------------------------------------------

    def _whole(self, share: float) -> dict[str, object]:
        """Train all weights on one text after another."""
        setting, model = self.setting, self.loaded.model
        before, states, known = self._losses(), [], [HOME]
        learnt, online = {HOME: before[HOME]}, list[float]()
        for text in setting.texts:
            mixed = Mixed(self.texts[text], [self.texts[each] for each in known], share, setting.batch_size, self.seed)
            optimizer = get_plasticity_optimizer(model, setting.whole_rate)
            PlasticityTrainer(model, mixed, optimizer=optimizer).run(setting.steps, self._reader(text, online))
            states.append(self._losses())
            learnt[text] = states[-1][text]
            known.append(text)
        return {
            "online": _mean(online),
            "before": before,
            "learnt": learnt,
            "end": states[-1],
            "fixed": min(self._of_new(losses) for losses in (before, *states)),
            "parameters": sum(value.numel() for value in model.parameters()),
        }

    def _domains(self, arm: str) -> dict[str, object]:
        """Give every text a domain over the frozen body."""
        setting, model = self.setting, self.loaded.model
        domains, names = Domains(model), {HOME: DENSE, **{text: text.replace(":", "-") for text in setting.texts}}
        before, units = self._losses(), None
        if arm == UNITS:  # the first text gives units up, by price, and every new text has them for its own
            names[HOME] = "home"
            domains.add("home", embedding=False)
            domains.prune("home", self._calibration(HOME), setting.given_share)
            units = ~domains["home"].structure.active
        rank = self._rank() if arm in (LOW_RANK, PRUNED) else 0  # as many numbers as those units

        def losses(name: str, texts: Iterable[str]) -> dict[str, float]:
            return {text: _mean(domains.losses(self._tested(text), name, 16).tolist()) for text in texts}

        learnt, online = losses(names[HOME], [HOME]), list[float]()
        for text in setting.texts:
            name, blocks = names[text], BlockBatches(self.texts[text].blocks("train"), setting.batch_size, self.seed)
            domains.add(name, units=units, rank=rank, seed=self.seed)
            if arm == PRUNED:
                domains.prune(name, self._calibration(text), setting.given_share)
            reader = self._reader(text, online)
            domains.train(name, blocks, setting.steps, learning_rate=setting.domain_rate, on_step=reader)
            learnt |= losses(name, [text])
        under = {name: losses(name, names) for name in names.values()}
        dense, new = domains.flops(DENSE, setting.length), names[setting.texts[-1]]
        new_flops = domains.flops(new, setting.length) / dense
        rows = sum(down.numel() + up.numel() for down, up in domains[new].low_rank.values())
        return {
            "online": _mean(online),
            "before": before,
            "learnt": learnt,
            "end": {text: under[name][text] for text, name in names.items()},
            "fixed": min(self._of_new(found) for found in under.values()),
            "parameters": domains.parameters(new),
            "home_flops": domains.flops(names[HOME], setting.length) / dense,
            "new_flops": new_flops,
            "training_flops": new_flops + 2 * rows / dense,
            **self._noticed(domains, names),
        }

    def _noticed(self, domains: Domains, names: dict[str, str]) -> dict[str, float | None]:
        """How texts are told apart from their first tokens, and unknown ones from all of them."""
        setting = self.setting
        router = DomainRouter(domains, {name: self._calibration(text) for text, name in names.items()})
        right = [picked == name for text, name in names.items() for picked in router.pick(self._tested(text))]
        held = {name: self.texts[text].some("reward", setting.held_blocks) for text, name in names.items()}
        found: dict[str, float | None] = {"named": _mean([float(each) for each in right])}
        for window, prefix in ((1, ""), (setting.window, "window_")):
            test = NewDomainTest(domains, held, setting.false_alarms, setting.held_blocks, window, batch_size=16)
            known = [test.judge(self._tested(text)).is_new[window - 1 :] for text in names]
            unknown = test.judge(self._tested(setting.unknown)).is_new
            found[f"{prefix}false_alarms"] = float(torch.cat(known).float().mean())
            found[f"{prefix}caught"] = float(unknown[window - 1 :].float().mean())
            found["delay"] = int(unknown.int().argmax()) + 1 if bool(unknown.any()) else None
        return found

    # -- parts -----------------------------------------------------------------------------------------------------------

    def _rank(self) -> int:
        """The rank at which rows hold as many numbers as the units that `UNITS` regrows."""
        loaded = self._load()
        domains = Domains(loaded.model)
        domains.add("home", embedding=False)
        domains.prune("home", self._calibration(HOME), self.setting.given_share)
        plain = domains.add("plain").parameters
        with_units = domains.add("grown", units=~domains["home"].structure.active).parameters
        return rank_of_size(loaded.model, with_units - plain)

    def _load(self) -> LoadedModel:
        return load_model(self.name, mlp_blocks=self.setting.mlp_blocks, device="cpu")

    def _calibration(self, text: str) -> Tensor:
        return self.texts[text].drawn("calibration", self.setting.calibration_blocks, self.seed)

    def _tested(self, text: str) -> Tensor:
        return self.texts[text].some("test", self.setting.test_blocks)

    def _losses(self) -> dict[str, float]:
        return {text: mean_loss(self.loaded.model, self._tested(text), 16) for text in (HOME, *self.setting.texts)}

    def _of_new(self, losses: dict[str, float]) -> float:
        return _mean([losses[text] for text in self.setting.texts])

    def _reader(self, text: str, losses: list[float]) -> Callable[[TrainStep], None]:
        """Called after each step: now and then the loss on the blocks that come next."""
        coming = BlockBatches(self.texts[text].blocks("reward"), READ_BLOCKS, self.seed)
        model: PlasticModel = self.loaded.model

        def read(step: TrainStep) -> None:
            if step.step % READ_EVERY == 1:
                was_training = model.training
                losses.append(mean_loss(model, coming(step.step // READ_EVERY), READ_BLOCKS))
                model.train(was_training)

        return read


class Mixed:
    """Batches of a new text of which some rows are of known ones.

    Args:
        new: The new text.
        known: Texts that were learnt before.
        share: Chance of a row to be of one of these.
        batch_size: Sequences in a batch.
        seed: Fixes all of it.
    """

    def __init__(self, new: TextSplits, known: list[TextSplits], share: float, batch_size: int, seed: int) -> None:
        self._new = BlockBatches(new.blocks("train"), batch_size, seed)
        self._known = [BlockBatches(text.blocks("train"), batch_size, seed) for text in known]
        self._share, self._seed = share, seed

    def __call__(self, step: int) -> Tensor:
        """(B, T) token ids of batch ``step``."""
        ids = self._new(step).clone()
        if self._share:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
            old = torch.rand(len(ids), generator=generator) < self._share
            which = torch.randint(len(self._known), (len(ids),), generator=generator)
            for row in old.nonzero().flatten().tolist():
                ids[row] = self._known[int(which[row])](step)[row]
        return ids


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
