"""Parser of the command line: tyro reads the request dataclasses of the subcommands.

Only the command that is called is imported; the others are there by name and summary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Union

import tyro
from tyro.conf import FlagCreatePairsOff, subcommand

from ppl_zoo.cli.commands import COMMANDS
from ppl_zoo.core.errors import DataError
from ppl_zoo.core.options import did_you_mean

__all__ = ["PROGRAM", "read_request", "request_type"]

PROGRAM = "ppl-zoo"

ABOUT = """A zoo of probabilistic models for Pyro: fit them, check them, look at their posteriors.

examples:
  ppl-zoo demo                                         fit everything, write a report
  ppl-zoo list                                         the models and the data sets
  ppl-zoo fit eight-schools                            fit one; the run is in runs/eight-schools
  ppl-zoo inspect runs/eight-schools                   its posterior, and figures
  ppl-zoo fit gaussian-mixture --data mine.csv --components 3
  ppl-zoo completion bash >> ~/.bash_completion        completion in the shell, zsh and fish too"""


def read_request(arguments: Sequence[str]) -> Any:
    """Read the request of the command that the first argument names.

    Raises
    ------
    SystemExit
        After ``--help``, and for arguments that are not understood.
    DataError
        If there is no such command.
    """
    names = [command.name for command in COMMANDS]
    if not arguments[0].startswith("-") and arguments[0] not in names:
        raise DataError(
            f"command: got {arguments[0]!r}{did_you_mean(arguments[0], names)}, expected one of: "
            f"{', '.join(names)}"
        )
    return tyro.cli(
        request_type(arguments[0]),
        prog=PROGRAM,
        description=ABOUT,
        args=arguments,
        config=(FlagCreatePairsOff,),
    )


def request_type(called: str | None = None) -> Any:
    """Union of the request dataclasses, from which tyro makes the subcommands.

    Parameters
    ----------
    called
        The command whose options are needed; None for those of all.
    """
    types = []
    for command in COMMANDS:
        examples = "\n".join(f"  {line}" for line in command.examples)
        text = f"{command.summary}\n\nexamples:\n{examples}"
        known = command.request if called in (None, command.name) else command.outline
        types.append(Annotated[known, subcommand(command.name, description=text)])
    return Union[tuple(types)]  # noqa: UP007  X | Y cannot be written for types made at run time
