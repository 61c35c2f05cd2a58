"""The levels of an episode's text, measured once for all environments and planners on one workbench."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from plasticity_env.common.lru import Memo
from plasticity_env.data.text import TextSplits
from plasticity_env.envs.episode import Draw
from plasticity_env.envs.workbench import Workbench
from plasticity_env.model.contexts import in_plain_mode
from plasticity_env.strategies.level_table import LevelTable, measure_levels

REMEMBERED = 1024  # tables, some kB each

_TABLES: WeakKeyDictionary[Workbench, tuple[TextSplits, Memo[LevelTable]]] = WeakKeyDictionary()


@in_plain_mode
def table_of(bench: Workbench, draw: Draw, sampled: bool = False, of_outputs: bool = False) -> LevelTable:
    """The levels that an episode's calibration blocks price, with repairs fitted on its moment blocks where it has some.

    Args:
        bench: Its model is measured as the dense model, whatever mask it carries.
        draw: Says which blocks.
        sampled, of_outputs: As `measure_levels` takes them.

    Raises:
        InputError: A single calibration block and no moment blocks.
    """
    text, memo = _TABLES.get(bench, (None, None))
    if memo is None or text is not bench.text:
        memo = Memo(REMEMBERED)
        _TABLES[bench] = bench.text, memo
    key = (draw.calibration, draw.moments, sampled, of_outputs, bench.model.weight_version)
    known = memo.get(key)
    if known is not None:
        return known
    table = measure_levels(
        bench.model,
        bench.blocks("calibration", draw.calibration),
        bench.blocks("calibration", draw.moments) if draw.moments else None,
        flops=bench.flop_table,
        sampled=sampled,
        batch_size=bench.batch_size,
        of_outputs=of_outputs,
    )
    return memo.put(key, table)
