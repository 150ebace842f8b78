"""Loads the compiled part as ``fastinit._C``, or says in one paragraph why that failed and what to do.

A module is compiled for one minor version of torch, since torch's C++ interfaces change with each; the kernels that it
calls are in a library beside it. There may be several: ``_C_2_13.*.so`` is for every torch 2.13.
"""

import importlib.util
import re
import sys
import warnings
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import torch  # first: the compiled part links to its libraries

FOLDER = Path(__file__).parent
OLDEST = (2, 11)  # the oldest torch that a fastinit was made for

Release = tuple[int, ...]


def release(version: str) -> Release:
    """The part of torch's version between whose values C++ interfaces change: 2.13 of 2.13.1+cpu."""
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def text(release: Release) -> str:
    return ".".join(map(str, release))


def is_development_build(version: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)*", version.partition("+")[0]) is None


def modules(folder: Path) -> dict[Release, Path]:
    """The compiled modules for this Python, by the torch that they are for."""
    found = {}
    for suffix in reversed(EXTENSION_SUFFIXES):  # the last one counts: that which names the interpreter
        for path in folder.glob(f"_C_*{suffix}"):
            if match := re.fullmatch(r"_C_(\d+)_(\d+)", path.name.removesuffix(suffix)):
                found[int(match[1]), int(match[2])] = path
    return dict(sorted(found.items()))


def built_with(library: Path) -> str:
    """The torch that a compiled part was built with, read from the file: with another torch it may not load."""
    found = re.search(rb"fastinit was built with torch ([\w.+-]+)", library.read_bytes())
    return found[1].decode() if found else "unknown"


def cannot(why: str, advice: str = "") -> ImportError:
    """The error, and how to get a compiled part for the torch at hand."""
    if (FOLDER.parents[1] / "setup.py").exists():
        build = "`make build` builds it"
    else:
        build = "`pip install --no-build-isolation .` in a clone of fastinit builds it for this torch"
    return ImportError(f"fastinit cannot be imported: its compiled part {why}; {advice or build}.")


def missing(there: dict[Release, Path]) -> ImportError:
    """Why there is no module for this torch."""
    if not there:
        elsewhere = ", ".join(sorted(path.name for path in FOLDER.glob("_C_*.so")))
        return cannot(f"is for another Python ({elsewhere})" if elsewhere else f"is missing from {FOLDER}")
    *others, last = map(text, there)
    served = f"{', '.join(others)} and {last}" if others else last
    why = f"serves torch {served}, and this is torch {torch.__version__}"
    this = release(torch.__version__)
    if this < OLDEST:
        return cannot(why, f"no fastinit serves a torch older than {text(OLDEST)}")
    if this > max(there):
        why += ", which a newer fastinit may serve (`pip install --upgrade torch-fastinit`)"
    return cannot(why)


def load(library: Path) -> ModuleType:
    """Import that file as ``fastinit._C``."""
    name = "fastinit._C"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    return module


_there = modules(FOLDER)
_library = _there.get(release(torch.__version__))
if _library is None:
    raise missing(_there)
try:
    _module = load(_library)
except ImportError as error:
    if is_development_build(torch.__version__):
        warnings.warn(
            f"torch {torch.__version__} is a development build, whose C++ interfaces may differ from those of the "
            f"torch {built_with(_library)} that fastinit's compiled part was built with",
            stacklevel=2,
        )
    raise cannot(
        f"does not load; it was built with torch {built_with(_library)}, and this is torch {torch.__version__} ({error})"
    ) from None
sys.modules["fastinit"]._C = _module  # type: ignore[attr-defined]
version: str = _module.build_info()["version"]
