"""PuDDing: sets of omissions that were built from data, and a network that predicts each set's loss from the prompt.

Wee, Park and Lee 2025, "Prompt-based Depth Pruning of Large Language Models" (arXiv 2502.04348). Sets are built for each kind
of text by greedy removal under the loss, a small network regresses the loss of every set, and the lowest prediction is taken.
The paper omits whole transformer blocks and repairs nothing. Its router reads the prompt with a BERT; ours reads the same
prefix features as our other routers. Sets of single heads can be repaired as well.
"""

from __future__ import annotations

from plasticity_env.agents.routing.router_arguments import RouterTraining
from plasticity_env.agents.routing.router_training import train_router
from plasticity_env.agents.studies.dynamic.published.arm_bench import ArmBench, Outcome
from plasticity_env.agents.studies.dynamic.published.greedy_removal import RemovalPath, losses_on, remove_greedily
from plasticity_env.controllers.routers.predicted_loss import PredictedLoss
from plasticity_env.dynamic.bank import StructureBank
from plasticity_env.dynamic.route_table import RouteTable, measure_routes


class PuddingArms:
    """Sets of omissions of one draw; the paths of removal serve all shares.

    Args:
        bench: Bench of the draw.
    """

    def __init__(self, bench: ArmBench) -> None:
        self.bench = bench
        self._paths: dict[tuple[str, str], RemovalPath] = {}

    def play(self, kind_of_part: str, share: float) -> dict[str, Outcome]:
        """Blocks as the paper removes them, or heads without and with repair."""
        found = {f"PuDDing, {kind_of_part}": self._routed(self.bank_of(kind_of_part, share, repaired=False), share)}
        if kind_of_part == "heads":
            repaired = self.bank_of(kind_of_part, share, repaired=True)
            found["PuDDing, heads, our repair"] = self._routed(repaired, share)
        return found

    def bank_of(self, kind_of_part: str, share: float, repaired: bool) -> StructureBank:
        """A bank of the sets of every kind at one share."""
        bench, bank = self.bench, StructureBank(self.bench.model)
        for kind in bench.calibration:
            masks, _ = self._path(kind, kind_of_part).nearest(bench.budget(share))
            for number, mask in enumerate(masks):
                name = f"{kind} {number}@{share:g}"
                bank.add(bench.structure(name, mask, f"{kind} {number}", share, repaired=kind if repaired else ""))
        return bank

    def _path(self, kind: str, kind_of_part: str) -> RemovalPath:
        if (kind, kind_of_part) not in self._paths:
            bench, setting = self.bench, self.bench.setting
            ids = bench.calibration[kind][: setting.sets * setting.greedy_texts]
            loss_of = losses_on(bench.model, ids.view(setting.sets, setting.greedy_texts, -1))
            lowest = min(bench.budget(share) for share in bench.shares)
            removable = bench.removable(kind_of_part)
            self._paths[kind, kind_of_part] = remove_greedily(removable, loss_of, lowest, setting.sets)
        return self._paths[kind, kind_of_part]

    def _routed(self, bank: StructureBank, share: float) -> Outcome:
        bench, setting = self.bench, self.bench.setting
        table = measure_routes(bank, bench.train, prefix_tokens=setting.prefix_tokens, all_static=False)
        router = regressed(table, share, bank, bench.draw)
        return bench.played(bank, router.pick(bench.test_prefixes), router.flops)


def regressed(table: RouteTable, share: float, bank: StructureBank | None, seed: int) -> PredictedLoss:
    """A router whose network was fitted to a table's losses; a quarter of the texts only judges when to stop."""
    how = RouterTraining(seed=seed, total_steps=0, test_share=1e-6)
    return PredictedLoss(train_router(table, how), share, bank)
