"""One peer in a process of its own: imported and warmed up once, then asleep until told to measure.

`python worker.py MODULE:FUNCTION SETUP`, with the setup as JSON, calls that function of
`peers.MODULE` with the setup and a clock. The process that started it writes a line for each
measurement it wants and reads one line of JSON for each; the first one says that the peer is warm.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TextIO

Facts = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """What a peer works on; equal for all peers of a group."""

    data: str
    """The folder with `cifar10` and `hymenoptera`."""
    scratch: str
    """A folder of this benchmark run, for caches, run folders and prepared inputs."""
    model: str = "resnet18"
    size: int = 64
    batch: int = 32
    images: int = 0
    epochs: int = 1
    top_layers: int = 2
    """How many layers learn where the lower ones are frozen, the head counted."""
    warm: int = 10
    """Steps before the peer counts as warm."""
    skip: int = 10
    """Steps at the beginning of a block that are not timed: what loaders had read in advance."""
    steps: int = 30
    """Steps that are timed in each block."""

    @property
    def img_size(self) -> dict[str, int]:
        """The side of the input as timm's argument, for the models that need to know it."""
        return {"img_size": self.size} if self.model.startswith("vit") else {}


class Clock:
    """Times blocks of steps of a loop that belongs to a library; between the blocks it sleeps."""

    def __init__(self, setup: Setup, channel: TextIO) -> None:
        self.setup, self.channel = setup, channel
        self.count = -setup.warm
        self.began = 0.0

    def tick(self) -> None:
        """Count one step of the loop; called once in each, always at the same place."""
        self.count += 1
        if self.count == 0:
            self.ready()
        elif self.count == self.setup.skip + self.setup.steps:
            seconds = now() - self.began
            self.count = 0
            self.report(samples_per_second=self.setup.steps * self.setup.batch / seconds)
        if self.count == self.setup.skip:
            self.began = now()

    def each(self, measure: Callable[[], Facts]) -> NoReturn:
        """Call `measure` once for each measurement that is asked for."""
        self.ready()
        while True:
            self.report(**measure())

    def ready(self) -> None:
        """Say that the peer is warm, and sleep."""
        self._send({})
        self._wait()

    def report(self, **facts: Any) -> None:
        """Send what was measured, and sleep."""
        self._send(facts | {"peak_memory": peak_memory()})
        self._wait()

    def _send(self, facts: Facts) -> None:
        print(json.dumps(facts), file=self.channel, flush=True)

    def _wait(self) -> None:
        if not sys.stdin.readline():
            os._exit(0)  # a library's loop cannot be asked to end


def now() -> float:
    """Return seconds on a clock that only runs forward, the accelerator's work included."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(function: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    began = now()
    function()
    return now() - began


def peak_memory() -> int:
    """Return the most bytes that this process held, and those that its loaders hold alone."""
    import psutil

    children = psutil.Process().children(recursive=True)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return own + sum(child.memory_full_info().uss for child in children)


def main(peer: str, setup: str) -> None:
    """Run the peer until the process that started this one closes its end."""
    # Libraries print: the channel is kept for measurements alone.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, _, function = peer.partition(":")
    value = Setup(**json.loads(setup))
    getattr(importlib.import_module(f"peers.{module}"), function)(value, Clock(value, channel))
    raise SystemExit(f"{peer} ended before its last measurement.")


if __name__ == "__main__":
    main(*sys.argv[1:])
