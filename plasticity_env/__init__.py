"""A Gymnasium environment over a transformer language model: prune, revive and grow heads, paid in perplexity per FLOP.

>>> import gymnasium as gym
>>> import plasticity_env
>>> env = gym.make("plasticity/Heads-v1", model_name="bard-gpt2-4x4")

The names that it offers are listed in ``__init__.pyi``; each is imported when it is first used, so that importing the package
loads neither torch nor transformers.
"""

import os as _os
from typing import Any as _Any

import gymnasium as _gym
import lazy_loader as _lazy
import wrapt as _wrapt

from plasticity_env.common.plugins import check_plugins as _check_plugins
from plasticity_env.common.plugins import load_plugins as _load_plugins
from plasticity_env.model.compact.auto_classes import register_when_imported as _register_compact_models

__version__ = "0.2.0"
_find, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)


def __getattr__(name: str) -> _Any:
    if name in __all__ and name != "InputError":
        _check_plugins()
    return _find(name)


# A forked worker (AsyncVectorEnv) inherits an OpenMP pool whose threads are gone, and would wait for them forever; one
# thread a worker needs no pool, and is what several workers on one machine want.
if hasattr(_os, "register_at_fork"):
    _os.register_at_fork(
        after_in_child=lambda: _wrapt.register_post_import_hook(lambda torch: torch.set_num_threads(1), "torch")
    )

_register_compact_models()  # AutoModelForCausalLM.from_pretrained loads them from here on
for _prefix, _kwargs in (
    ("", {"version": 0}),
    ("", {"version": 1}),
    ("Flat", {"version": 1, "observation": "flat"}),  # for programs that take an id and no arguments
):
    for _kind, _file, _vector in (
        ("Heads", "heads:HeadsEnv", "vector:HeadsVectorEnv"),
        ("HeadEdit", "head_edit:HeadEditEnv", "edit_vector:HeadEditVectorEnv"),
        ("HeadRank", "head_rank:HeadRankEnv", "rank_vector:HeadRankVectorEnv"),
    ):
        _gym.register(
            id=f"plasticity/{_prefix}{_kind}-v{_kwargs['version']}",
            entry_point=f"plasticity_env.envs.{_file}",
            vector_entry_point=f"plasticity_env.envs.{_vector}",
            kwargs=_kwargs,
        )
_gym.register(
    id="plasticity/Stream-v0",
    entry_point="plasticity_env.envs.stream_env:stream_env",
    vector_entry_point="plasticity_env.envs.stream_vector:StreamVectorEnv",
)
for _prefix in ("", "Flat"):
    _gym.register(
        id=f"plasticity/{_prefix}Levels-v0",
        entry_point="plasticity_env.envs.levels:LevelsEnv",
        vector_entry_point="plasticity_env.envs.levels_vector:LevelsVectorEnv",
        kwargs={"observation": "flat"} if _prefix else {},
    )
    _gym.register(
        id=f"plasticity/{_prefix}Route-v0",
        entry_point="plasticity_env.envs.route:RouteEnv",
        vector_entry_point="plasticity_env.envs.route_vector:RouteVectorEnv",
        kwargs={"observation": "flat"} if _prefix else {},
    )

_load_plugins()
