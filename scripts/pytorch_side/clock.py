"""Seconds by stage, under the names that ours has."""

import contextlib
import time
from collections.abc import Iterator

import torch


class Clock:
    """Seconds by stage, with the device waited for."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds what its block takes."""
        synchronise(self.device)
        begin = time.perf_counter()
        yield
        synchronise(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


def synchronise(device: torch.device) -> None:
    """Waits for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
