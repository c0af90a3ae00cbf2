"""Train a variational autoencoder on MNIST in black and white, in a run that can be resumed.

    python tools/train_vae_mnist.py --run runs/vae-mnist
    python tools/train_vae_mnist.py --run runs/vae-mnist-fixed --fixed
    python tools/train_vae_mnist.py --run runs/iwae-mnist --start runs/vae-mnist --draws 5

Nets 784-200-200-50 and back, tanh, as Burda et al. (2016) have them. Pixels are binarized anew in
each step, or held as papers with a fixed binarization have them. Every two minutes the run
directory is written; the same command goes on from there. At the end the test split is scored
with 5,000 importance samples a row, printed, and written beside the run as ``RUN.json``. To ship
the weights, add

    --ship ppl_zoo/pretrained/vae-mnist.safetensors

and a line to ``PRETRAINED`` in ``ppl_zoo/pretrained/reading.py``.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.optim.lr_scheduler import LambdaLR

import ppl_zoo as zoo
from ppl_zoo import evaluation

BATCH = 100
PASS = 500  # steps over the 50,000 rows of train


class GreyVAE(zoo.VAE):
    """Takes grey pixels, for an objective that draws black and white ones of them."""

    def check_data(self, rows: zoo.data.rows.Rows) -> None:
        """Refuse what is not finite."""
        zoo.Model.check_data(self, rows)


def main(
    run: str,
    passes: int = 800,
    rate: float = 1e-3,
    draws: int = 1,
    fixed: bool = False,
    start: str | None = None,
    ship: str | None = None,
    samples: int = 5000,
) -> None:
    """Train, from where the run directory stands, and score."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = GreyVAE(784, 50, (200, 200))
    if start is not None:
        made = zoo.load(start, model=made, data=torch.zeros(1, 784), solver=zoo.SVI()).model
    # what the epochs of dynamic binarization are drawn from is grey
    data = zoo.data.load("mnist-binarized") if fixed else zoo.data.load("mnist")
    steps = passes * PASS
    bound = "elbo" if draws == 1 else "iwae"
    gradient = "standard" if draws == 1 else "doubly-reparametrised"
    augment = None if fixed else torch.bernoulli
    solver = zoo.SVI(
        steps=steps,
        batch_size=BATCH,
        learning_rate=rate,
        # down to 0 over the steps; unlike "cosine" it follows --passes when a run goes on
        schedule=lambda optimizer: LambdaLR(
            optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))
        ),
        elbo=zoo.LocalELBO(draws, bound=bound, gradient=gradient, augment=augment),
        initialize=start is None,
        compile="xla",
        window=PASS,
        validate_every=5 * PASS,
        patience=passes,  # the best look at the validation rows is kept; none ends the run
    )
    fit = None
    if (Path(run) / "fit.json").exists():
        fit = zoo.load(run, model=made, data=data, solver=solver, device="cpu")
    if fit is None or fit.solution.steps[0] < steps:
        fit = zoo.fit(
            made,
            data,
            solver,
            device="cpu",
            checkpoint=run,
            checkpoint_seconds=120.0,
            resume=fit,
        )
    record = {
        "model": "VAE 784-200-200-50",
        "bound": f"{bound}, {draws} draws",
        "binarization": "fixed" if fixed else "dynamic",
        "passes": passes,
        "batch_size": BATCH,
        "learning_rate": rate,
        "started_from": start,
        "seed": 0,
        "steps": fit.solution.steps[0],
        "stopped": fit.stopped,
        "seconds": fit.seconds,
        "valid_bound": float(fit.solution.objective[0]) / len(data.train),
    }
    # what ships is scored: half precision
    weights = {k: v.half().contiguous() for k, v in fit.model.state_dict().items()}
    model = zoo.VAE(**made.config)
    model.load_state_dict({k: v.float() for k, v in weights.items()})
    if ship is not None:
        told = {"class": "VAE", "config": json.dumps(made.config)}
        save_file(weights, ship, metadata=told)
    kind = "fixed" if fixed else "dynamic"
    test = zoo.data.load("mnist-binarized", binarization=kind).test
    model.remember(model.as_rows(test))
    started = time.process_time()
    use = evaluation.latent_use(model, test)
    record |= {
        "test_elbo": float(model.elbo(test, 20).double().mean()),
        "kl": float(use.kl.sum()),
        "active": int(use.active.sum()),
    }
    print(json.dumps(record), flush=True)
    record["test"] = float(model.log_prob(test, num_samples=samples).double().mean())
    record["samples"] = samples
    record["scoring_seconds"] = time.process_time() - started
    Path(f"{run}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="run directory")
    parser.add_argument("--passes", type=int, default=800, help="over the training rows")
    parser.add_argument("--rate", type=float, default=1e-3, help="first learning rate")
    parser.add_argument("--draws", type=int, default=1, help="more than one for the IWAE bound")
    parser.add_argument("--fixed", action="store_true", help="one binarization for all steps")
    parser.add_argument("--start", help="run directory whose weights to begin with")
    parser.add_argument("--ship", help="file to write the weights to, in half precision")
    parser.add_argument("--samples", type=int, default=5000, help="of the test score, a row")
    main(**vars(parser.parse_args()))
