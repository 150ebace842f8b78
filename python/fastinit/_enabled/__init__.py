"""fastinit in the place of torch's initialisation, for programs that nobody wants to edit.

How it works: while anything is enabled, the functions of ``torch.nn.init`` have another ``__code__``, which calls
``run`` below, and ``torch.Tensor`` has ``normal_``, ``uniform_`` and the recorded ``zero_``, ``fill_`` and ``copy_`` as
attributes of its own, in front of those it inherits. ``docs/enabled.md`` says why, and what it costs.
"""

from __future__ import annotations

import inspect
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.compiler import is_dynamo_compiling
from torch.nn.parameter import Parameter
from torch.overrides import (
    _get_current_function_mode_stack,
    handle_torch_function,
    has_torch_function_unary,
)
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from fastinit import _C, init
from fastinit._enabled.report import Report
from fastinit._warn import passed_over
from fastinit.extra import delta_orthogonal_

NAMES = tuple(name for name in init.__all__ if name.endswith("_"))
passed_over.add(__file__)


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
    copy = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def substitute(name: str, function: FunctionType) -> CodeType:
    """Code with the function's own signature and place in its file, which calls ``run``.

    It imports what it needs, for its globals are those of the module that the function is from.
    """
    names = ", ".join(inspect.signature(function).parameters)
    text = f"def substitute({names}):\n from fastinit._enabled import run\n return run({name!r}, {names})"
    space: dict[str, FunctionType] = {}
    exec(text, space)
    own = function.__code__
    changes: dict[str, Any] = {
        "co_name": own.co_name,
        "co_filename": own.co_filename,
        "co_firstlineno": own.co_firstlineno,
    }
    if sys.version_info >= (3, 11):
        changes["co_qualname"] = own.co_qualname
    return space["substitute"].__code__.replace(**changes)


def prepare() -> dict[str, Function]:
    found = {}
    ours = {name: getattr(init, name) for name in NAMES}
    copies = {name: copy_of(function) for name, function in ours.items()}
    copies["delta_orthogonal_"] = copy_of(delta_orthogonal_)  # type: ignore[arg-type]
    publics = {name: getattr(nn.init, name) for name in NAMES}
    # fastinit's own functions are exchanged as well, so that a report has them.
    publics |= {f"fastinit.{name}": function for name, function in ours.items()}
    publics["fastinit.delta_orthogonal_"] = delta_orthogonal_
    for name, public in publics.items():
        if not isinstance(public, FunctionType) or public.__code__.co_freevars:
            continue  # another library has put something else there
        _, *rest = inspect.signature(public).parameters
        found[name] = Function(
            public=public,
            original=copy_of(public) if name in NAMES else copies[name.removeprefix("fastinit.")],
            ours=copies[name.removeprefix("fastinit.")],
            substitute=substitute(name, public),
            parameters=tuple(parameter for parameter in rest if parameter != "generator"),
            random="generator" in rest,
            hands_on="handle_torch_function" in public.__code__.co_names,
            warns_when_empty="kaiming" in name,
        )
    return found


def run(name: str, tensor: Any, *arguments: Any) -> Any:
    """A call of the function of that name."""
    function = functions[name]
    if is_dynamo_compiling():
        return function.original(tensor, *arguments)
    if not (program_wide or local.reports) or local.busy or not plain(tensor):
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


# Under the names that the functions have for them.
def uniform_arguments(a: float = 0.0, b: float = 1.0) -> dict[str, float]:
    return {"a": a, "b": b}


def normal_arguments(mean: float = 0.0, std: float = 1.0) -> dict[str, float]:
    return {"mean": mean, "std": std}


DRAWING: dict[str, tuple[Callable[..., dict[str, float]], dict[str, str]]] = {
    "uniform_": (uniform_arguments, {"from": "a", "to": "b"}),
    "normal_": (normal_arguments, {"mean": "mean", "std": "std"}),
}
RECORDED = ("zero_", "fill_", "copy_")


def drawing_method(name: str) -> Callable[..., Tensor]:
    inherited = getattr(torch._C.TensorBase, name)
    read, names = DRAWING[name]
    ours = functions[f"fastinit.{name}"].ours

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (
            is_dynamo_compiling()
            or not (program_wide or local.reports)
            or local.busy
            or not plain(self)
            or (self.requires_grad and torch.is_grad_enabled())  # autograd's business, or an error
            or not all(type(mode) is DeviceContext for mode in _get_current_function_mode_stack())  # type: ignore[no-untyped-call]
        ):
            return call_inherited(inherited, self, args, kwargs)
        try:
            generator = kwargs.get("generator")
            named = {names[key]: value for key, value in kwargs.items() if key != "generator"}
            arguments = read(*args, **named)
        except (KeyError, TypeError):
            return inherited(self, *args, **kwargs)  # to raise the error
        with torch._C.DisableTorchFunction():  # a device context says nothing about a tensor that there is
            return fill(
                f"Tensor.{name}",
                ours,
                lambda: inherited(self, *args, **kwargs),
                self,
                arguments,
                generator,
                True,
            )

    return like(inherited, method)


def call_inherited(inherited: Any, self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call torch's method. Subclasses and modes are shown that one: by itself it would show them the attribute."""
    if has_torch_function_unary(self):
        return handle_torch_function(inherited, (self,), self, *args, **kwargs)
    return inherited(self, *args, **kwargs)


def recorded_method(name: str) -> Callable[..., Tensor]:
    inherited = getattr(torch._C.TensorBase, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if is_dynamo_compiling() or not local.reports or local.busy or not plain(self):
            return call_inherited(inherited, self, args, kwargs)
        start = perf_counter()
        result = call_inherited(inherited, self, args, kwargs)
        seconds = perf_counter() - start
        other = args[0] if args else next(iter(kwargs.values()), None)  # what it is filled with
        arguments = {"value": other} if name == "fill_" else {}
        source = other if name == "copy_" and plain(other) else None
        record(f"Tensor.{name}", arguments, self, None, seconds, False, source)
        return result

    return like(inherited, method)


def like(inherited: Any, method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    method.__name__ = inherited.__name__
    method.__qualname__ = f"Tensor.{inherited.__name__}"
    method.__module__ = Tensor.__module__
    method.__doc__ = inherited.__doc__
    return method


# ---- One fill ----------------------------------------------------------------------------------------------


def fill(
    label: str,
    ours: Callable[..., Any],
    torchs: Callable[[], Any] | None,
    tensor: Tensor,
    arguments: dict[str, Any],
    generator: Generator | None,
    random: bool,
) -> Tensor:
    """Fill a tensor by fastinit, or by torch what fastinit refuses; and record it."""
    seen = bool(local.reports) and not tensor.is_meta and tensor.numel() > 0
    # A key is taken beforehand, so as to know it: from the generator, or from a copy of it where the kernels must be
    # given the generator, because they read unusual arguments as torch does only then.
    given = all(isinstance(value, (float, int, str)) for value in arguments.values())
    key, put_back = take_key(tensor, generator, given) if seen and random else (None, None)
    refused = None
    local.busy = True
    start = perf_counter()
    try:
        try:
            if random:
                ours(tensor, **arguments, generator=_C.Key(key) if given and key is not None else generator)
            else:
                ours(tensor, **arguments)
        except Exception as error:
            refused, key = str(error), None
            if put_back is not None:
                put_back()
            if torchs is None:
                raise
        # fastinit checks everything before it writes or draws, so torch finds all as it was: it does what fastinit
        # has no kernel for, and raises its own errors.
        if refused is not None and torchs is not None:
            torchs()
    finally:
        local.busy = False
    if seen:
        record(label, arguments, tensor, key, perf_counter() - start, random)
        if refused is not None and random:
            fell_through(label, refused)
    return tensor


def plain(tensor: Any) -> bool:
    """Whether this is a tensor without overrides of its own."""
    kind = type(tensor)
    if kind is not Parameter and kind is not Tensor:
        if not issubclass(kind, Tensor):
            return False
        function, dispatch = kind.__torch_function__, kind.__torch_dispatch__
        inherits = getattr(function, "__func__", function) in (
            Tensor.__torch_function__.__func__,  # type: ignore[attr-defined]
            Parameter.__torch_function__,
        )
        same = all(getattr(kind, name) is getattr(Tensor, name) for name in (*DRAWING, *RECORDED))
        if not (inherits and same and dispatch is Tensor.__torch_dispatch__):
            return False
    return not is_functorch_wrapped_tensor(tensor)


def take_key(tensor: Tensor, generator: Any, draw: bool) -> tuple[Tensor | None, Callable[[], Any] | None]:
    """The next key of a generator, drawn from it or from a copy; and a function that puts the generator back."""
    if generator is None:
        if tensor.is_cpu:
            generator = torch.default_generator
        elif tensor.is_cuda:
            generator = torch.cuda.default_generators[tensor.get_device()]
    if not isinstance(generator, Generator):
        return None, None
    on_cpu = generator.device.type == "cpu"
    if not on_cpu and torch.cuda.is_current_stream_capturing():
        return None, None  # each replay has another one
    modes = torch._C._len_torch_dispatch_stack()
    with _disable_current_modes() if modes else nullcontext():  # nobody else's business
        key = torch.empty((), dtype=torch.int64, device="cpu" if on_cpu else tensor.device)
        if not draw:
            return key.random_(-(2**63), None, generator=generator.clone_state()), None
        state = generator.get_state()
        key.random_(-(2**63), None, generator=generator)
        return key, lambda: generator.set_state(state)


def record(
    label: str,
    arguments: Mapping[str, Any],
    tensor: Tensor,
    key: Tensor | None,
    seconds: float,
    random: bool,
    source: Tensor | None = None,
) -> None:
    if tensor.layout == torch.strided and not tensor.is_meta and tensor.numel() > 0:
        # A number in a tensor: as a number, so that no tensor is kept.
        arguments = {k: v.item() if isinstance(v, Tensor) else v for k, v in arguments.items()}
        for report in local.reports:
            report._add(label, arguments, tensor, key, seconds, random, source)


# ---- strict ------------------------------------------------------------------------------------------------

PACKAGES = (f"{Path(torch.__file__).parent}/", f"{Path(__file__).parents[1]}/")
FACTORIES = ("rand", "normal", "bernoulli", "multinomial", "poisson", "binomial")


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees torch's own random fills: those in place, and the functions that return new random tensors."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags and not local.busy and func.namespace != "fastinit":
            name = func.overloadpacket.__name__
            drawn = isinstance(result, Tensor) and not result.is_meta and result.numel() > 0
            if drawn and (name.endswith("_") or name.startswith(FACTORIES)):
                fell_through(name, "")
        return result


def fell_through(function: str, reason: str) -> None:
    """Warn once for each line of a program at which torch draws random values itself."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(PACKAGES) and frame.f_back is not None:
        frame = frame.f_back
    place = frame.f_code.co_filename, frame.f_lineno
    strict = [report for report in local.reports if report.strict]
    first = [report._fell(function, *place, reason) for report in strict]
    if any(first):
        why = f": {reason}" if reason else ""
        message = f"{function} draws its values by torch, not by fastinit{why}"
        warnings.warn_explicit(message, UserWarning, *place, registry=None)


# ---- On and off --------------------------------------------------------------------------------------------


class Local(threading.local):
    """What a thread has enabled."""

    def __init__(self) -> None:
        self.reports: list[Report] = []  # of the blocks that are open
        self.busy = False  # within a fill: what that calls is no fill of its own


local = Local()
program_wide = False
functions = prepare()
methods = {name: drawing_method(name) for name in DRAWING} | {
    name: recorded_method(name) for name in RECORDED
}
lock = threading.RLock()
users = 0  # blocks that are open, in all threads, and one for the whole program


def install() -> None:
    global users
    with lock:
        users += 1
        if users == 1:
            for function in functions.values():
                function.public.__code__ = function.substitute
            for name, method in methods.items():
                setattr(Tensor, name, method)


def uninstall() -> None:
    global users
    with lock:
        users -= 1
        if users == 0:
            for function in functions.values():
                function.public.__code__ = function.original.__code__
            for name in methods:
                delattr(Tensor, name)


@contextmanager
def enabled(*, strict: bool = False) -> Iterator[Report]:
    """Let torch's initialisation run on fastinit's kernels, in this thread and until the end of the block.

    That is every function of ``torch.nn.init``, however it is called, and the methods ``uniform_`` and ``normal_`` of
    tensors. What fastinit has no kernels for is left to torch: other dtypes and devices, sparse and quantised tensors,
    subclasses with overrides of their own, and what ``torch.compile`` and ``torch.jit.script`` have compiled. The
    values are fastinit's, from one key of the generator for each fill; see the contract in the README.

    Blocks nest, and each has its own report. Other threads are not affected.

    Args:
        strict: warn, once for each line of the program, of random values that torch draws itself: by these functions,
            by other methods (``bernoulli_``) or by factories (``torch.randn``). This looks at every
            operation of the block, which takes time.

    Returns:
        A context manager that gives a ``Report`` of what was filled in the block.

    Example:
        >>> import fastinit, torch
        >>> with fastinit.enabled() as report:
        ...     model = torch.nn.Linear(30, 20)
        >>> report.parameters(model)["weight"].function
        'kaiming_uniform_'
    """
    report = Report(strict)
    reports = local.reports  # a generator that holds a block open may be closed by another thread
    with ExitStack() as stack:
        install()
        stack.callback(uninstall)
        watched = any(report.strict for report in reports)
        reports.append(report)
        stack.callback(reports.remove, report)
        if strict and not watched:
            stack.enter_context(Watch())  # type: ignore[no-untyped-call]
        yield report


def enable() -> None:
    """Do what ``enabled`` does for the whole program: in all threads, until ``disable`` is called.

    To call it twice is to call it once. There is no report, unless a block of ``enabled`` is opened as well.

    Example:
        >>> import fastinit
        >>> fastinit.enable()
        >>> fastinit.disable()
    """
    global program_wide
    with lock:
        if not program_wide:
            install()
            program_wide = True


def disable() -> None:
    """End what ``enable`` began. Blocks of ``enabled`` that are open stay so."""
    global program_wide
    with lock:
        if program_wide:
            program_wide = False
            uninstall()
