"""Command-line interface ``ppl-zoo``: reads a request, runs it, reports errors in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Union

import tyro
from tyro.conf import FlagCreatePairsOff, subcommand

from ppl_zoo.cli.commands import COMMANDS
from ppl_zoo.cli.terminal import note
from ppl_zoo.core.errors import ConvergenceError, DataError, QueryError, RunError

__all__ = ["main"]

ABOUT = """A zoo of probabilistic models for Pyro: fit them, check them, look at their posteriors.

examples:
  ppl-zoo demo                                         fit everything, write a report
  ppl-zoo list                                         the models and the data sets
  ppl-zoo fit eight-schools                            fit one; the run is in runs/eight-schools
  ppl-zoo inspect runs/eight-schools                   its posterior, and figures
  ppl-zoo fit gaussian-mixture --data mine.csv --components 3"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv
        Arguments, those of the process by default.

    Returns
    -------
    int
        0; 1 if a number was missed or a fit of the demo failed; 2 for errors of the user's
        input; 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        arguments = ["--help"]
    try:
        request = tyro.cli(
            _request_type(),
            prog="ppl-zoo",
            description=ABOUT,
            args=arguments,
            config=(FlagCreatePairsOff,),
        )
        (run,) = (command.run for command in COMMANDS if command.request is type(request))
        return run(request)
    except SystemExit as stop:  # --help, or arguments that tyro refuses
        return stop.code if isinstance(stop.code, int) else 2
    except (ConvergenceError, DataError, QueryError, RunError) as error:
        note(f"ppl-zoo: {' '.join(str(error).split())}")
        return 2
    except BrokenPipeError:  # `ppl-zoo list | head`: the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        note("ppl-zoo: interrupted")
        return 130


def _request_type() -> Any:
    """Union of the request dataclasses, from which tyro makes the subcommands."""
    types = []
    for command in COMMANDS:
        examples = "\n".join(f"  {line}" for line in command.examples)
        text = f"{command.summary}\n\nexamples:\n{examples}"
        types.append(Annotated[command.request, subcommand(command.name, description=text)])
    return Union[tuple(types)]  # noqa: UP007  X | Y cannot be written for types made at run time
