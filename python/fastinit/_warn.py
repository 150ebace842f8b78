"""The lines of the caller's program, and warnings that point at them."""

import sys
import warnings
from pathlib import Path

import torch
import torch.nn.init
from torch.compiler import is_dynamo_compiling

# Files between a program and a function of this package that was called in place of torch.nn.init's.
passed_over = {torch.nn.init.__file__, str(Path(__file__).with_name("init.py"))}

PACKAGES = (f"{Path(torch.__file__).parent}/", f"{Path(__file__).parent}/")


def program_line() -> tuple[str, int]:
    """The file and the line of the innermost call that is neither torch's nor fastinit's."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(PACKAGES) and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def warn(message: str) -> None:
    """Warn at the line that called the overridable function whose implementation calls this one."""
    level = 4
    if not is_dynamo_compiling():
        frame = sys._getframe(3)
        while frame.f_code.co_filename in passed_over and frame.f_back is not None:
            frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
