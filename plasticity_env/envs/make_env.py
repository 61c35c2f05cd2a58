"""A typed door to the environments, for programs that a type checker reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast, overload

import gymnasium as gym

from plasticity_env.envs.base import PlasticityEnv
from plasticity_env.envs.head_edit import HeadEditEnv
from plasticity_env.envs.head_rank import HeadRankEnv
from plasticity_env.envs.heads import HeadsEnv
from plasticity_env.envs.levels import LevelsEnv
from plasticity_env.envs.route import RouteEnv

if TYPE_CHECKING:
    from plasticity_env.envs.stream_env import StreamEnv
    from plasticity_env.envs.stream_heads import StreamHeadsEnv


@overload
def make_env(id: Literal["plasticity/Heads-v1"] = "plasticity/Heads-v1", **settings: Any) -> HeadsEnv: ...
@overload
def make_env(id: Literal["plasticity/HeadEdit-v1"], **settings: Any) -> HeadEditEnv: ...
@overload
def make_env(id: Literal["plasticity/HeadRank-v1"], **settings: Any) -> HeadRankEnv: ...
@overload
def make_env(id: Literal["plasticity/Levels-v0"], **settings: Any) -> LevelsEnv: ...
@overload
def make_env(id: Literal["plasticity/Route-v0"], **settings: Any) -> RouteEnv: ...
@overload
def make_env(id: Literal["plasticity/Stream-v0"], *, control: Literal["heads"], **settings: Any) -> StreamHeadsEnv: ...
@overload
def make_env(id: Literal["plasticity/Stream-v0"], **settings: Any) -> StreamEnv: ...
@overload
def make_env(id: str, **settings: Any) -> PlasticityEnv: ...
def make_env(id: str = "plasticity/Heads-v1", **settings: Any) -> PlasticityEnv | RouteEnv | StreamEnv:
    """The environment itself, as `gymnasium.make` builds it but without its wrappers.

    Args:
        id: Id of the environment.
        **settings: See `plasticity_env.envs.settings.Settings`, for Levels
            `plasticity_env.envs.levels_settings.LevelsSettings`, for Route
            `plasticity_env.envs.route_settings.RouteSettings`, for Stream
            `plasticity_env.envs.stream_settings.StreamSettings`.

    Raises:
        InputError: A setting that cannot be used.
    """
    return cast("PlasticityEnv | RouteEnv | StreamEnv", gym.make(id, disable_env_checker=True, **settings).unwrapped)
