"""The names without a trailing underscore, which torch.nn.init keeps for old programs."""

import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def deprecated_alias(function: Callable[P, R]) -> Callable[P, R]:
    """Give ``function`` its old name, under which it warns as torch's alias does and then does its work."""
    new_name = function.__name__
    old_name = new_name.removesuffix("_")

    def alias(*args: P.args, **kwargs: P.kwargs) -> R:
        warnings.warn(
            f"`nn.init.{old_name}` is now deprecated in favor of `nn.init.{new_name}`.",
            FutureWarning,
            stacklevel=2,
        )
        return function(*args, **kwargs)

    alias.__name__ = alias.__qualname__ = old_name
    alias.__module__ = function.__module__
    alias.__doc__ = f"The old name of ``{new_name}``, which see; it warns with a FutureWarning."
    return alias
