"""A user's own model, as the run directories of `old_runs/` name it: `own_model:Shifted`."""

import pyro
import pyro.distributions as dist
import torch

import ppl_zoo as zoo


class Shifted(zoo.Model):
    """A mean for all rows, a latent for each, and an argument that is a tensor."""

    def __init__(self, shift, noise=0.5):
        super().__init__()
        self.register_buffer("shift", torch.as_tensor(shift))
        self.register_buffer("noise", torch.tensor(float(noise)))

    def model(self, y):
        mean = pyro.sample("mean", dist.Normal(self.shift.sum(), 1.0))
        with self.observations("rows", y):
            z = pyro.sample("z", dist.Normal(mean, 1.0))
            pyro.sample("y", dist.Normal(z, self.noise), obs=y)
