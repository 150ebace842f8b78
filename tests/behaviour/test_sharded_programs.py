"""Real programs on four ranks: one model, whatever it is split into.

One launch serves all of them, for most of its time goes into imports. tests/support/sharded_programs.py says how to start a
single one.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sharded_programs

RANKS = 4
SECONDS = 240  # It takes about ten on two cores.
TRANSFORMERS = ["llama", "mixtral_with_sharded_experts"]
PROGRAMS = [name for name in sharded_programs.PROGRAMS if name not in TRANSFORMERS]


def launch(directory: Path, names: list[str]) -> str:
    """What went wrong: in which program, on which rank."""
    start = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run"]
    start += ["--standalone", f"--nproc-per-node={RANKS}"]  # on a free port of this machine
    settings = {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",  # whatever the machine's name stands for
    }
    log = directory / "log.txt"
    with log.open("w") as output:
        launcher = subprocess.Popen(
            [*start, sharded_programs.__file__, str(directory), *names],
            env={**os.environ, **settings},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            launcher.wait(SECONDS)
        except subprocess.TimeoutExpired:
            launcher.terminate()  # it ends its ranks then
            launcher.wait()
    wrong = []
    for rank in range(RANKS):
        result = directory / f"rank{rank}.json"
        found = json.loads(result.read_text()) if result.exists() else {}
        wrong += [
            f"{name} on rank {rank}: {found.get(name, 'did not end')}"
            for name in names
            if found.get(name, "") is not None
        ]
    if wrong:
        wrong.append(f"the end of what was printed:\n{log.read_text()[-4000:]}")
    return "\n".join(wrong)


def test_programs(tmp_path: Path) -> None:
    wrong = launch(tmp_path, PROGRAMS)
    assert not wrong, wrong


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")
def test_transformers(tmp_path: Path) -> None:
    wrong = launch(tmp_path, TRANSFORMERS)
    assert not wrong, wrong
