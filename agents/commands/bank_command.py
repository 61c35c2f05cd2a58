"""``plasticity bank``: fit a bank of structures to kinds of text, and print what each costs."""

from __future__ import annotations

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.serving.bank_config import BankConfig
from plasticity_env.common.errors import InputError


def main(config: BankConfig) -> None:
    """Fit a structure for every kind of text and share, write them as one folder, and print what each costs."""
    if not config.texts:
        raise InputError("--texts names no text: give kinds of text as wiki=a.txt python=b.txt")
    from plasticity_env.agents.serving.bank_fitting import fit_bank

    print("\n".join(fit_bank(config)))
    print(f"bank: {config.output_dir}")


COMMAND = Command("bank", BankConfig, main)
