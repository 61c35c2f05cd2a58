"""The README.md in a compacted model's folder: what to import before it is loaded, and which modules take LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from plasticity_env.common.files import write_text
from plasticity_env.model.compact.modules import Remainder
from plasticity_env.model.layout_table import find_layout
from plasticity_env.model.projections import is_projection

MARK = "<!-- plasticity-env writes this file anew with the model; take this line out to keep your own -->"
_TEXT = """{mark}
# A compacted `{dense_type}` model

What was pruned, attention heads and blocks of MLP neurons, is gone from these weights with all that only it used.
Of {dense_heads} heads in {layers} layers, {heads} are left (by layer: {by_layer}).

## Load it

```python
import plasticity_env  # first: only then transformers knows the model type {model_type!r}
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
```

Without the import, transformers says that it does not recognise the type and asks for an upgrade, which does not help.
`pip install plasticity-env` brings the package.
A program that imports only transformers takes the `masked` or `uniform` export instead.

## Train it with LoRA

```python
from peft import LoraConfig, get_peft_model

model = get_peft_model(model, LoraConfig({arguments}))
```

{remark}"""
_WHOLE = "PEFT has no default targets for this model type, so name them as above, or a part of them.\n"
_EXCLUDED = (
    "PEFT has no default targets for this model type, so name them as above, or a part of them. The excluded modules are what "
    "is left of output projections that read nothing any more: a bias, to which PEFT adds no adapter.\n"
)


def lora_targets(model: PreTrainedModel) -> tuple[list[str], list[str]]:
    """Names of the modules of a compacted model that take LoRA.

    Args:
        model: A compacted model.

    Returns:
        PEFT's ``target_modules``: the names of the projections in the layers, in order. Its ``exclude_modules``: modules that
        bear one of these names and are no projections.
    """
    layout = find_layout(model.config.dense_type)
    mlp = (*layout.mlp_inputs, layout.mlp_output) if layout.mlp_inputs else ()
    wanted = (*layout.projections, layout.output, *mlp)
    found: set[str] = set()
    remainders: list[str] = []
    for name, module in model.named_modules():
        leaf = name.rpartition(".")[2]
        if isinstance(module, Remainder):
            remainders.append(name)
        elif leaf in wanted and is_projection(module):
            found.add(leaf)
    targets = [leaf for leaf in dict.fromkeys(wanted) if leaf in found]
    return targets, [name for name in remainders if name.rpartition(".")[2] in found]


def readme_text(model: PreTrainedModel) -> str:
    """What the README.md of a compacted model says."""
    config: Any = model.config
    targets, excluded = lora_targets(model)
    arguments = f'task_type="CAUSAL_LM", target_modules={targets}'
    if excluded:
        arguments += f", exclude_modules={excluded}"
    kept = [len(heads) for heads in config.kept_heads]
    return _TEXT.format(
        mark=MARK,
        dense_type=config.dense_type,
        model_type=config.model_type,
        dense_heads=config.num_attention_heads * len(kept),
        layers=len(kept),
        heads=sum(kept),
        by_layer=", ".join(map(str, kept)),
        arguments=arguments.replace("'", '"'),
        remark=_EXCLUDED if excluded else _WHOLE,
    )


def write_readme(model: PreTrainedModel, folder: Path) -> None:
    """Write the README.md of a compacted model, unless somebody's own lies there.

    Args:
        model: A compacted model.
        folder: An existing folder.
    """
    path = folder / "README.md"
    if not path.exists() or MARK in path.read_text(encoding="utf-8", errors="replace"):
        write_text(path, readme_text(model))
