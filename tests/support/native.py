"""C++ of tests/native, compiled as the extension is, for tests of what Python does not see."""

import atexit
import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import toolchain

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


def symbols(path: Path, kind: str) -> set[str]:
    """The dynamic symbols of a library: kind is "defined" or "undefined"."""
    command = ["nm", "-D", f"--{kind}-only", str(path)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {line.split()[-1].partition("@")[0] for line in lines}
