"""Types are checked while testing: jaxtyping's shapes by beartype, in all of ppl_zoo."""

import ctypes
import gc
import os
import sys
import warnings

import pytest
import torch
from jaxtyping import install_import_hook


def pytest_configure(config):
    """Import ppl_zoo with its annotations checked, in each process that runs tests."""
    if config.getoption("numprocesses", None) and "PYTEST_XDIST_WORKER" not in os.environ:
        return  # the controller only hands tests out
    with warnings.catch_warnings():
        # beartype looks at Pyro's annotations, some of which are deprecated
        warnings.simplefilter("ignore")
        with install_import_hook("ppl_zoo", "beartype.beartype"):
            import ppl_zoo.surface  # noqa: F401


if "PYTEST_XDIST_WORKER" in os.environ:
    # the cores are taken by the other workers; threads beyond them would only wait
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_noise():
    """One seed for every test, whatever ran before it."""
    torch.manual_seed(0)


#: bytes of resident memory from which compiled programs are dropped between tests, and by which
#: it may grow again until the next time
RESIDENT, GROWTH = 2**30, 2**29


@pytest.fixture(autouse=True, scope="session")
def resident_limit():
    """Memory that a test may leave behind; a list, since it moves."""
    return [RESIDENT]


@pytest.fixture(autouse=True)
def bounded_memory(resident_limit):
    """Drop compiled programs once they take much: a worker compiles more than a user's process."""
    yield
    if resident() > resident_limit[0]:
        drop_programs()
        resident_limit[0] = max(RESIDENT, resident() + GROWTH)


def resident():
    """Bytes of resident memory, 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def drop_programs():
    if "ppl_zoo.compiler.xla.cache" in sys.modules:
        sys.modules["ppl_zoo.compiler.xla.cache"].PROGRAMS.clear()
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    gc.collect()
    if sys.platform == "linux":
        # hand freed memory back: glibc keeps it, in an arena for each thread that compiled
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here; the CPU path is tested in full")
    return torch.device("cuda")
