"""What holds for every test."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:  # what a machine for the CUDA tests need not have is imported where it is used
    from goodness import Check


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Where other programs keep the cores busy, waiting for a second thread takes most of the time."""
    from fills import threads

    with threads(1):
        yield


@pytest.fixture(scope="session")
def p_values() -> Iterator[dict[str, dict]]:
    """What each test function found that takes `check`. FASTINIT_P_VALUES=FILE keeps it there, in the place of what earlier
    runs have found by the same tests."""
    found: dict[str, dict] = {}
    about = {}
    if file := os.environ.get("FASTINIT_P_VALUES"):
        import scipy
        from benchmarks import machine

        about = machine.describe()
        about["versions"]["scipy"] = scipy.__version__
    yield found
    if about and found:
        from goodness import ALARM

        path = Path(file)
        earlier = json.loads(path.read_text())["runs"] if path.exists() else []
        for run in earlier:
            run["tests"] = {name: test for name, test in run["tests"].items() if name not in found}
        runs = [*(run for run in earlier if run["tests"]), about | {"tests": found}]
        path.write_text(json.dumps({"alarm": ALARM, "runs": runs}, indent=1) + "\n")


@pytest.fixture
def check(request: pytest.FixtureRequest, p_values: dict[str, dict]) -> Iterator[Check]:
    """Takes p-values; fails the test at its end if one is too small, or none."""
    from goodness import ALARM

    function, case = request.node.originalname, request.node.name.partition("[")[2].removesuffix("]")
    about = request.function.__doc__.splitlines()[0]
    mine = p_values.setdefault(function, {"about": about, "seconds": 0.0, "p_values": {}})
    alarms = {}

    def take(what: str, p: float) -> None:
        mine["p_values"][f"{case}: {what}" if case else what] = p
        if not p >= ALARM:
            alarms[what] = p

    began = time.perf_counter()
    yield take
    mine["seconds"] = round(mine["seconds"] + time.perf_counter() - began, 1)
    assert not alarms, alarms
