"""The same key gives the same bits in another process, by a data-free method and by descent."""

import hashlib
import os
import subprocess
import sys

import jax

import ignpx
from by_hand import CLASSES, bits, model, samples
from ignpx import Request
from ignpx.methods import METHODS

SETTINGS = {
    "ignp": {"samples": 4, "held_out": 2, "steps": 20, "coverage": (0.01, 0.5)},
    "finetune": {"epochs": 2, "batch_size": 4},
}


def digest(name, seed):
    """Of what the method makes of the linear model by hand."""
    request = Request.classes([0], CLASSES, retain_data=samples(10, classes=range(1, CLASSES)))
    method, key = METHODS[name](**SETTINGS[name]), jax.random.key(seed)
    edited, info = ignpx.unlearn(method, model(), request, key)
    return hashlib.sha256(b"".join(bits((edited, info)))).hexdigest()


def started(hash_seed):
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    command = [sys.executable, __file__]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_in_two_processes():
    # Nor do the bits hang on the order of sets of strings, which differs with the seed of hashes.
    processes = [started(hash_seed) for hash_seed in ("1", "2")]
    first, second = (process.communicate()[0].split() for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert first == second
    # Each method with each key makes something else.
    assert len(set(first)) == 2 * len(SETTINGS)


if __name__ == "__main__":
    for name in SETTINGS:
        for seed in (0, 1):
            print(digest(name, seed))
