"""What each command can be asked for: its arguments, their words in ``--help``, examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from ppl_zoo.cli import (
    demo,
    listing,
)
from ppl_zoo.cli import (
    fit as fitting,
)
from ppl_zoo.cli import (
    inspect as inspection,
)
from ppl_zoo.cli import (
    reproduce as reproducing,
)
from ppl_zoo.cli import (
    restore as restoring,
)
from ppl_zoo.cli.recipes import SOLVERS, parse_settings

__all__ = ["EXAMPLES"]

Name = Annotated[str, Positional, arg(metavar="NAME")]
Pairs = Annotated[tuple[str, ...], UseAppendAction, arg(metavar="KEY=VALUE")]


def list_models(json: bool = False) -> int:
    """List the models and the data sets.

    Parameters
    ----------
    json
        Print JSON for a program to read.
    """
    return listing.list_models(as_json=json)


def show(name: Name, /, json: bool = False) -> int:
    """Show the card of a model: story, arguments, queries, recipes, published numbers, sources.

    Parameters
    ----------
    name
        A model of `ppl-zoo list`.
    json
        Print JSON for a program to read.
    """
    return listing.show(name, as_json=json)


def fit(
    name: Name,
    /,
    *,
    data: Annotated[str | None, arg(metavar="NAME|PATH")] = None,
    recipe: Annotated[str | None, arg(metavar="NAME")] = None,
    components: Annotated[int | None, arg(metavar="K")] = None,
    set: Pairs = (),
    target: Annotated[str | None, arg(metavar="COLUMN")] = None,
    data_option: Pairs = (),
    # the names are known at run time only, which type checkers do not take
    solver: Literal[tuple(n.lower() for n in SOLVERS)] | None = None,  # type: ignore[valid-type]
    steps: Annotated[int | None, arg(metavar="N")] = None,
    restarts: Annotated[int | None, arg(metavar="N")] = None,
    batch_size: Annotated[int | None, arg(metavar="ROWS")] = None,
    solver_option: Pairs = (),
    device: str = "auto",
    seed: Annotated[int | None, arg(metavar="SEED")] = None,
    dtype: Literal["float32", "float64"] | None = None,
    out: Annotated[str | None, arg(metavar="FOLDER")] = None,
    resume: bool = False,
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Fit a model.

    Parameters
    ----------
    name
        A model of `ppl-zoo list`.
    data
        A data set of `ppl-zoo list`, a .csv, .npy or .npz file, or a folder of images. Default:
        that of the model's first recipe.
    recipe
        A known good fit of `ppl-zoo show NAME`; other options change it.
    components
        Number of components or latent classes; short for `--set num_components=K`.
    set
        An argument of the model.
    target
        The column of a table that is y, by name or number; default the last.
    data_option
        An option of the data set.
    solver
        Default: the model's own.
    steps
        Most steps; chains stop earlier once they have converged.
    restarts
        Number of chains from different starts.
    batch_size
        Rows in a minibatch (svi) or in memory at once (em).
    solver_option
        Any other option of the solver, such as `tol=1e-8`.
    device
        auto, cpu, cuda, cuda:1.
    seed
        Makes the fit repeatable; default 0.
    dtype
        Floating type of the fit.
    out
        Folder of the run; default `runs/NAME`.
    resume
        Go on with the run in that folder.
    overwrite
        Replace the run in that folder.
    json
        Print JSON for a program to read.
    """
    changes = {"steps": steps, "restarts": restarts, "batch_size": batch_size}
    request = fitting.FitRequest(
        name=name,
        data=data,
        recipe=recipe,
        settings=({} if components is None else {"num_components": components})
        | parse_settings(set),
        target=target,
        data_options=parse_settings(data_option),
        solver=solver,
        options={k: v for k, v in changes.items() if v is not None}
        | parse_settings(solver_option),
        device=device,
        seed=seed,
        dtype=dtype,
        out=out,
        resume=resume,
        overwrite=overwrite,
    )
    return fitting.fit_model(request, as_json=json)


def inspect(
    run: Annotated[str, Positional, arg(metavar="RUN")],
    /,
    *,
    data: Annotated[str | None, arg(metavar="NAME|PATH")] = None,
    draws: int = 1000,
    json: bool = False,
) -> int:
    """Print the posterior summary of a run and draw its figures into its folder.

    Parameters
    ----------
    run
        A folder that `ppl-zoo fit` wrote.
    data
        The data, where the run does not hold them.
    draws
        Posterior draws a chain.
    json
        Print JSON for a program to read.
    """
    return inspection.inspect_run(run, data=data, draws=draws, as_json=json)


def reproduce(name: Name, /, *, device: str = "auto", json: bool = False) -> int:
    """Obtain the published numbers of a model again; exit code 1 if one is missed.

    Parameters
    ----------
    name
        A model of `ppl-zoo list`.
    device
        auto, cpu, cuda, cuda:1.
    json
        Print JSON for a program to read.
    """
    return reproducing.reproduce(name, device=device, as_json=json)


def restore(
    image: Annotated[str, Positional, arg(metavar="IMAGE")],
    /,
    *,
    task: Literal["denoise", "deblur", "inpaint", "upscale"] = "denoise",
    sigma: float | None = None,
    kernel: Annotated[str | None, arg(metavar="FILE")] = None,
    mask: Annotated[str | None, arg(metavar="FILE")] = None,
    factor: int = 2,
    prior: str = "gmm200-patches",
    method: Literal["map", "posterior", "svi", "dip", "dip-langevin", "dip-normal"] | None = None,
    quality: Literal["best", "fast", "fastest", "exact"] = "best",
    draws: int = 32,
    out: Annotated[str | None, arg(metavar="FILE")] = None,
    device: str = "auto",
    seed: int = 0,
    net: Literal["auto", "fast", "paper"] = "auto",
    steps: int | None = None,
    json: bool = False,
) -> int:
    """Restore a photograph; write it, and a figure of input, result and pixel sd.

    Parameters
    ----------
    image
        PNG, JPEG or TIFF, grey or colour.
    task
        What is wrong with it.
    sigma
        Standard deviation of the noise in grey levels of 255; default: estimated to denoise,
        else 2.55 to deblur (one in a hundred), 1 to up-scale and 0 to inpaint.
    kernel
        To deblur: the blur's kernel, an image or .npy file.
    mask
        To inpaint: an image, white where the photograph is seen.
    factor
        To up-scale: by how much.
    prior
        A pretrained prior.
    method
        map, the best image; posterior, with pixel sd; svi, for small images. Default: posterior
        to denoise up to two million pixels, else map. dip: a deep image prior, which needs no
        other prior and a minute for 128 x 128 pixels; dip-langevin, dip-normal: with pixel sd.
    net
        Of the deep image prior: fast, paper, or auto for the paper's on a GPU.
    steps
        Most steps of the deep image prior.
    quality
        best, fast, fastest or exact.
    draws
        Posterior draws that are kept.
    out
        The restored image; default IMAGE-restored.png, and IMAGE-restored-figure.png.
    device
        auto, cpu, cuda, cuda:1.
    seed
        Of the draws.
    json
        Print JSON for a program to read.
    """
    request = restoring.Request(
        image,
        task,
        sigma,
        kernel,
        mask,
        factor,
        prior,
        method,
        quality,
        draws,
        out,
        device,
        seed,
        net,
        steps,
    )
    return restoring.restore_image(request, as_json=json)


def run_demo(
    *,
    only: Annotated[str | None, arg(metavar="NAME")] = None,
    out: Annotated[str, arg(metavar="FOLDER")] = "runs/demo",
    device: str = "auto",
    json: bool = False,
) -> int:
    """Fit the zoo's models to embedded data; write a table, netCDF files and report.html.

    Parameters
    ----------
    only
        One model, or one of its fits.
    out
        Where to write.
    device
        auto, cpu, cuda, cuda:1.
    json
        Print JSON for a program to read.
    """
    chosen = demo.choose(only)
    return demo.run_demo(out, chosen=chosen, device=device, as_json=json, photograph=only is None)


#: each command: its function, and examples of its use
EXAMPLES: dict[str, tuple[Callable[..., int], str]] = {
    "list": (list_models, "ppl-zoo list\nppl-zoo list --json | jq '.models[].name'"),
    "show": (show, "ppl-zoo show gaussian-mixture"),
    "fit": (
        fit,
        "ppl-zoo fit eight-schools\n"
        "ppl-zoo fit gaussian-mixture --data photo-patches --components 50 --steps 100\n"
        "ppl-zoo fit gaussian-mixture --data mine.csv --components 3 --set covariance=tied\n"
        "ppl-zoo fit linear-regression --data mine.csv --target price --restarts 4\n"
        "ppl-zoo fit gaussian-mixture --out runs/gaussian-mixture --resume --steps 500",
    ),
    "inspect": (inspect, "ppl-zoo inspect runs/eight-schools"),
    "demo": (run_demo, "ppl-zoo demo\nppl-zoo demo --only eight-schools --out runs/try"),
    "restore": (
        restore,
        "ppl-zoo restore photo.png --sigma 25\n"
        "ppl-zoo restore photo.png --task deblur --kernel kernel.png --sigma 2.55\n"
        "ppl-zoo restore photo.png --task inpaint --mask mask.png",
    ),
    "reproduce": (reproduce, "ppl-zoo reproduce gaussian-mixture"),
}
