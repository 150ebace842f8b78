"""The compiled part that does not fit: what `import fastinit` says."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import warnings
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import torch

import fastinit
from fastinit import _C, _load

BUILT_WITH = _C.build_info()["torch_built_with"]
RELEASE = _load.release(torch.__version__)
SUFFIX = EXTENSION_SUFFIXES[0]


@pytest.mark.parametrize(
    ("version", "release", "development"),
    [
        ("2.13.0", (2, 13), False),
        ("2.13.1+cpu", (2, 13), False),
        ("2.14.0+cu130", (2, 14), False),
        ("2.15.0.dev20261130+cu130", (2, 15), True),
        ("2.15.0a0+git0123abc", (2, 15), True),
        ("2.15.0rc1", (2, 15), True),
    ],
)
def test_versions(version: str, release: tuple[int, int], development: bool) -> None:
    assert _load.release(version) == release
    assert _load.is_development_build(version) == development


def test_the_file_tells_torch_s_version() -> None:
    assert _load.built_with(Path(_C.__file__)) == BUILT_WITH


def test_the_module_is_this_torch_s() -> None:
    assert Path(_C.__file__).name == f"_C_{RELEASE[0]}_{RELEASE[1]}{SUFFIX}"
    assert sys.modules["fastinit._C"] is fastinit._C is _C


# ---------------------------------------------------------------------------------------------------------------
# Packages of which something is missing


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy without the compiled part, and not in a clone."""
    copy = tmp_path / "site-packages" / "fastinit"
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(Path(fastinit.__file__).parent, copy, ignore=ignore)
    return copy


def module(release: str, suffix: str = SUFFIX) -> str:
    return f"_C_{release.replace('.', '_')}{suffix}"


def failure(package: Path, version: str = torch.__version__, *options: str) -> str:
    """What `import fastinit` ends with, beside a torch of that version."""
    program = f"import torch; torch.__version__ = {version!r}; import fastinit"
    environment = os.environ | {"PYTHONPATH": str(package.parent)}
    command = [sys.executable, *options, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    return done.stderr


BUILD = "`pip install --no-build-isolation .` in a clone of fastinit builds it for this torch"
NEWER = "which a newer fastinit may serve (`pip install --upgrade torch-fastinit`)"


@pytest.mark.parametrize(
    ("there", "version", "expected"),
    [
        ([], torch.__version__, r"is missing from \S+"),
        (
            ["_C_2_13.cpython-27-x86_64-linux-gnu.so"],
            torch.__version__,
            r"is for another Python \(_C_2_13\.cpython-27\S+\)",
        ),
        (
            [module("2.11"), module("2.9"), module("2.12")],
            "2.14.0+cpu",
            re.escape(f"serves torch 2.9, 2.11 and 2.12, and this is torch 2.14.0+cpu, {NEWER}"),
        ),
        (
            [module("2.13")],
            "3.0.1",
            re.escape(f"serves torch 2.13, and this is torch 3.0.1, {NEWER}"),
        ),
        (
            [module("2.11"), module("2.13")],
            "2.12.1",
            "serves torch 2.11 and 2.13, and this is torch 2.12.1",
        ),
    ],
    ids=["missing", "another Python", "newer torch", "one torch", "between"],
)
def test_no_module_for_this_torch(there: list[str], version: str, expected: str, package: Path) -> None:
    for name in there:
        (package / name).touch()
    last = failure(package, version).splitlines()[-1]
    message = f"ImportError: fastinit cannot be imported: its compiled part {expected}; {re.escape(BUILD)}."
    assert re.fullmatch(message, last), last


def test_a_torch_that_no_fastinit_serves(package: Path) -> None:
    (package / module("2.13")).touch()
    expected = "serves torch 2.13, and this is torch 1.13.1; no fastinit serves a torch older than 2.11."
    assert (
        failure(package, "1.13.1").splitlines()[-1]
        == f"ImportError: fastinit cannot be imported: its compiled part {expected}"
    )


@pytest.mark.parametrize("version", [torch.__version__, f"{RELEASE[0]}.{RELEASE[1]}.9.dev20261130"])
def test_a_module_that_does_not_load(version: str, package: Path) -> None:
    """Of a development build, the version says less than it seems to: a warning tells so."""
    library = package / module(_load.text(RELEASE))
    library.write_bytes(b"not a library, but fastinit was built with torch 2.7.1+cu128\0")
    *lines, last = failure(package, version).splitlines()
    expected = rf"does not load; it was built with torch 2\.7\.1\+cu128, and this is torch {re.escape(version)} \(.*\)"
    message = f"ImportError: fastinit cannot be imported: its compiled part {expected}; {re.escape(BUILD)}."
    assert re.fullmatch(message, last), last
    assert (f"UserWarning: torch {version} is a development build" in "\n".join(lines)) == ("dev" in version)


def test_a_development_build_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", f"{RELEASE[0]}.{RELEASE[1]}.9.dev20261130")
    with (
        warnings.catch_warnings(action="error") if sys.version_info >= (3, 11) else warnings.catch_warnings()
    ):
        importlib.reload(_load)


def test_in_a_clone(package: Path) -> None:
    (package.parents[1] / "setup.py").touch()
    expected = f"ImportError: fastinit cannot be imported: its compiled part is missing from {package}; `make build` builds it."
    assert failure(package).splitlines()[-1] == expected
