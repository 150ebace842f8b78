"""fastinit: a drop-in, much faster ``torch.nn.init``.

Every function of ``torch.nn.init`` is here under its own name, with the same signature. A value depends on the
generator's key, on the element's row-major index and on the function's parameters alone: not on the number of
threads, the instruction set, the device, the strides or, but for the final rounding, the dtype.

Example:
    >>> import fastinit, torch
    >>> layer = torch.nn.Linear(30, 20)
    >>> _ = fastinit.kaiming_uniform_(layer.weight, nonlinearity="relu")
    >>> _ = fastinit.zeros_(layer.bias)
"""

from fastinit._load import version as __version__  # isort: skip
from fastinit._enabled import disable, enable, enabled
from fastinit._enabled.report import Fill, Report
from fastinit.extra import delta_orthogonal_
from fastinit.init import (
    _calculate_correct_fan,
    _calculate_fan_in_and_fan_out,
    calculate_gain,
    constant,
    constant_,
    dirac,
    dirac_,
    eye,
    eye_,
    kaiming_normal,
    kaiming_normal_,
    kaiming_uniform,
    kaiming_uniform_,
    normal,
    normal_,
    ones_,
    orthogonal,
    orthogonal_,
    sparse,
    sparse_,
    trunc_normal_,
    uniform,
    uniform_,
    xavier_normal,
    xavier_normal_,
    xavier_uniform,
    xavier_uniform_,
    zeros_,
)

__all__ = [
    "Fill",
    "Report",
    "__version__",
    "_calculate_correct_fan",
    "_calculate_fan_in_and_fan_out",
    "calculate_gain",
    "constant",
    "constant_",
    "delta_orthogonal_",
    "dirac",
    "dirac_",
    "disable",
    "enable",
    "enabled",
    "eye",
    "eye_",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "sparse",
    "sparse_",
    "trunc_normal_",
    "uniform",
    "uniform_",
    "xavier_normal",
    "xavier_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zeros_",
]
