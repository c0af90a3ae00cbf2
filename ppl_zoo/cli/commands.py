"""Subcommands of ``ppl-zoo``: the request that tyro reads, what runs it, its help, examples."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["COMMANDS", "Command"]


class Command(NamedTuple):
    """A subcommand.

    Attributes
    ----------
    name
        As it is typed.
    request_path
        Dataclass whose fields are the options, ``"module:Class"`` below ``ppl_zoo.cli``; it is
        imported when the command is called, so that the help of all does not wait for torch.
    run_path
        Takes the request, returns the exit code; as ``request_path``.
    summary
        A line for ``--help``.
    examples
        Complete command lines.
    """

    name: str
    request_path: str
    run_path: str
    summary: str
    examples: tuple[str, ...]

    @property
    def request(self) -> type:
        """Class of the request, imported on demand."""
        return _imported(self.request_path)

    @property
    def run(self) -> Callable[[Any], int]:
        """What runs the request, imported on demand."""
        return _imported(self.run_path)

    @property
    def outline(self) -> type:
        """Stand-in for the request, without options: enough to be listed in the help."""
        return dataclasses.make_dataclass(self.request_path.partition(":")[2], [])


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(f"ppl_zoo.cli.{module}"), name)


COMMANDS = (
    Command(
        "list",
        "listing:ListRequest",
        "listing:list_models",
        "List the models and the data sets.",
        ("ppl-zoo list", "ppl-zoo list --json | jq '.models[].name'"),
    ),
    Command(
        "show",
        "listing:ShowRequest",
        "listing:show_model",
        "Show the card of a model: story, arguments, queries, recipes, published numbers, "
        "sources; its graphical model.",
        (
            "ppl-zoo show gaussian-mixture",
            "ppl-zoo show eight-schools --picture eight-schools.svg",
        ),
    ),
    Command(
        "cite",
        "listing:CiteRequest",
        "listing:cite_run",
        "Print BibTeX of what a run used: model, solver, checks and libraries.",
        ("ppl-zoo cite runs/eight-schools", "ppl-zoo cite vae"),
    ),
    Command(
        "fit",
        "fit:FitRequest",
        "fit:fit_model",
        "Fit a model.",
        (
            "ppl-zoo fit eight-schools",
            "ppl-zoo fit gaussian-mixture --data photo-patches --components 50 --steps 100",
            "ppl-zoo fit gaussian-mixture --data mine.csv --components 3 --set covariance=tied",
            "ppl-zoo fit linear-regression --data mine.csv --target price --restarts 4",
            "ppl-zoo fit naive-bayes --data mine.xlsx --columns colour,size --target kind",
            "ppl-zoo fit gaussian-mixture --out runs/gaussian-mixture --resume --steps 500",
        ),
    ),
    Command(
        "inspect",
        "inspect:InspectRequest",
        "inspect:inspect_run",
        "Print the posterior summary of a run and draw its figures into its folder.",
        ("ppl-zoo inspect runs/eight-schools",),
    ),
    Command(
        "demo",
        "demo:DemoRequest",
        "demo:run_demo",
        "Fit the zoo's models to embedded data; write a table, netCDF files and report.html.",
        ("ppl-zoo demo", "ppl-zoo demo --only eight-schools --out runs/try"),
    ),
    Command(
        "restore",
        "restore:RestoreRequest",
        "restore:restore_image",
        "Restore a photograph; write it, and a figure of input, result and pixel sd.",
        (
            "ppl-zoo restore photo.png --sigma 25",
            "ppl-zoo restore photo.png --task deblur --kernel kernel.png --sigma 2.55",
            "ppl-zoo restore photo.png --task inpaint --mask mask.png",
        ),
    ),
    Command(
        "reproduce",
        "reproduce:ReproduceRequest",
        "reproduce:reproduce",
        "Obtain the published numbers of a model again; exit code 1 if one is missed.",
        ("ppl-zoo reproduce gaussian-mixture",),
    ),
    Command(
        "completion",
        "completion:CompletionRequest",
        "completion:print_completion",
        "Print the script by which a shell completes commands and options.",
        (
            "ppl-zoo completion bash >> ~/.bash_completion",
            "ppl-zoo completion zsh > ~/.zfunc/_ppl-zoo",
            "ppl-zoo completion fish > ~/.config/fish/completions/ppl-zoo.fish",
        ),
    ),
)
