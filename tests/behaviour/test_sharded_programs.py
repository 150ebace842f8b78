"""Real programs on four ranks: one model, whatever it is split into. One launch serves several of them."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sharded_programs

RANKS = 4
SECONDS = 240  # for a launch. It takes about ten on two cores, most of which is spent on imports.
TRANSFORMERS = ("llama", "mixtral_with_sharded_experts")
PROGRAMS = [name for name in sharded_programs.PROGRAMS if name not in TRANSFORMERS]

pytestmark = pytest.mark.xdist_group("sharded programs")


def launch(directory: Path, names: list[str]) -> dict[str, dict[int, str | None]]:
    """For each program what went wrong on each rank; None if nothing did."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "torch.distributed.run",
        "--standalone",
    ]  # on a free port
    command += [f"--nproc-per-node={RANKS}", sharded_programs.__file__, str(directory), *names]
    settings = {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",  # whatever the machine's name stands for
    }
    log = directory / "log.txt"
    with log.open("w") as output:
        launcher = subprocess.Popen(
            command, env={**os.environ, **settings}, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            launcher.wait(SECONDS)
        except subprocess.TimeoutExpired:
            launcher.terminate()  # it ends its ranks then
            launcher.wait()
    found: dict[str, dict[int, str | None]] = {name: {} for name in names}
    for rank in range(RANKS):
        result = directory / f"rank{rank}.json"
        told = json.loads(result.read_text()) if result.exists() else {}
        for name in names:
            found[name][rank] = told.get(name, f"it did not come to its end:\n{log.read_text()[-4000:]}")
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, str | None]]:
    return launch(tmp_path_factory.mktemp("programs"), PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str, outcomes: dict[str, dict[int, str | None]]) -> None:
    assert_went_well(outcomes[name])


@pytest.fixture(scope="module")
def outcomes_of_transformers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, str | None]]:
    return launch(tmp_path_factory.mktemp("transformers"), list(TRANSFORMERS))


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name: str, outcomes_of_transformers: dict[str, dict[int, str | None]]) -> None:
    assert_went_well(outcomes_of_transformers[name])


def assert_went_well(outcome: dict[int, str | None]) -> None:
    wrong = {rank: error for rank, error in outcome.items() if error is not None}
    assert not wrong, "\n".join(f"rank {rank}: {error}" for rank, error in wrong.items())
