"""Loads the compiled part, ``fastinit._C``, or says in one sentence why that failed and what to do."""

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch  # first: the compiled part links to its libraries

REBUILD = "build it with `pip install --no-build-isolation torch-fastinit` (in a checkout: `make build`)"


def reason(error: ImportError) -> str:
    """Why the compiled part could not be imported."""
    folder = Path(__file__).parent
    if any((folder / f"_C{suffix}").exists() for suffix in EXTENSION_SUFFIXES):
        return f"its compiled part does not fit this machine or the installed torch {torch.__version__} ({error})"
    others = sorted(path.name for path in folder.glob("_C.*.so"))
    if others:
        return f"its compiled part is for another Python ({', '.join(others)})"
    return f"its compiled part is missing from {folder}"


def release(version: str) -> str:
    """The part of torch's version between whose values C++ interfaces change: 2.13 of 2.13.1+cpu."""
    return ".".join(version.split(".")[:2])


try:
    from fastinit import _C
except ImportError as error:
    raise ImportError(f"fastinit cannot be imported: {reason(error)}; {REBUILD}.") from None

_info = _C.build_info()
if release(_info["torch_built_with"]) != release(torch.__version__):
    raise ImportError(
        f"fastinit cannot be imported: its compiled part was built with torch {_info['torch_built_with']}, "
        f"and this is torch {torch.__version__}; {REBUILD}."
    )
version: str = _info["version"]
