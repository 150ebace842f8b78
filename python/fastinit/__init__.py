"""fastinit: a drop-in, much faster ``torch.nn.init``.

Every function of ``torch.nn.init`` is here under its own name, with the same signature. A value depends only on the
generator's key, the element's row-major index and the function's parameters. It does not depend on the number of
threads, the instruction set, the device, the strides or, except for the final rounding, the dtype.

Example:
    >>> import fastinit, torch
    >>> layer = torch.nn.Linear(30, 20)
    >>> _ = fastinit.kaiming_uniform_(layer.weight, nonlinearity="relu")
    >>> _ = fastinit.zeros_(layer.bias)
"""

from fastinit._load import version as __version__  # isort: skip
from fastinit._check.finding import Finding, Findings
from fastinit._deferred import Deferred, deferred
from fastinit._enabled import disable, enable, enabled
from fastinit._enabled.equivalents import Equivalent, equivalents, fingerprint, register_equivalent
from fastinit._enabled.report import Fill, Report
from fastinit._parts import part_of
from fastinit.extra import batched_orthogonal_, delta_orthogonal_
from fastinit.init import *  # noqa: F403
from fastinit.init import __all__ as _functions
from fastinit.keys import KeysByName, key_of_name, keys_by_name
from fastinit.recipe import Recipe, Verification
from fastinit.rules import Rules

__all__ = ["Fill", "Report", "__version__", "disable", "enable", "enabled", "part_of"]
__all__ += ["batched_orthogonal_", "delta_orthogonal_"]
__all__ += ["Equivalent", "equivalents", "fingerprint", "register_equivalent"]
__all__ += ["Deferred", "Recipe", "Verification", "deferred"]
__all__ += ["Finding", "Findings"]
__all__ += ["KeysByName", "Rules", "key_of_name", "keys_by_name"]
__all__ += _functions
