"""Where in a program a fill was called."""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fastinit._warn import PACKAGES

STANDARD = tuple(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib"))
INSTALLED = tuple(f"{sysconfig.get_path(name)}/" for name in ("purelib", "platlib"))

HELPERS = (
    "initialization.py",
    "weight_init.py",
)  # files of transformers and timm that hold initialisers only


@dataclass(frozen=True, slots=True)
class Site:
    """A line of a program that called a fill.

    Attributes:
        file: the file of the innermost call that is neither torch's, fastinit's, Python's nor in a function that is named
            like an initialiser (``lecun_normal_``): the code that chose the fill.
        line: the line in that file.
        function: the function in which it stands.
        caller: the file and the line of the innermost call outside of installed packages, if that is another one.
    """

    file: str
    line: int
    function: str
    caller: tuple[str, int] | None = None

    def __str__(self) -> str:
        return f"{shortened(self.file)}:{self.line} in {self.function}"


@lru_cache(maxsize=4096)
def chooses(file: str, function: str) -> bool:
    """Whether a function of this file may be what chose a fill."""
    if file.startswith((*PACKAGES, "<frozen")):
        return False
    if file.startswith(STANDARD) and not file.startswith(INSTALLED):
        return False
    if installed(file) and Path(file).name in HELPERS:
        return False
    return not function.endswith("_") or function.endswith("__")


@lru_cache(maxsize=4096)
def installed(file: str) -> bool:
    return file.startswith(INSTALLED) or "/site-packages/" in file or "/dist-packages/" in file


def call_site() -> Site | None:
    """The place of the program that is calling."""
    frame = sys._getframe(1)
    found: tuple[str, int, str] | None = None
    at: object = frame
    while at is not None:
        code = at.f_code  # type: ignore[attr-defined]
        if chooses(code.co_filename, code.co_name):
            here = code.co_filename, at.f_lineno or 0, code.co_name  # type: ignore[attr-defined]
            if not installed(code.co_filename):
                return Site(*here) if found is None else Site(*found, here[:2])
            found = found or here
        at = at.f_back  # type: ignore[attr-defined]
    return None if found is None else Site(*found)


def shortened(file: str) -> str:
    """A path as people write it: from the package on, or relative to the working directory."""
    for mark in ("/site-packages/", "/dist-packages/"):
        if mark in file:
            return file.rpartition(mark)[2]
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except ValueError:
        return file
