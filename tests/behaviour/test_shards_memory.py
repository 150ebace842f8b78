"""A rank fills its part of a tensor of terabytes in the memory of the part."""

import json
import os
import subprocess
import sys

import pytest

import peak_memory

MIB = 1 << 20


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system does not count so")
def test_peak_beyond_the_part() -> None:
    found = subprocess.run(
        [sys.executable, "-W", "ignore", peak_memory.__file__],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    peaks = json.loads(found.stdout)
    part = peaks.pop("part")
    assert part > 8 * MIB
    for name, peak in peaks.items():
        assert peak >= part if name.endswith("with a copy") else peak < MIB, (name, peak)
