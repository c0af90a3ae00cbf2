"""Subcommands of ``ppl-zoo``: the request that tyro reads, what runs it, its help, examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ppl_zoo.cli.demo import DemoRequest, run_demo
from ppl_zoo.cli.fit import FitRequest, fit_model
from ppl_zoo.cli.inspect import InspectRequest, inspect_run
from ppl_zoo.cli.listing import (
    CiteRequest,
    ListRequest,
    ShowRequest,
    cite_run,
    list_models,
    show_model,
)
from ppl_zoo.cli.reproduce import ReproduceRequest, reproduce
from ppl_zoo.cli.restore import RestoreRequest, restore_image

__all__ = ["COMMANDS", "Command"]


class Command(NamedTuple):
    """A subcommand.

    Attributes
    ----------
    name
        As it is typed.
    request
        Dataclass whose fields are the options.
    run
        Takes the request, returns the exit code.
    summary
        A line for ``--help``.
    examples
        Complete command lines.
    """

    name: str
    request: type
    run: Callable[[Any], int]
    summary: str
    examples: tuple[str, ...]


COMMANDS = (
    Command(
        "list",
        ListRequest,
        list_models,
        "List the models and the data sets.",
        ("ppl-zoo list", "ppl-zoo list --json | jq '.models[].name'"),
    ),
    Command(
        "show",
        ShowRequest,
        show_model,
        "Show the card of a model: story, arguments, queries, recipes, published numbers, "
        "sources; its graphical model.",
        (
            "ppl-zoo show gaussian-mixture",
            "ppl-zoo show eight-schools --picture eight-schools.svg",
        ),
    ),
    Command(
        "cite",
        CiteRequest,
        cite_run,
        "Print BibTeX of what a run used: model, solver, checks and libraries.",
        ("ppl-zoo cite runs/eight-schools", "ppl-zoo cite vae"),
    ),
    Command(
        "fit",
        FitRequest,
        fit_model,
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
        InspectRequest,
        inspect_run,
        "Print the posterior summary of a run and draw its figures into its folder.",
        ("ppl-zoo inspect runs/eight-schools",),
    ),
    Command(
        "demo",
        DemoRequest,
        run_demo,
        "Fit the zoo's models to embedded data; write a table, netCDF files and report.html.",
        ("ppl-zoo demo", "ppl-zoo demo --only eight-schools --out runs/try"),
    ),
    Command(
        "restore",
        RestoreRequest,
        restore_image,
        "Restore a photograph; write it, and a figure of input, result and pixel sd.",
        (
            "ppl-zoo restore photo.png --sigma 25",
            "ppl-zoo restore photo.png --task deblur --kernel kernel.png --sigma 2.55",
            "ppl-zoo restore photo.png --task inpaint --mask mask.png",
        ),
    ),
    Command(
        "reproduce",
        ReproduceRequest,
        reproduce,
        "Obtain the published numbers of a model again; exit code 1 if one is missed.",
        ("ppl-zoo reproduce gaussian-mixture",),
    ),
)
