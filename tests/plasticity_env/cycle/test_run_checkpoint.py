"""From where a run goes on, and with which settings: what was written, or a refusal before anything is touched."""

from __future__ import annotations

import json

import pytest

from plasticity_env import ExperimentSettings, InputError
from plasticity_env.common.digests import digest_of, sealed
from plasticity_env.cycle.record import POSITIONS
from plasticity_env.cycle.run_checkpoint import POINTER, position_of
from plasticity_env.cycle.run_checks import SETTINGS_DIGEST, settings_of

GOOD = {"name": "1_pruning", "position": dict.fromkeys(POSITIONS, 12), "keep": False}


def pointer(folder, values):
    path = folder / POINTER
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values, indent=1))
    return path


def test_a_pointer_says_what_was_written(tmp_path):
    assert position_of(tmp_path) is None
    path = pointer(tmp_path, sealed(GOOD))
    assert position_of(tmp_path) == GOOD["position"]
    path.write_text(path.read_text().replace("12", "13", 1))
    with pytest.raises(InputError, match=r"resume.json' is damaged: .*digest differs"):
        position_of(tmp_path)
    pointer(tmp_path, GOOD)
    with pytest.warns(UserWarning, match="carries no digest"):
        assert position_of(tmp_path) == GOOD["position"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "x/../../../victim"}, "not a plain name"),
        ({"name": None}, "not a plain name"),
        ({"position": {"steps": 3}}, "does not say where each file"),
        ({"position": dict.fromkeys(POSITIONS, -1)}, "is not a number of rows"),
        ({"position": [1]}, "does not say where the run goes on"),
    ],
)
def test_a_pointer_that_leads_astray_is_refused_whoever_sealed_it(tmp_path, change, message):
    pointer(tmp_path, sealed({**GOOD, **change}))
    with pytest.raises(InputError, match=message):
        position_of(tmp_path)


def test_a_run_goes_on_with_the_settings_that_it_began_with(tmp_path):
    settings = ExperimentSettings(learning_rate=3e-4).to_json()
    config = json.dumps({"status": "stopped", "settings": settings, SETTINGS_DIGEST: digest_of(settings)})
    path = tmp_path / "config.json"
    path.write_text(config)
    assert settings_of(tmp_path).learning_rate == 3e-4
    path.write_text(config.replace("0.0003", "0.0007"))
    with pytest.raises(InputError, match=r"config.json' is damaged: .*digest differs"):
        settings_of(tmp_path)
    path.write_text(json.dumps({"status": "stopped", "settings": settings}))
    with pytest.warns(UserWarning, match="carries no digest"):
        assert settings_of(tmp_path).learning_rate == 3e-4
