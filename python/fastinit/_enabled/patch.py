"""What stands in the place of torch's functions and methods while a block is open anywhere.

The functions of ``torch.nn.init`` and fastinit's own get another ``__code__``, which calls ``run`` below. ``torch.Tensor``
gets descriptors in front of ``normal_``, ``uniform_`` and the recorded methods: looked up on a tensor they are methods that
fill or record; looked up on the class they are what was there, so that nothing that keeps it has a trace of a block.
``docs/enabled.md`` says why, and what it costs.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.compiler import is_dynamo_compiling
from torch.nn.parameter import Parameter
from torch.overrides import (
    _get_current_function_mode_stack,
    handle_torch_function,
    has_torch_function_unary,
)
from torch.utils._device import DeviceContext

from fastinit import _C, init
from fastinit._enabled.fill import blocks, fill, open_reports, record, thread
from fastinit._enabled.report import INITIALISERS
from fastinit._enabled.strict import fell_through
from fastinit._lock import lock
from fastinit._parts import is_part
from fastinit._warn import passed_over

NAMES = tuple(name for name in init.__all__ if name.endswith("_"))
passed_over.add(__file__)
program_wide = False


def on() -> bool:
    """Whether fastinit fills here and now."""
    return (program_wide or bool(blocks.get() and open_reports())) and not thread.busy


def plain(tensor: Any) -> bool:
    """Whether this is a tensor without overrides of its own, or a part of one."""
    kind = type(tensor)
    if kind is not Parameter and kind is not Tensor:
        if not issubclass(kind, Tensor):
            return False
        if is_part(tensor):
            return True
        function, dispatch = kind.__torch_function__, kind.__torch_dispatch__
        inherits = getattr(function, "__func__", function) in (
            Tensor.__torch_function__.__func__,  # type: ignore[attr-defined]
            Parameter.__torch_function__,
        )
        same = all(getattr(kind, name) is getattr(Tensor, name) for name in METHODS if name != "clone")
        if not (inherits and same and dispatch is Tensor.__torch_dispatch__):
            return False
    return not is_functorch_wrapped_tensor(tensor)


# ---- The functions -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Function:
    """A function whose code is exchanged."""

    public: FunctionType
    original: FunctionType  # with the code that the public one had
    ours: FunctionType  # what does its work on fastinit's kernels
    substitute: CodeType
    parameters: tuple[str, ...]  # besides the tensor and the generator
    random: bool
    hands_on: bool  # it shows itself to subclasses and modes, not only the methods that it calls
    warns_when_empty: bool


def copy_of(function: FunctionType) -> FunctionType:
    code, space, name = function.__code__, function.__globals__, function.__name__
    other = FunctionType(code, space, name, function.__defaults__, function.__closure__)
    other.__kwdefaults__ = function.__kwdefaults__
    return other


QUICK = "fastinit's quick call"  # in the text of a substitute, what is put there later


def substitute(name: str, function: FunctionType, quick: Any = None, module: str = __name__) -> CodeType:
    """Code with the function's own signature and place in its file, which calls ``quick``, or else the module's ``run``.

    It imports what it needs, for its globals are those of the module that the function is from; all of these have ``torch``.
    A key is passed on in the place of the generator, which comes last. ``quick`` is a constant of the code: to look it up
    would cost as much as to fill. A compiler that traces the code cannot look at such a constant, and does not come there.
    """
    names = ", ".join(inspect.signature(function).parameters)
    text = f"def substitute({names}):\n"
    if quick is not None:
        text += f" if not torch.compiler.is_dynamo_compiling():\n  return {QUICK!r}({names})\n"
    text += f" from {module} import run\n"
    if names.endswith(", generator, key"):
        text += " from fastinit._kernels import source_of\n generator = source_of(tensor, generator, key)\n"
    text += f" return run({name!r}, {names.removesuffix(', key')})"
    space: dict[str, FunctionType] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # a string is no function
        exec(text, space)
    own, code = function.__code__, space["substitute"].__code__
    changes: dict[str, Any] = {
        "co_name": own.co_name,
        "co_filename": own.co_filename,
        "co_firstlineno": own.co_firstlineno,
        "co_consts": tuple(quick if constant == QUICK else constant for constant in code.co_consts),
    }
    if sys.version_info >= (3, 11):
        changes["co_qualname"] = own.co_qualname
    return code.replace(**changes)


def prepare() -> dict[str, Function]:
    found = {}
    copies = {name: copy_of(function) for name, function in INITIALISERS.items()}  # type: ignore[arg-type]
    publics: dict[str, Any] = {name: getattr(nn.init, name) for name in NAMES}
    # fastinit's own functions are exchanged as well, so that a report has them.
    publics |= {f"fastinit.{name}": function for name, function in INITIALISERS.items()}
    for name, public in publics.items():
        if not isinstance(public, FunctionType) or public.__code__.co_freevars:
            continue  # another library has put something else there
        _, *rest = inspect.signature(public).parameters
        label = name.removeprefix("fastinit.")
        ours = copies[label]
        parameters = tuple(parameter for parameter in rest if parameter not in ("generator", "key"))
        quick = None if "key" in rest else _C.quick(label, parameters, partial(run, name))
        found[name] = Function(
            public=public,
            original=copy_of(public) if name in NAMES else ours,
            ours=ours,
            substitute=substitute(name, public, quick),
            parameters=parameters,
            random="generator" in rest,
            hands_on=bool({"handle_torch_function", "_override"} & {*public.__code__.co_names}),
            warns_when_empty="kaiming" in name,
        )
    return found


def run(name: str, tensor: Any, *arguments: Any) -> Any:
    """A call of the function of that name."""
    function = functions[name]
    if is_dynamo_compiling():
        return function.original(tensor, *arguments)
    if not on() or not plain(tensor):
        if function.warns_when_empty and plain(tensor) and 0 in tensor.shape:
            return function.ours(tensor, *arguments)  # the same, and its warning finds the caller
        return function.original(tensor, *arguments)
    if has_torch_function_unary(tensor):  # a mode: it calls the function again
        return (function.original if function.hands_on else function.ours)(tensor, *arguments)
    generator = arguments[len(function.parameters)] if function.random else None
    return fill(
        name.removeprefix("fastinit."),
        function.ours,
        None if function.original is function.ours else lambda: function.original(tensor, *arguments),
        tensor,
        dict(zip(function.parameters, arguments, strict=False)),
        generator,
        function.random,
    )


# ---- The methods -------------------------------------------------------------------------------------------

MISSING: Any = object()


class Method:
    """A descriptor in front of a method of tensors.

    What stands there for a while is a ``_C.Method``, which does what is simple, and else asks a copy of this, which knows what
    it covers.
    """

    parameters: tuple[str, ...] = ()

    def __init__(self, name: str) -> None:
        self.name = self.__name__ = name  # torch.compile asks bound methods for the latter
        self.inherited = getattr(torch._C.TensorBase, name)
        self.beneath: Any = MISSING  # what another library or a test had put there

    def install(self) -> None:
        there = Tensor.__dict__.get(self.name, MISSING)
        if not isinstance(
            there, _C.Method
        ):  # one may be left, of a block that ended while something covered it
            mine = copy(self)
            mine.beneath = there
            simple = there is MISSING
            setattr(Tensor, self.name, _C.Method(self.name, self.parameters, self.inherited, mine, simple))

    def uninstall(self) -> None:
        """Put back what was there, unless it was deleted or covered meanwhile: then that counts."""
        there = Tensor.__dict__.get(self.name)
        if not isinstance(there, _C.Method):
            return
        if there.otherwise.beneath is MISSING:
            delattr(Tensor, self.name)
        else:
            setattr(Tensor, self.name, there.otherwise.beneath)

    def without(self, tensor: Any, kind: Any) -> Any:
        """What the look-up would find if this were not here."""
        found = self.inherited if self.beneath is MISSING else self.beneath
        get = getattr(type(found), "__get__", None)
        return found if get is None else get(found, tensor, kind)

    def __get__(self, tensor: Any, kind: Any) -> Any:
        if tensor is None or is_dynamo_compiling() or not on() or not plain(tensor):
            if users == 0:  # covered by something when the last block ended, and uncovered since
                with lock:
                    if users == 0:
                        self.uninstall()
            return self.without(tensor, kind)
        return MethodType(self, tensor)  # type: ignore[arg-type]

    def call_beneath(self, tensor: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Modes are shown torch's method: by itself the call would show them the attribute.
        if self.beneath is MISSING and has_torch_function_unary(tensor):
            return handle_torch_function(self.inherited, (tensor,), tensor, *args, **kwargs)
        return self.without(tensor, type(tensor))(*args, **kwargs)


class Recorded(Method):
    """``zero_``, ``fill_`` and ``copy_``, which torch goes on doing."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.parameters = ("value",) if name == "fill_" else ()

    def __call__(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        start = perf_counter()
        result = self.call_beneath(tensor, args, kwargs)
        seconds = perf_counter() - start
        other = args[0] if args else next(iter(kwargs.values()), None)  # what it is filled with
        arguments = {"value": other} if self.name == "fill_" else {}
        source = other if self.name == "copy_" and plain(other) else None
        record(f"Tensor.{self.name}", arguments, tensor, None, seconds, False, source)
        return result


class Followed(Method):
    """``clone``, of which ``copy.deepcopy`` makes parameters."""

    def __call__(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        clone = self.call_beneath(tensor, args, kwargs)
        for report in open_reports() if plain(clone) else ():
            report._follow(tensor, clone)
        return clone


# Function modes that say nothing about a fill of a tensor that there is.
SEEING_ONLY: set[type] = {DeviceContext}


class Drawing(Method):
    """``uniform_`` and ``normal_``."""

    def __init__(self, name: str, read: Callable[..., dict[str, float]], names: dict[str, str]) -> None:
        super().__init__(name)
        self.read, self.names = read, names
        self.parameters = tuple(names.values())

    def __call__(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if (tensor.requires_grad and torch.is_grad_enabled()) or not all(  # autograd's business, or an error
            type(mode) in SEEING_ONLY
            for mode in _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
        ):
            return self.call_beneath(tensor, args, kwargs)
        try:
            named = {self.names[key]: value for key, value in kwargs.items() if key != "generator"}
            arguments = self.read(*args, **named)
        except (KeyError, TypeError):
            return self.call_beneath(tensor, args, kwargs)  # to raise the error
        if self.beneath is not MISSING:
            return self.foreign(tensor, arguments, args, kwargs)
        with torch._C.DisableTorchFunction():  # a device context says nothing about a tensor that there is
            return fill(
                f"Tensor.{self.name}",
                functions[f"fastinit.{self.name}"].ours,
                lambda: self.inherited(tensor, *args, **kwargs),
                tensor,
                arguments,
                kwargs.get("generator"),
                True,
            )

    def foreign(self, tensor: Tensor, arguments: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A method that somebody else has put there is called, and draws as it likes."""
        start = perf_counter()
        result = self.call_beneath(tensor, args, kwargs)
        if record(f"Tensor.{self.name}", arguments, tensor, None, perf_counter() - start, True):
            fell_through(open_reports(), f"Tensor.{self.name}", "the method was replaced")
        return result


# Under the names that the functions have for them.
def uniform_arguments(a: float = 0.0, b: float = 1.0) -> dict[str, float]:
    return {"a": a, "b": b}


def normal_arguments(mean: float = 0.0, std: float = 1.0) -> dict[str, float]:
    return {"mean": mean, "std": std}


METHODS: dict[str, Method] = {
    "uniform_": Drawing("uniform_", uniform_arguments, {"from": "a", "to": "b"}),
    "normal_": Drawing("normal_", normal_arguments, {"mean": "mean", "std": "std"}),
    **{name: Recorded(name) for name in ("zero_", "fill_", "copy_")},
    "clone": Followed("clone"),
}


# ---- On and off --------------------------------------------------------------------------------------------

functions = prepare()
others: list[tuple[Callable[[], None], Callable[[], None]]] = []  # what else is exchanged, and put back
users = 0  # blocks that are open, in all threads, and one for the whole program


def install() -> None:
    global users
    with lock:
        users += 1
        if users == 1:
            for function in functions.values():
                function.public.__code__ = function.substitute
            for method in METHODS.values():
                method.install()
            for begin, _ in others:
                begin()


def uninstall() -> None:
    global users
    with lock:
        users -= 1
        if users == 0:
            for function in functions.values():
                function.public.__code__ = function.original.__code__
            for method in METHODS.values():
                method.uninstall()
            for _, end in others:
                end()


def set_program_wide(wanted: bool) -> None:
    global program_wide
    with lock:
        if program_wide != wanted:
            (install if wanted else uninstall)()
            program_wide = wanted
            _C.set_program_wide(wanted)
