"""Functions that tensor subclasses and modes may override, as they may torch's own."""

import inspect
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, ParamSpec, TypeVar, cast

from torch.overrides import handle_torch_function, has_torch_function_variadic

P = ParamSpec("P")
R = TypeVar("R")

TEMPLATE = """
def {name}({parameters}):
    if _has_override({tensor}):
        return _override({name}, ({tensor},), {named})
    return _{name}implementation({parameters})
"""


def overridable(function: Callable[P, R]) -> Callable[P, R]:
    """Offer each call to the ``__torch_function__`` of the first argument and to active modes before the function runs.

    The result is a function of the same module, made from text: passing on ``*args`` and ``**kwargs`` would cost a
    quarter of the time in which a small tensor is filled, and ``enabled`` exchanges the code of such functions.
    """
    name, code = function.__name__, cast(Any, function).__code__
    parameters = list(inspect.signature(function).parameters)
    text = TEMPLATE.format(
        name=name,
        tensor=parameters[0],
        parameters=", ".join(parameters),
        named=", ".join(f"{parameter}={parameter}" for parameter in parameters),
    )
    space = cast(dict[str, Any], cast(Any, function).__globals__)
    space |= {
        "_has_override": has_torch_function_variadic,
        "_override": handle_torch_function,
        f"_{name}implementation": function,
    }
    exec(text, space)
    public: Any = update_wrapper(space[name], function)
    public.__defaults__ = function.__defaults__
    public.__code__ = public.__code__.replace(
        co_filename=code.co_filename, co_firstlineno=code.co_firstlineno
    )
    return cast(Callable[P, R], public)
