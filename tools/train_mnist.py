"""Train an autoregressive model on MNIST in black and white, in a run that can be resumed.

    python tools/train_mnist.py fvsbn --run runs/mnist-fvsbn
    python tools/train_mnist.py nade --run runs/mnist-nade
    python tools/train_mnist.py made --run runs/mnist-made
    python tools/train_mnist.py made-rows --run runs/mnist-made-rows
    python tools/train_mnist.py made --join runs/mnist-made-rows --run runs/mnist-made --ship

Binarization is the fixed one that papers report on. Every two minutes the run directory is
written; the same command goes on from there, also with more ``--passes``. With ``--join`` a
finished run and others of the same class make an `OrderEnsemble`. With ``--start NAME`` a new run
begins from the weights of a net that ships with the package, or of a run. At the end it prints,
and writes beside the run as ``RUN.json``, the mean log likelihoods over all rows of valid and
test. With ``--ship`` the weights go, in half precision, to
``ppl_zoo/models/pretrained/NAME-mnist.safetensors``; a new name needs a line in ``PRETRAINED`` of
``ppl_zoo/models/pretrained/weights.py``. ``benchmarks/mnist.py`` scores what is shipped.
"""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.optim.lr_scheduler import LambdaLR

import ppl_zoo as zoo
from ppl_zoo.core.device import has_fast_bfloat16
from ppl_zoo.models.pretrained import PRETRAINED
from ppl_zoo.models.pretrained.weights import pack

SHIPPED = Path(__file__).parent.parent / "ppl_zoo" / "models" / "pretrained"

ROWS = 50_000  # of train


@dataclass(frozen=True)
class Recipe:
    """How to make a model and to fit it; ``decay`` is the precision of the weights' prior."""

    make: Callable[[], zoo.Model]
    passes: float
    batch: int
    rate: float
    decay: float = 0.0
    optimizer: str = "sgd"  # on the mean loss of a row, with momentum; or "adam"
    look: int = 1  # passes between two looks at the validation rows
    patience: int = 3  # looks without a gain after which it stops
    window: float = 1.0  # passes that the average of the parameters reaches back


RECIPES = {
    "fvsbn": Recipe(lambda: zoo.FVSBN((28, 28), "random"), 40, 500, 4e-3, 6.0, "adam"),
    "made": Recipe(lambda: zoo.MADE((28, 28), (1500,), "random"), 12, 125, 0.03, 15.0),
    "made-rows": Recipe(lambda: zoo.MADE((28, 28), (1000,)), 30, 125, 0.03, 5.0),
    "nade": Recipe(lambda: zoo.NADE((28, 28), 500, "random"), 23, 125, 0.05),
    "pixelcnn": Recipe(
        lambda: zoo.PixelCNN((28, 28), 16, 5), 10, 25, 3e-3, 0.0, "adam", window=0.3
    ),
    "transformer": Recipe(
        lambda: zoo.TransformerAR((28, 28), 32, num_layers=2),
        *(0.8, 20, 3e-3, 0.0, "adam"),
        look=2,
        window=0.1,
    ),
}


def make_optimizer(parameters: list, recipe: Recipe) -> torch.optim.Optimizer:
    """Weights, not biases, have the prior Normal(0, decay ** -0.5); zoo.SVI's loss is a sum."""
    weights = [p for p in parameters if p.squeeze().ndim > 1]
    biases = [p for p in parameters if p.squeeze().ndim <= 1]
    groups = [{"params": weights, "weight_decay": recipe.decay}, {"params": biases}]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=recipe.rate, fused=True)
    return torch.optim.SGD(groups, lr=recipe.rate / ROWS, momentum=0.9, nesterov=True, fused=True)


def cosine(optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
    """Lower the learning rate to 0 over so many steps; a run that goes on may have more."""
    return LambdaLR(optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps)))


def write_weights(model: zoo.Model, name: str, record: dict) -> None:
    """Write weights in half precision where the package ships them, and how they came about."""
    for net in model.modules():
        if isinstance(net, zoo.MADE):
            net.prune()
    told = {
        "class": type(model).__name__,
        "config": json.dumps(model.config),
        "training": json.dumps(record),
    }
    save_file(pack(model.state_dict()), SHIPPED / f"{name}.safetensors", metadata=told)


def trained(name: str) -> zoo.Model:
    """Load a net that ships with the package, or that of a run."""
    # the solver of a run has functions, which no file can hold
    return zoo.load(name) if name in PRETRAINED else zoo.load(name, solver=zoo.SVI()).model


def earlier(run: str, start: str | None) -> tuple[int, dict | None]:
    """CPU seconds of this run so far, and the record of the net that it began from."""
    written = Path(f"{run}.json")
    spent = json.loads(written.read_text())["cpu_seconds"] if written.exists() else 0
    if start is None:
        return spent, None
    if start not in PRETRAINED:
        return spent, json.loads(Path(f"{start}.json").read_text())
    kept = Path(f"{run}.start.json")  # the weights may be replaced by this run's
    if not kept.exists():
        with safe_open(SHIPPED / f"{start}.safetensors", "pt") as file:
            kept.write_text(file.metadata()["training"])
    return spent, json.loads(kept.read_text())


def score(model: zoo.Model, data: zoo.data.Dataset) -> dict[str, float]:
    """Mean log likelihoods of an image, in nats."""
    return {s: float(model.log_prob(getattr(data, s)).double().mean()) for s in ("valid", "test")}


def join(runs: list[str], data: zoo.data.Dataset) -> tuple[zoo.Model, dict]:
    """Make an ensemble of the nets of finished runs, and score it."""
    model = zoo.OrderEnsemble.of([trained(run) for run in runs])
    records = [json.loads(Path(f"{run}.json").read_text()) for run in runs]
    return model, {"members": records, "orders": model.num_members, **score(model, data)}


def main(
    name: str,
    run: str,
    join_runs: Sequence[str] = (),
    passes: float | None = None,
    batch: int | None = None,
    rate: float | None = None,
    decay: float | None = None,
    patience: int | None = None,
    start: str | None = None,
    device: str = "cpu",
    threads: int = 1,
    ship: bool = False,
) -> None:
    """Train, from where the run directory stands, and score."""
    torch.set_num_threads(threads)
    data = zoo.data.load("mnist-binarized", binarization="fixed")
    splits = {s: getattr(data, s).reshape(-1, 28, 28) for s in ("train", "valid", "test")}
    data = zoo.data.Dataset(data.name, data.card, **splits)
    if join_runs:
        model, record = join([run, *join_runs], data)
        print(json.dumps({key: record[key] for key in ("orders", "valid", "test")}))
        if ship:
            write_weights(model, f"{name}-mnist", record)
        return
    asked = {"passes": passes, "batch": batch, "rate": rate, "decay": decay, "patience": patience}
    given = {key: value for key, value in asked.items() if value is not None}
    recipe = dataclasses.replace(RECIPES[name], **given)
    each = ROWS // recipe.batch  # steps of a pass
    solver = zoo.SVI(
        steps=round(recipe.passes * each),
        optimizer=partial(make_optimizer, recipe=recipe),
        batch_size=recipe.batch,
        schedule=partial(cosine, steps=round(recipe.passes * each)),
        patience=recipe.patience,
        validate_every=recipe.look * each,
        average=1.0 - 1.0 / (recipe.window * each),
        initialize=start is None,
        precision="bfloat16" if device != "cpu" or has_fast_bfloat16() else None,
        compile=False,
    )
    spent, begun_from = earlier(run, start)
    model = recipe.make() if start is None else trained(start)
    torch.manual_seed(0)
    started = time.process_time()
    resume = run if (Path(run) / "fit.json").exists() else None
    fit = zoo.fit(
        model,
        data,
        solver,
        device=device,
        checkpoint=run,
        checkpoint_seconds=120.0,
        resume=resume,
    )
    model = fit.model
    record = {
        "model": name,
        "binarization": "fixed",
        "orders": fit.model.num_members,
        "passes": recipe.passes,
        "batch_size": recipe.batch,
        "optimizer": recipe.optimizer,
        "rate": recipe.rate,
        "decay": recipe.decay,
        "precision": solver.precision or "float32",
        "seed": 0,
        "steps": fit.solution.steps[0],
        "stopped": fit.stopped,
        "seconds": round(fit.seconds),
        "cpu_seconds": spent + round(time.process_time() - started),
        **score(model, data),
    }
    if begun_from is not None:
        record["begun from"] = begun_from
    Path(f"{run}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record), flush=True)
    if ship:
        write_weights(model, f"{name}-mnist", record)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--run", required=True, help="run directory")
    parser.add_argument(
        "--join", dest="join_runs", nargs="+", default=(), help="runs to make an ensemble with"
    )
    parser.add_argument("--passes", type=float, help="over the training rows")
    parser.add_argument("--batch", type=int, help="rows of a step")
    parser.add_argument("--rate", type=float, help="learning rate")
    parser.add_argument("--decay", type=float, help="precision of the weights' normal prior")
    parser.add_argument("--patience", type=int, help="looks without a gain before it stops")
    parser.add_argument("--start", help="name of a pretrained net, or a run, to begin from")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ship", action="store_true", help="write the weights to the package")
    main(**vars(parser.parse_args()))
