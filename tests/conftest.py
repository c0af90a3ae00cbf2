"""Types are checked while testing: jaxtyping's shapes by beartype, in all of ppl_zoo."""

import os
import warnings

import pytest
import torch
from jaxtyping import install_import_hook

with warnings.catch_warnings():
    # beartype looks at Pyro's annotations, some of which are deprecated
    warnings.simplefilter("ignore")
    with install_import_hook("ppl_zoo", "beartype.beartype"):
        import ppl_zoo  # noqa: F401  so that its annotations are checked


if "PYTEST_XDIST_WORKER" in os.environ:
    # the cores are taken by the other workers; threads beyond them would only wait
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_noise():
    """One seed for every test, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here; the CPU path is tested in full")
    return torch.device("cuda")
