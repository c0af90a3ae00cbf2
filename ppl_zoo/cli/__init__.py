"""Command-line interface ``ppl-zoo``: reads a request, runs it, reports errors in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ppl_zoo.cli.commands import COMMANDS
from ppl_zoo.cli.parser import read_request
from ppl_zoo.cli.terminal import note
from ppl_zoo.core.errors import ConvergenceError, DataError, QueryError, RunError

__all__ = ["main"]


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
        request = read_request(arguments)
        (command,) = (c for c in COMMANDS if c.name == arguments[0])
        return command.run(request)
    except SystemExit as stop:  # --help, or arguments that tyro refuses
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2
    except (ConvergenceError, DataError, QueryError, RunError) as error:
        note(f"ppl-zoo: {' '.join(str(error).split())}")
        return 2
    except BrokenPipeError:  # `ppl-zoo list | head`: the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        note("ppl-zoo: interrupted")
        return 130
