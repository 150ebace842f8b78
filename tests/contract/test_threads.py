"""Threads: their number changes no value, several fill at once, and no more of them run than torch allows."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import fastinit
from fills import CASES, FILLS, Call, assert_same, run_together, threads

every_case = pytest.mark.parametrize(("name", "dtype"), CASES, ids=[f"{n}-{d}" for n, d in CASES])


def views(fill: Call, dtype: torch.dtype) -> list[torch.Tensor]:
    """Tensors large enough for seven threads, split at odd places."""
    tensors = [torch.empty(331, 367, dtype=dtype), torch.empty(367, 331, dtype=dtype).t()]
    if not fill.matrix:
        tensors += [
            torch.empty(131_077, dtype=dtype),
            torch.empty(61, 45, 71, dtype=dtype)[:, 1:44].permute(1, 2, 0),
        ]
    return tensors


@every_case
def test_number_of_threads(name: str, dtype: torch.dtype) -> None:
    fill = FILLS[name]
    for view in views(fill, dtype):
        with threads(1):
            expected = fill(view).clone()
        for count in (2, 3, 7):
            view.fill_(-777.0)
            with threads(count):
                assert torch.get_num_threads() == count
                assert_same(
                    fill(view), expected, f"{count} threads, {tuple(view.shape)}, strides {view.stride()}"
                )


def test_number_of_threads_beyond_the_caches() -> None:
    """Stores that bypass the caches: every thread's own part is complete when the call returns."""
    fill = FILLS["normal"]
    for elements in ((4 << 20) // 4, (9 << 20) // 4 + 77):
        expected = fill.new(elements)
        for count in (1, 3, 7):
            with threads(count):
                assert_same(fill.new(elements), expected, f"{count} threads")


def test_python_threads_with_their_own_generators() -> None:
    """Fills that run at the same time, some of them on several of torch's threads, do not disturb each other."""
    names = ("uniform", "normal", "truncated, normal proposal", "sparse")
    shape, repeats = (400, 251), 12
    expected = {
        name: [FILLS[name].draw(torch.empty(shape), generator) for _ in range(repeats)]
        for seed, name in enumerate(names)
        for generator in [torch.Generator().manual_seed(seed)]
    }

    def job(seed: int, name: str) -> Callable[[], None]:
        def fill_again() -> None:
            generator, tensor = torch.Generator().manual_seed(seed), torch.empty(shape)
            for values in expected[name]:
                assert_same(FILLS[name].draw(tensor, generator), values, name)

        return fill_again

    run_together(*(job(seed, name) for seed, name in enumerate(names)))


def test_python_threads_with_one_generator() -> None:
    """A key is taken under the generator's lock: none is taken twice, none is lost, whoever gets which."""
    count, workers = 200, 4
    alone = torch.Generator().manual_seed(5)
    expected = [FILLS["uniform"].draw(torch.empty(3), alone).tolist() for _ in range(count * workers)]
    shared = torch.Generator().manual_seed(5)
    drawn: list[list[list[float]]] = [[] for _ in range(workers)]

    def job(mine: list[list[float]]) -> Callable[[], None]:
        def draw() -> None:
            mine.extend(FILLS["uniform"].draw(torch.empty(3), shared).tolist() for _ in range(count))

        return draw

    run_together(*(job(mine) for mine in drawn))
    assert sorted(expected) == sorted(values for mine in drawn for values in mine)
    assert torch.equal(shared.get_state(), alone.get_state())


def test_the_gil_is_released() -> None:
    """While one thread fills, another runs Python."""
    tensor = torch.empty(1 << 22)
    FILLS["truncated, normal proposal"](tensor)  # memory and threads are there
    finished = threading.Event()

    def fill() -> None:
        for _ in range(30):
            FILLS["truncated, normal proposal"](tensor)
        finished.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)  # nobody gives the GIL away unless it is released
    try:
        thread = threading.Thread(target=fill)
        thread.start()
        rounds = 0
        while not finished.wait(0.0005):
            rounds += 1
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert rounds > 5, "this thread did not run until the other one had finished"


ONE_THREAD = """
import os
import torch
import fastinit

torch.set_num_threads(1)
tensor = torch.empty(1 << 22)
before = len(os.listdir("/proc/self/task"))
fastinit.normal_(tensor)
fastinit.trunc_normal_(tensor)
assert len(os.listdir("/proc/self/task")) == before, "a thread was started"
torch.set_num_threads(3)
fastinit.normal_(tensor)
assert len(os.listdir("/proc/self/task")) <= before + 2, "more threads were started than torch allows"
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_no_more_threads_than_torch_allows() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(fastinit.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", ONE_THREAD], check=True, timeout=300, env=environment)
