"""C++ of tests/native, compiled as the extension is, for tests of what Python does not see, and for processors that are only
emulated here."""

import atexit
import ctypes
import fcntl
import functools
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import toolchain

from fills import REAL, PlainFill

ROOT = Path(__file__).parents[2]

_folder = tempfile.mkdtemp(prefix="fastinit-native-")
if "--coverage" not in toolchain.CXX_FLAGS:  # gcov needs what the compiler has left there
    atexit.register(shutil.rmtree, _folder)


@functools.cache
def library(name: str) -> ctypes.CDLL:
    """tests/native/NAME.cpp as a shared library."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs a compiler that makes shared objects as Linux has them")
    given = shlex.split(os.environ.get("CXXFLAGS", ""))
    output = Path(_folder, f"{name}.so")
    source = ROOT / "tests" / "native" / f"{name}.cpp"
    flags = ["-O1", *given, *toolchain.COMMON, "-Werror", "-fPIC", "-shared"]
    subprocess.run([*toolchain.CXX, *flags, str(source), "-o", str(output)], check=True)
    return ctypes.CDLL(str(output))


class Machine(NamedTuple):
    """What programs are compiled for, and how they are run."""

    name: str
    cxx: tuple[str, ...]
    run: tuple[str, ...]
    optimise: tuple[str, ...]

    def missing(self) -> str:
        """The first program that is not there; empty if all are."""
        programs = [self.cxx[0], *self.run[:1]]
        return next((program for program in programs if not shutil.which(program)), "")


# The extension is tested here as it is. Elsewhere nothing else is.
HERE = Machine("here", tuple(toolchain.CXX), (), ("-O1",))
AARCH64 = Machine(
    "aarch64",
    ("aarch64-linux-gnu-g++",),
    ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"),
    ("-O3", "-DNDEBUG"),
)


@functools.cache
def lanes(machine: Machine, target: str) -> Path:
    """tests/native/lanes.cpp, for one line of cpu/targets.def."""
    output = Path(_folder, f"lanes-{machine.name}-{target}")
    flags = ["-O1", *toolchain.COMMON, "-Werror", *toolchain.instruction_sets(machine.cxx)[target]]
    source = ROOT / "tests" / "native" / "lanes.cpp"
    subprocess.run([*machine.cxx, *flags, str(source), "-o", str(output)], check=True)
    return output


@functools.cache
def fills(machine: Machine) -> Path:
    """tests/native/fills.cpp with the CPU's loops, for all lines of cpu/targets.def. It takes a minute, and stays in build/."""
    cpu = toolchain.CSRC / "cpu"
    jobs: list[tuple[Path, list[str]]] = [(ROOT / "tests" / "native" / "fills.cpp", [])]
    jobs += [(cpu / f"{name}.cpp", []) for name in ("fill", "parallel", "product", "target")]
    for extra in toolchain.instruction_sets(machine.cxx).values():
        jobs += [(source, extra) for source in sorted(cpu.glob("*_target.cpp"))]
    common = [*machine.cxx, *machine.optimise, *toolchain.COMMON, "-Werror"]
    lines = ["rule run", "  command = $run", "rule compile", "  command = $run -MD -MF $out.d -c $in -o $out"]
    lines += ["  depfile = $out.d", "  deps = gcc"]
    for i, (source, extra) in enumerate(jobs):
        run = shlex.join([*common, *extra]).replace("$", "$$")
        lines += [f"build {i}.o: compile {str(source).replace(' ', '$ ')}", f"  run = {run}"]
    objects = [f"{i}.o" for i in range(len(jobs))]
    run = shlex.join([*machine.cxx, "-pthread", *objects, "-o", "fills"])
    lines += [f"build fills: run {' '.join(objects)}", f"  run = {run}", ""]

    folder = ROOT / "build" / "native" / machine.name
    folder.mkdir(parents=True, exist_ok=True)
    ninja = [sys.executable, "-m", "ninja"] if importlib.util.find_spec("ninja") else ["ninja"]
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # for tests side by side
        (folder / "build.ninja").write_text("\n".join(lines))
        subprocess.run([*ninja, "--quiet", "-C", str(folder)], check=True)
    return folder / "fills"


class Case(NamedTuple):
    """A line for tests/native/fills.cpp, and how many bytes it answers."""

    line: str
    bytes: int


def case(fill: PlainFill, key: int) -> Case:
    """A fill of this tensor, in memory like its own, which is the answer."""
    size, region = fill.numbers.untyped_storage().nbytes(), fill.region
    numbers = [REAL.index(fill.numbers.dtype), key, fill.first, size, fill.numbers.storage_offset()]
    numbers += [len(region) // 3, *region, len(fill.parameters)]
    return Case(" ".join([fill.op, *map(str, numbers), *map(float.hex, map(float, fill.parameters))]), size)


def run_fills(machine: Machine, target: str, cases: Sequence[Case], threads: int = 1) -> Iterator[bytes]:
    """The answers, one after the other."""
    command = [*machine.run, str(fills(machine)), target, str(threads)]
    lines = "\n".join(case.line for case in cases)
    done = subprocess.run(command, input=lines.encode(), stdout=subprocess.PIPE)
    assert done.returncode == 0 and len(done.stdout) == sum(case.bytes for case in cases)
    at = 0
    for case in cases:
        yield done.stdout[at : at + case.bytes]
        at += case.bytes


def symbols(path: Path, kind: str) -> set[str]:
    """The dynamic symbols of a library: kind is "defined" or "undefined"."""
    command = ["nm", "-D", f"--{kind}-only", str(path)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {line.split()[-1].partition("@")[0] for line in lines}
