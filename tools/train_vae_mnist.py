"""Train a variational autoencoder on MNIST in black and white, in a run that can be resumed.

    python tools/train_vae_mnist.py --run runs/vae-mnist --ship vae-mnist
    python tools/train_vae_mnist.py --run runs/vae-mnist-fixed --fixed
    python tools/train_vae_mnist.py --run runs/iwae-mnist --start runs/vae-mnist --draws 5

Nets 784-200-200-50 and back, tanh, as Burda et al. (2016) have them. Pixels are binarized anew in
each step, or held as papers with a fixed binarization have them. Every two minutes the run
directory is written; the same command goes on from there. At the end the weights, rounded to half
precision, are scored with 5,000 importance samples for each row of the test split; that is
written beside the run as ``RUN.json``. With ``--ship NAME`` they go to
``ppl_zoo/models/pretrained/NAME.safetensors``; a new name needs a line in ``PRETRAINED`` of
``ppl_zoo/models/pretrained/weights.py``.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import torch
from train_mnist import cosine, write_weights

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
    passes: int = 400,
    rate: float = 1e-3,
    draws: int = 1,
    fixed: bool = False,
    start: str | None = None,
    samples: int = 5000,
    ship: str | None = None,
) -> None:
    """Train, from where the run directory stands, and score."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = GreyVAE(784, 50, (200, 200))
    if start is not None:
        made = zoo.load(start, model=made, data=torch.zeros(1, 784), solver=zoo.SVI()).model
    # what each step of dynamic binarization is drawn from is grey
    data = zoo.data.load("mnist-binarized") if fixed else zoo.data.load("mnist")
    steps = passes * PASS
    elbo = zoo.LocalELBO(
        draws,
        bound="elbo" if draws == 1 else "iwae",
        gradient="standard" if draws == 1 else "doubly-reparametrised",
        augment=None if fixed else torch.bernoulli,
    )
    solver = zoo.SVI(
        steps=steps,
        batch_size=BATCH,
        learning_rate=rate,
        schedule=partial(cosine, steps=steps),
        elbo=elbo,
        initialize=start is None,
        compile="xla",
        window=PASS,
        validate_every=5 * PASS,
        patience=passes,  # the best look at the validation rows is kept; none ends the run
    )
    fit, began = None, time.process_time()
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
        "bound": f"{elbo.bound}, {draws} draws",
        "binarization": "fixed" if fixed else "dynamic",
        "passes": passes,
        "batch_size": BATCH,
        "rate": rate,
        "started_from": None if start is None else Path(start).name,
        "seed": 0,
        "steps": fit.solution.steps[0],
        "stopped": fit.stopped,
        "seconds": round(fit.seconds),
        "cpu_seconds": round(time.process_time() - began),
        "valid_bound": float(fit.solution.objective[0]) / len(data.train),
    }
    model = zoo.VAE(**made.config)
    model.load_state_dict({k: v.half().float() for k, v in fit.model.state_dict().items()})
    test = zoo.data.load("mnist-binarized", binarization=record["binarization"]).test
    use = evaluation.latent_use(model, test)
    record |= {
        "test_elbo": float(model.elbo(test, 20).double().mean()),
        "kl": float(use.kl.sum()),
        "active": int(use.active.sum()),
        "samples": samples,
        "test": float(model.log_prob(test, num_samples=samples).double().mean()),
    }
    Path(f"{run}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record), flush=True)
    if ship is not None:
        write_weights(model, ship, record)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="run directory")
    parser.add_argument("--passes", type=int, default=400, help="over the training rows")
    parser.add_argument("--rate", type=float, default=1e-3, help="first learning rate")
    parser.add_argument("--draws", type=int, default=1, help="more than one for the IWAE bound")
    parser.add_argument("--fixed", action="store_true", help="one binarization for all steps")
    parser.add_argument("--start", help="run directory whose weights to begin with")
    parser.add_argument("--samples", type=int, default=5000, help="of the test score, a row")
    parser.add_argument("--ship", help="name to write the weights to the package under")
    main(**vars(parser.parse_args()))
