"""The compiled part that does not fit: what `import fastinit` says."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastinit
from fastinit import _C, _load

BUILT_WITH = _C.build_info()["torch_built_with"]


def test_beside_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "1.13.1")
    expected = f"compiled part was built with torch {BUILT_WITH}, and this is torch 1.13.1; in a clone of fastinit, `make"
    with pytest.raises(ImportError, match=re.escape(expected)):
        importlib.reload(_load)


def test_the_file_tells_torch_s_version() -> None:
    assert _load.built_with(Path(_C.__file__)) == BUILT_WITH


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (None, b"", r"is missing from .*"),
        ("_C.cpython-27-x86_64-linux-gnu.so", b"", r"is for another Python \(_C\.cpython-27.*\)"),
        (
            "_C.abi3.so",
            b"not a library, but fastinit was built with torch 2.7.1+cu128\0",
            r"does not load; it was built with torch 2\.7\.1\+cu128, and this is torch "
            + re.escape(torch.__version__)
            + r" \(.*\)",
        ),
    ],
    ids=["missing", "another Python", "another torch"],
)
def test_message(name: str | None, content: bytes, expected: str, tmp_path: Path) -> None:
    package = tmp_path / "fastinit"
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(Path(fastinit.__file__).parent, package, ignore=ignore)
    if name:
        (package / name).write_bytes(content)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", "import fastinit"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    what_to_do = r"in a clone of fastinit, `make build` .* `pip install --no-build-isolation \.` .*\."
    message = f"ImportError: fastinit cannot be imported: its compiled part {expected}; {what_to_do}"
    assert re.fullmatch(message, last), last
