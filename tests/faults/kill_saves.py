"""Saves that are killed, run out of disk, or meet: what stands in the folder afterwards.

`python tests/faults/kill_saves.py NUM` tries each and prints a table: NUM kills at random moments,
one before each file operation of a save (each third if NUM is below 50), limits on the size of a
file, and saves side by side. After each the folder is loaded: it has to hold one of the two fits
that were saved to it, complete.
"""

import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

import ppl_zoo as zoo

#: operations on files that Python audits
OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir"}
#: seconds within which a random kill comes
LONGEST = 0.05
#: seconds that two processes save side by side
TOGETHER = 0.5


def make_fits():
    x = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    return [zoo.fit(zoo.GaussianMixture(3, 4), x, zoo.EM(steps=n), progress=False) for n in (2, 3)]


def is_whole(path, fits):
    """Whether a folder holds one of the fits, to the bit."""
    found = zoo.load(path)
    (same,) = [fit for fit in fits if fit.solution.steps == found.solution.steps]
    kept = [
        k
        for k, v in same.solution.parameters.items()
        if not torch.equal(v, found.solution.parameters[k])
    ]
    return not kept and torch.equal(found.data()[0], same.data()[0])


def fork(work):
    """Run a function in a child that ends with it."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    return child


def save_forever(path, fits):
    while True:
        for fit in fits:
            fit.save(path)


def kill_at_random(folder, fits, num, rng):
    path = folder / "random"
    fits[0].save(path)
    whole = 0
    for _ in range(num):
        child = fork(lambda: save_forever(path, fits))
        time.sleep(rng.uniform(0.0, LONGEST))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        whole += is_whole(path, fits)
    fits[0].save(path)
    assert not leftovers(path), f"left after the next save: {leftovers(path)}"
    return num, whole


def kill_at_operations(folder, fits, stride):
    """Die before each operation, or each ``stride``-th, of a save over another run."""
    tried = whole = 0
    while True:
        path = folder / f"operation-{tried}"
        fits[0].save(path)

        def work(path=path, last=tried * stride):
            seen = 0

            def hook(event, arguments):
                nonlocal seen
                if event in OPERATIONS:
                    if seen == last:
                        os.kill(os.getpid(), signal.SIGKILL)
                    seen += 1

            sys.addaudithook(hook)
            fits[1].save(path)

        _, status = os.waitpid(fork(work), 0)
        whole += is_whole(path, fits)
        tried += 1
        fits[1].save(path)
        assert not leftovers(path), f"left after the next save: {leftovers(path)}"
        if status == 0:
            return tried, whole


def fill_the_disk(folder, fits):
    """Limit the size of a file, as a full disk does; the system refuses the write then."""
    path = folder / "full"
    fits[0].save(path)
    largest = max(file.stat().st_size for file in path.iterdir())
    limits = [0, 1, 100, *range(500, largest + 1, max(largest // 8, 500))]
    whole = 0
    for limit in limits:

        def work(limit=limit):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                fits[1].save(path)
            except zoo.RunError as error:
                assert str(path) in str(error) and "is intact" in str(error), error
            else:
                raise AssertionError(f"saved with {limit} bytes a file")

        _, status = os.waitpid(fork(work), 0)
        found = zoo.load(path).solution.steps
        whole += status == 0 and found == fits[0].solution.steps and not leftovers(path)
    return len(limits), whole


def save_side_by_side(folder, fits):
    """Load again and again while two processes save to one folder."""
    path = folder / "together"
    fits[0].save(path)
    children = [fork(lambda: save_forever(path, fits)) for _ in range(2)]
    tried = whole = 0
    began = time.monotonic()
    while time.monotonic() - began < TOGETHER:
        whole += is_whole(path, fits)
        tried += 1
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return tried, whole + (not is_whole(path, fits))


def leftovers(path):
    listed = json.loads((path / "fit.json").read_text())["files"]
    return {file.name for file in path.iterdir()} - {"fit.json", *listed}


def main(num):
    torch.set_num_threads(1)
    fits = make_fits()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return {
            "killed at a random moment of a save": kill_at_random(
                folder, fits, num, random.Random(0)
            ),
            "killed before a file operation of a save": kill_at_operations(
                folder, fits, 1 if num >= 50 else 3
            ),
            "no room on the disk for a file": fill_the_disk(folder, fits),
            "loaded while two processes save": save_side_by_side(folder, fits),
        }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1])), indent=1))
