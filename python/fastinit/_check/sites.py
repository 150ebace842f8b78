"""Where in a program a fill was called."""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType

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
def rank(file: str, function: str) -> int:
    """Whether a function of this file may be what chose a fill (1), and is not in an installed package (2)."""
    if file.startswith((*PACKAGES, "<frozen")):
        return 0
    if file.startswith(STANDARD) and not file.startswith(INSTALLED):
        return 0
    library = installed(file)
    helper = function.endswith("_") and not function.endswith("__")
    if helper or (library and Path(file).name in HELPERS):
        return 0
    return 1 if library else 2


def installed(file: str) -> bool:
    return file.startswith(INSTALLED) or "/site-packages/" in file or "/dist-packages/" in file


def call_site(caller: bool = True) -> Site | None:
    """The place of the program that is calling; ``caller`` asks for that outside of packages, too."""
    frame: FrameType | None = sys._getframe(1)
    found: tuple[str, int, str] | None = None
    while frame is not None:
        code = frame.f_code
        what = rank(code.co_filename, code.co_name)
        if what == 2 or (what == 1 and found is None):
            here = code.co_filename, frame.f_lineno or 0, code.co_name
            if what == 2 or not caller:
                return Site(*here) if found is None else Site(*found, here[:2])
            found = here
        frame = frame.f_back
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
