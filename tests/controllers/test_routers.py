"""Routers on a table: what each picks, what it is billed; the learned one's file, and the same choices inside a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticity_env import InputError
from plasticity_env.controllers.routers import (
    FixedRouter,
    LabelOracle,
    LearnedRouter,
    NearestCentroid,
    NearestRouter,
    PredictedLoss,
    ProbingRouter,
    RandomRouter,
    RouterNetwork,
    TextOracle,
)
from plasticity_env.controllers.routers.router_network import RouterConfig
from plasticity_env.envs.route_board import RouteBoard
from plasticity_env.envs.route_settings import RouteSettings
from tests.plasticity_env.envs.route_tables import made_table

TABLE = made_table()
TEXTS = np.arange(0, 60, 3)


def learned(table=TABLE, seed=0, price=1.0, bank=None) -> LearnedRouter:
    """A router with random weights."""
    torch.manual_seed(seed)
    board = RouteBoard(table, RouteSettings())
    structures = len(table.structures)
    network = RouterNetwork(
        RouterConfig(len(board.center), structures, 8),
        torch.from_numpy(board.static[:, 2].astype(np.float64)),
        torch.from_numpy(np.log(board.kept)),
    )
    with torch.no_grad():
        torch.nn.init.normal_(network.correction.weight, std=0.3)
    return LearnedRouter(network, board.center, board.scale, table.structures, price, bank)


def test_every_router_picks_what_its_name_says():
    assert (FixedRouter(3).play(TABLE, TEXTS).structures == 3).all()
    random = RandomRouter(0.6, seed=1).play(TABLE, TEXTS).structures
    assert set(random.tolist()) <= {2, 4, 6, 8}
    assert len(set(random.tolist())) > 2
    assert np.array_equal(RandomRouter(0.6, seed=1).play(TABLE, TEXTS[5:]).structures, random[5:])
    near = NearestRouter(0.3).play(TABLE, TEXTS).structures
    assert near.tolist() == [1 + 2 * int(TABLE.distance[text].argmin()) for text in TEXTS]
    own = LabelOracle(0.3).play(TABLE, TEXTS).structures
    assert own.tolist() == [1 + 2 * int(TABLE.kind[text]) for text in TEXTS]
    best = TextOracle(0.3).play(TABLE, TEXTS).structures
    assert best.tolist() == [min((1, 3, 5, 7), key=lambda k, t=text: TABLE.loss[t, k]) for text in TEXTS]
    router = learned()
    lowest = PredictedLoss(router, 0.3).play(TABLE, TEXTS).structures
    prefix = torch.from_numpy(RouteBoard(TABLE, RouteSettings()).prefix[TEXTS])
    assert lowest.tolist() == [1 + 2 * int(row[[1, 3, 5, 7]].argmin()) for row in router.network.rise(prefix).detach()]
    assert PredictedLoss(router, 0.3).flops == 2 * (prefix.shape[1] * 8 + 8 * 8 + 8 * 9 + 8)
    for routes in (near, own, best):
        assert len(set(routes.tolist())) >= 3


def test_the_text_oracle_at_a_price_has_the_best_potential_there_is():
    kept = TABLE.flops_kept(np.arange(9))
    for price in (0.2, 2.0):
        played = TextOracle(price=price).play(TABLE, TEXTS)
        potential = -played.rise(TABLE, TEXTS) - price * np.log(played.flops_kept(TABLE))
        every = -(TABLE.loss - TABLE.loss[:, :1])[TEXTS] - price * np.log(kept)
        np.testing.assert_allclose(potential, every.max(1), atol=1e-6)


def test_probing_pays_for_every_structure_that_it_tries():
    played = ProbingRouter(0.6).play(TABLE, TEXTS)
    tried = [2, 4, 6, 8]
    assert played.structures.tolist() == [min(tried, key=lambda k, t=text: TABLE.probe[t, k]) for text in TEXTS]
    bill = 32 * sum(TABLE.flops[k] for k in tried) / TABLE.flops[0]
    free = TABLE.flops_kept(played.structures)
    np.testing.assert_allclose(played.flops_kept(TABLE), free + bill / 256)


def test_what_a_table_lacks_is_refused_in_a_sentence():
    with pytest.raises(InputError, match=r"no structure prunes 0\.4: there are structures of 0\.3, 0\.6"):
        RandomRouter(0.4).play(TABLE, TEXTS)
    with pytest.raises(InputError, match="structure 9 does not exist"):
        FixedRouter(9).play(TABLE, TEXTS)
    bare = made_table().__class__(**{**vars(TABLE), "distance": np.zeros((60, 0), np.float32)})
    with pytest.raises(InputError, match="no distances to kinds of text"):
        NearestRouter(0.3).play(bare, TEXTS)
    other = TABLE.__class__(**{**vars(TABLE), "kinds": ("plays", "prose", "records")})
    with pytest.raises(InputError, match="was fitted on 'prose'"):
        LabelOracle(0.3).play(other, TEXTS)
    for both in ({}, {"share": 0.3, "price": 1.0}):
        with pytest.raises(InputError, match="give one of the two"):
            TextOracle(**both)


def test_a_learned_router_weighs_its_predictions_against_the_price():
    router = learned()
    board = RouteBoard(TABLE, RouteSettings())
    for price in (0.1, 1.0, 4.0):
        with torch.no_grad():
            rise = router.network.rise(torch.from_numpy(board.prefix[TEXTS])).numpy()
        expected = (rise + price * np.log(board.kept)).argmin(1)
        assert np.array_equal(router.at(price).play(TABLE, TEXTS).structures, expected)
    costs = [router.at(price).play(TABLE, TEXTS).flops_kept(TABLE).mean() for price in (0.01, 3.0, 300.0)]
    assert costs[0] > costs[1] > costs[2]


def test_a_learned_router_is_saved_and_loaded(tmp_path):
    router = learned(price=0.7)
    router.save(tmp_path / "router")
    again = LearnedRouter.load(tmp_path / "router")
    assert (again.price, again.structures) == (0.7, TABLE.structures)
    assert np.array_equal(again.play(TABLE, TEXTS).structures, router.play(TABLE, TEXTS).structures)
    assert LearnedRouter.load(tmp_path / "router", price=2.0).level == "price 2"
    router.save(tmp_path / "router")  # replaced
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    with pytest.raises(InputError, match="not an empty folder"):
        router.save(tmp_path / "other")


@pytest.mark.parametrize("name", ["router.safetensors", "router.json"])
def test_a_damaged_router_is_refused(tmp_path, name):
    learned().save(tmp_path / "router")
    file = tmp_path / "router" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(InputError, match="is damaged"):
        LearnedRouter.load(tmp_path / "router")


def test_weights_that_are_not_finite_and_other_tables_are_refused(tmp_path):
    router = learned()
    with pytest.raises(InputError, match="no router at"):
        LearnedRouter.load(tmp_path)
    with pytest.raises(InputError, match="price must be above 0"):
        router.at(0.0)
    with pytest.raises(InputError, match="this route table has dense, other"):
        router.play(TABLE.__class__(**{**vars(TABLE), "structures": ("dense", *["other"] * 8)}), TEXTS)
    with pytest.raises(InputError, match="needs its bank"):
        router.pick(None)
    with torch.no_grad():
        router.network.correction.bias[0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        router.save(tmp_path / "router")
    assert not (tmp_path / "router").exists()


def test_a_routed_model_picks_what_the_table_says():
    """On an embedded model: a table and a `RoutedModel` show a router the same prefixes."""
    from plasticity_env import load_model, load_text
    from plasticity_env.dynamic import RoutedModel, build_bank, measure_routes

    loaded = load_model("bard-gpt2-4x4")
    text = load_text("shakespeare", loaded.tokenizer, block_size=16)
    texts = {"first": text.blocks("calibration")[:4], "second": text.blocks("reward")[:4]}
    bank = build_bank(loaded.model, texts, (0.5,), prefix_tokens=8)
    table = measure_routes(bank, texts, prefix_tokens=8)
    router = learned(table, bank=bank, price=0.5)
    expected = router.play(table, np.arange(8)).structures
    assert len(set(expected.tolist())) > 1
    routed = RoutedModel(bank, router, prefix_tokens=8)
    ids = torch.cat(list(texts.values()))
    routed(ids)
    assert routed.last.structures.tolist() == expected.tolist()
    assert RoutedModel(bank, FixedRouter(2), prefix_tokens=8)._picked(routed.read_prefix(ids)).tolist() == [2] * 8
    with pytest.raises(InputError, match="this bank has dense, "):
        learned(TABLE, bank=bank)
    lowest = PredictedLoss(router, 0.5, bank)
    expected = lowest.play(table, np.arange(8)).structures
    assert 0 not in expected  # the dense structure is of no share
    assert RoutedModel(bank, lowest, prefix_tokens=8)._picked(routed.read_prefix(ids)).tolist() == expected.tolist()
    pooled = routed.read_prefix(ids).pooled
    centroids = NearestCentroid(torch.stack([pooled[:4].mean(0), pooled[4:].mean(0)]), (2, 1))
    picked = RoutedModel(bank, centroids, prefix_tokens=8)._picked(routed.read_prefix(ids))
    assert picked.tolist() == [2 if nearest == 0 else 1 for nearest in centroids.nearest(pooled).tolist()]
    assert set(picked.tolist()) == {1, 2}
    with pytest.raises(InputError, match="needs the bank"):
        PredictedLoss(router, 0.5).pick(routed.read_prefix(ids))
    with pytest.raises(InputError, match="this bank has dense, "):
        PredictedLoss(learned(TABLE), 0.5, bank)
