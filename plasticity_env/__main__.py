"""``plasticity``, and ``python -m plasticity_env``: everything that the package does, as sub-commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from plasticity_env.agents.commands.command_table import command_names, find_command, says
from plasticity_env.common.errors import InputError, unknown

COMPLETION, SHELLS = "--tyro-print-completion", ("bash", "zsh")  # those that every version of tyro writes for


def main(argv: Sequence[str] | None = None) -> None:
    """Run a sub-command.

    Args:
        argv: The command line; this program's own when None.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
    elif words[0] == "--version":
        from importlib.metadata import version

        print(version("plasticity-env"))
    else:
        try:
            if words[0].partition("=")[0] == COMPLETION:
                _complete([word for part in words for word in part.split("=", 1)])
                return
            command = find_command(words[0])
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        command.run(words[1:], prog=f"plasticity {words[0]}")


def overview() -> str:
    """What ``plasticity --help`` prints."""
    width = max(map(len, command_names()))
    lines = [f"  {name:{width}} {says(name)}" for name in command_names()]
    return "\n".join(
        [
            "usage: plasticity COMMAND [--flag value ...]",
            "",
            "Prune, revive and grow the heads of a language model, by rules and by trained controllers.",
            "",
            *lines,
            "",
            "plasticity COMMAND --help lists its flags; --config FILE.yaml gives defaults that flags override.",
            f"plasticity {COMPLETION} bash (or zsh) prints a completion script for the shell.",
        ]
    )


def _complete(words: list[str]) -> None:
    """Let tyro write the completion script; it must know every flag, so that all commands are imported.

    Raises:
        InputError: Not one shell that it can write for.
    """
    import tyro

    if len(words) != 2 or words[1] not in SHELLS:
        raise unknown("shell", " ".join(words[1:]), SHELLS)

    commands = {name: find_command(name) for name in command_names()}
    tyro.extras.subcommand_cli_from_dict(
        {name: command.arguments for name, command in commands.items()},  # type: ignore[arg-type]
        prog="plasticity",
        args=words,
        config=(tyro.conf.OmitArgPrefixes,),
        use_underscores=True,
    )


if __name__ == "__main__":
    main()
