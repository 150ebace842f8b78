"""What the tests of fastinit.enabled() share: whether it is on, other threads and other processes."""

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn import init

import fastinit
from testing import FUNCTIONS

ORIGINALS = {name: (getattr(init, name), getattr(init, name).__code__) for name in FUNCTIONS}
METHODS = ("normal_", "uniform_", "zero_", "fill_", "copy_", "clone")


def seeded(fill: Callable[..., Any], *args: Any, seed: int = 5, **kwargs: Any) -> torch.Tensor:
    torch.manual_seed(seed)
    result = fill(*args, **kwargs)
    assert isinstance(result, torch.Tensor)
    return result.detach().clone()


def is_on() -> bool:
    """Whether torch's initialisation gives fastinit's values here and now."""
    theirs, ours = (seeded(module.uniform_, torch.empty(20)) for module in (init, fastinit))
    return torch.equal(theirs, ours)


@contextmanager
def elsewhere() -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Another thread, and a function that has it call something."""
    jobs: list[Callable[[], Any]] = []
    results: list[Any] = []
    ready, done = threading.Semaphore(0), threading.Semaphore(0)

    def work() -> None:
        while True:
            ready.acquire()
            job = jobs.pop()
            results.append(job())
            done.release()
            if job is stop:
                return

    def stop() -> None: ...

    def ask(job: Callable[[], Any]) -> Any:
        jobs.append(job)
        ready.release()
        assert done.acquire(timeout=60)
        return results.pop()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield ask
    finally:
        ask(stop)
        thread.join()


def run(program: str) -> None:
    """Run a program in a process of its own, which must end well."""
    code = "import torch, fastinit\nfrom torch.nn import init\n" + textwrap.dedent(program)
    variables = os.environ | {"PYTHONPATH": str(Path(fastinit.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
