"""The stream's words, in three orders, before batteries of tests for random numbers: dieharder, and TestU01 where it is.

The orders (stream_words.h): by index under one key; the same index under 256 consecutive keys, then the next index; the
low bits alone. A test of a battery gets a key of its own, which depends on its name.
"""

import os
import shutil
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import toolchain
import torch

from fills import KEY, Call
from goodness import Check
from reference import bits

ROOT = Path(__file__).parents[2]
FLAGS = ["-O3", "-march=native", *toolchain.COMMON, "-Werror"]
ORDERS = ("index", "keys", "low")

every_order = pytest.mark.parametrize("order", ORDERS)

Build = Callable[..., Path]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    def compile_program(name: str, *libraries: str) -> Path:
        output = tmp_path_factory.mktemp("programs") / name
        source = ROOT / "tests" / "native" / f"{name}.cpp"
        subprocess.run([*toolchain.CXX, *FLAGS, str(source), "-o", str(output), *libraries], check=True)
        return output

    return compile_program


@pytest.fixture(scope="session")
def stream_words(build: Build) -> Path:
    return build("stream_words")


def first_words(program: Path, order: str, key: int, count: int) -> np.ndarray:
    with subprocess.Popen([str(program), order, hex(key)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        data = process.stdout.read(4 * count)
        process.kill()
    return np.frombuffer(data, "<u4")


def test_these_are_the_words_of_the_fills(stream_words: Path) -> None:
    """As far as several of the program's buffers reach; reference.py has the published vectors behind it."""
    count = 1 << 18
    index = np.arange(count, dtype=np.uint64)
    words = first_words(stream_words, "index", KEY, count)
    assert np.array_equal(words, bits(index, KEY, wide=False))
    uniform = Call("uniform_", (0.0, 1.0)).new(count, key=KEY)
    assert torch.equal(uniform, torch.from_numpy((words >> 8).astype(np.float32)) / 2**24)

    low = first_words(stream_words, "low", KEY, count // 4)
    assert np.array_equal(low.view(np.uint8), (words & 255).astype(np.uint8))

    keys = first_words(stream_words, "keys", KEY, count).reshape(-1, 256)
    for k in (0, 1, 2, 255):
        assert np.array_equal(keys[:, k], bits(index[: len(keys)], KEY + k, wide=False)), k


# The tests of dieharder 3.31 with their -n, but for those which its list (dieharder -l) calls suspect (opso, oqso, dna) or
# not to be used (sums), the one of its own Kolmogorov-Smirnov test, and marsaglia_tsang_gcd, which takes minutes.
DIEHARDER = [
    *((test, None) for test in (0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 15, 16, 100, 101, 102)),
    *((200, 8), (201, 4), (202, 5), (203, 8)),
    *((test, None) for test in (205, 206, 207, 208, 209)),
]


@pytest.mark.long
@every_order
def test_dieharder(check: Check, stream_words: Path, order: str) -> None:
    """dieharder's tests of the words by index, of consecutive keys and of the low bits"""
    dieharder = shutil.which("dieharder")
    if dieharder is None:
        pytest.skip("needs dieharder (on Debian and Ubuntu: apt install dieharder)")
    for test, ntuple in DIEHARDER:
        key = zlib.crc32(f"dieharder {order} {test}".encode()) << 32
        command = [dieharder, "-g", "200", "-d", str(test), "-c", ","]
        command += ["-D", "test_name", "-D", "ntuple", "-D", "pvalues"]
        if ntuple is not None:
            command += ["-n", str(ntuple)]
        with subprocess.Popen([str(stream_words), order, hex(key)], stdout=subprocess.PIPE) as words:
            done = subprocess.run(command, stdin=words.stdout, capture_output=True, text=True, check=True)
            words.kill()
        lines = [[word.strip() for word in line.split(",")] for line in done.stdout.splitlines()]
        assert lines, done.stderr
        for i, (name, n, *_, p) in enumerate(lines):
            # Eight decimals are printed: 0 and 1 are p-values within 5e-9 of those.
            check(f"{name} {n} ({i})", two_sided(float(p)))


def two_sided(p: float) -> float:
    return 2 * min(p, 1 - p)


@pytest.mark.long
@every_order
def test_testu01(check: Check, build: Build, order: str) -> None:
    """TestU01's SmallCrush of the same (FASTINIT_TESTU01=Crush: Crush, for hours)"""
    header = subprocess.run(
        [*toolchain.CXX, "-E", "-x", "c", "-"],
        input="#include <testu01/bbattery.h>",
        capture_output=True,
        text=True,
    )
    if header.returncode:
        pytest.skip(
            "needs TestU01 (on Debian and Ubuntu, non-free or multiverse: apt install libtestu01-0-dev)"
        )
    program = build("testu01", "-ltestu01", "-ltestu01probdist", "-ltestu01mylib", "-lm")
    battery = os.environ.get("FASTINIT_TESTU01", "SmallCrush")
    key = zlib.crc32(f"TestU01 {order}".encode()) << 32
    done = subprocess.run([program, battery, order, hex(key)], capture_output=True, text=True, check=True)
    lines = [line.split(" ", 1)[1] for line in done.stdout.splitlines() if line.startswith("p-value ")]
    assert lines, done.stdout
    for line in lines:
        name, p = line.rsplit(" ", 1)
        check(f"{battery} {name}", two_sided(float(p)))
