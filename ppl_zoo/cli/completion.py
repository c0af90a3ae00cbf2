"""``ppl-zoo completion``: the script by which a shell completes commands and options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from ppl_zoo.cli.parser import PROGRAM, request_type

__all__ = ["CompletionRequest", "print_completion"]


@dataclass(frozen=True)
class CompletionRequest:
    """Arguments of ``ppl-zoo completion``."""

    shell: Annotated[Literal["bash", "zsh", "fish"], Positional, arg(metavar="SHELL")]


def print_completion(request: CompletionRequest) -> int:
    """Print the script; tyro writes it."""
    tyro.cli(
        request_type(),
        prog=PROGRAM,
        args=["--tyro-write-completion", request.shell, "-"],
        config=(FlagCreatePairsOff,),
    )
    return 0
