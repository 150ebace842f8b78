"""Loads the compiled part, ``fastinit._C``, or says in one sentence why that failed and what to do."""

import re
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch  # first: the compiled part links to its libraries

REBUILD = "in a clone of fastinit, `make build` builds it there, and `pip install --no-build-isolation .` installs it"


def release(version: str) -> str:
    """The part of torch's version between whose values C++ interfaces change: 2.13 of 2.13.1+cpu."""
    return ".".join(version.split(".")[:2])


def built_with(library: Path) -> str:
    """The torch that a compiled part was built with, read from the file: with another torch it may not load."""
    found = re.search(rb"fastinit was built with torch ([\w.+-]+)", library.read_bytes())
    return found[1].decode() if found else "unknown"


def reason(error: ImportError) -> str:
    """Why the compiled part could not be imported."""
    folder = Path(__file__).parent
    library = next((p for suffix in EXTENSION_SUFFIXES if (p := folder / f"_C{suffix}").exists()), None)
    if library is not None:
        built, found = built_with(library), torch.__version__
        return f"does not load; it was built with torch {built}, and this is torch {found} ({error})"
    others = ", ".join(sorted(path.name for path in folder.glob("_C.*.so")))
    return f"is for another Python ({others})" if others else f"is missing from {folder}"


def cannot(why: str) -> ImportError:
    return ImportError(f"fastinit cannot be imported: its compiled part {why}; {REBUILD}.")


try:
    from fastinit import _C
except ImportError as error:
    raise cannot(reason(error)) from None

_info = _C.build_info()
_built = _info["torch_built_with"]
if release(_built) != release(torch.__version__):
    raise cannot(f"was built with torch {_built}, and this is torch {torch.__version__}")
version: str = _info["version"]
