"""The command ``ppl-zoo``: runs what was asked for, and tells errors in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Union

import tyro
from tyro.conf import FlagCreatePairsOff, subcommand

from ppl_zoo.cli.commands import EXAMPLES
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
        return tyro.cli(
            _commands(),
            prog="ppl-zoo",
            description=ABOUT,
            args=arguments,
            config=(FlagCreatePairsOff,),
        )
    except SystemExit as stop:  # --help, or arguments that tyro refuses
        return stop.code if isinstance(stop.code, int) else 2
    except (ConvergenceError, DataError, QueryError, RunError) as error:
        note(f"ppl-zoo: {' '.join(str(error).split())}")
        return 2
    except BrokenPipeError:  # `ppl-zoo list | head`: whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        note("ppl-zoo: interrupted")
        return 130


def _commands() -> Any:
    made = []
    for name, (function, examples) in EXAMPLES.items():
        first = (function.__doc__ or "").strip().splitlines()[0]
        indented = "\n".join(f"  {line}" for line in examples.splitlines())
        text = f"{first}\n\nexamples:\n{indented}"
        made.append(Annotated[Any, subcommand(name, constructor=function, description=text)])
    return Union[tuple(made)]  # noqa: UP007  X | Y cannot be written for types made at run time
