"""Functions of other libraries that are exchanged as torch's own are: what ``enabled`` knows of them.

Many libraries carry a ``trunc_normal_`` of their own: a uniform fill, the inverse error function, and three more passes.
A function counts if its module and its name are known, and if it looks as it did when it was compared with what stands in
for it. A release that changes it is left alone. ``docs/equivalents.md`` has the table.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import Tensor
from torch.compiler import is_dynamo_compiling

from fastinit import init
from fastinit._enabled import fill, patch
from fastinit._kernels import Record
from fastinit._lock import lock
from fastinit._warn import passed_over

passed_over.add(__file__)


# ---- What a function looks like ------------------------------------------------------------------------------------

# Of an expression or a statement: what it does not do, and what other versions of Python have in other places.
NOT_DONE = {"annotation", "ctx", "decorator_list", "kind", "lineno", "returns", "type_comment", "type_params"}


def fingerprint(function: Callable[..., Any]) -> str:
    """What a function looks like: a hash of its text, and of the functions of its module that it calls.

    Comments, layout, docstrings and annotations do not count, and neither does the version of Python.

    Args:
        function: a function that was written in Python, and whose source is there.

    Raises:
        TypeError: if ``function`` is not a function that was written in Python.
        OSError: if its source is not there.

    Returns:
        16 hexadecimal digits.

    Example:
        >>> import torch
        >>> from fastinit import fingerprint
        >>> fingerprint(torch.nn.init.xavier_uniform_) == fingerprint(torch.nn.init.xavier_normal_)
        False
    """
    if not isinstance(function, FunctionType):
        raise TypeError(f"a fingerprint is of a function, not of {type(function).__name__}")
    texts: dict[str, str] = {}
    waiting = [function]
    while waiting:
        one = waiting.pop()
        if one.__name__ in texts:
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        texts[one.__name__] = shape(tree)
        called = (one.__globals__.get(name) for name in names_in(one.__code__))
        waiting += [f for f in called if isinstance(f, FunctionType) and f.__module__ == function.__module__]
    first = texts.pop(function.__name__)
    text = "\n".join((first, *(texts[name] for name in sorted(texts))))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


def shape(node: Any) -> str:
    if isinstance(node, list):
        return "[" + ",".join(map(shape, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = []
    for name, value in ast.iter_fields(node):
        if (
            name == "body"
            and isinstance(node, ast.FunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            value = value[1:]
        if name not in NOT_DONE and value is not None and value != []:
            parts.append(f"{name}={shape(value)}")
    return f"{type(node).__name__}({','.join(parts)})"


# ---- The table -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Equivalent:
    """A function of another library, and what stands in for it.

    Attributes:
        module: the module that has it. A ``*`` at its end stands for any ending.
        name: its name there.
        stand_in: a function with the same arguments, made of fastinit's functions. It returns the tensor.
        fingerprints: which versions of the function count, and whether each returns the tensor or None. If there are none,
            every version counts.
    """

    module: str
    name: str
    stand_in: Callable[..., Any]
    fingerprints: dict[str, bool] = field(default_factory=dict, hash=False)

    def is_in(self, module: str) -> bool:
        return module.startswith(self.module[:-1]) if self.module.endswith("*") else module == self.module

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> Tensor:
    """N(mean, std²) within [a, b]."""
    return init.trunc_normal_(tensor, mean, std, a, b)


def trunc_normal_tf_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> Tensor:
    """The standard normal within [a, b], then scaled by std and moved by mean."""
    low, high = sorted((a * std + mean, b * std + mean))
    return init.trunc_normal_(tensor, mean, std, low, high)


table: list[Equivalent] = []


def equivalents() -> tuple[Equivalent, ...]:
    """The functions of other libraries that ``enabled`` exchanges, where they look as they are known to.

    Returns:
        An ``Equivalent`` for each: those that come with fastinit, then those of ``register_equivalent``.

    Example:
        >>> import fastinit
        >>> [str(e) for e in fastinit.equivalents() if e.module.startswith("timm.layers")]
        ['timm.layers.weight_init.trunc_normal_', 'timm.layers.weight_init.trunc_normal_tf_']
    """
    return tuple(table)


def register_equivalent(
    function: Callable[..., Any] | str,
    stand_in: Callable[..., Any],
    fingerprints: Sequence[str] | None = None,
) -> Equivalent:
    """Let ``enabled`` exchange a function for one that does the same by fastinit's functions.

    In a block, a call of ``function`` calls ``stand_in`` with the same arguments. If that refuses before anything is drawn or
    written, ``function`` itself is called. The two must give the same distribution, which is for you to test.

    Args:
        function: the function, whose first argument is the tensor to fill. It may also be named, as ``"module:name"``, and
            imported later.
        stand_in: takes the same arguments.
        fingerprints: the ``fingerprint`` of each version of the function that counts. By default, a function counts as it
            looks now, and every version of one that is named counts.

    Raises:
        TypeError: if ``function`` is not written in Python.
        ValueError: if it has closures or variable arguments, or is not in its module under its name.

    Returns:
        The entry of the table.

    Example:
        >>> import fastinit, torch
        >>> def of_mine_(tensor, scale):
        ...     with torch.no_grad():
        ...         return tensor.normal_().mul_(scale)
        >>> _ = fastinit.register_equivalent(
        ...     "some.library:of_mine_", lambda tensor, scale: fastinit.normal_(tensor, std=scale)
        ... )
    """
    if isinstance(function, str):
        module, _, name = function.partition(":")
        if not module or not name.isidentifier():
            raise ValueError(f'a function is told by "module:name", not {function!r}')
    else:
        if not isinstance(function, FunctionType):
            raise TypeError(
                f"a function that is exchanged is written in Python, and is no {type(function).__name__}"
            )
        module, name = function.__module__, function.__name__
        if vars(sys.modules[module]).get(name) is not function:
            raise ValueError(f"{name} is not in the module {module} under its name")
        if not exchangeable(function):
            raise ValueError(f"{name} has closures or variable arguments")
        fingerprints = [fingerprint(function)] if fingerprints is None else fingerprints
    entry = Equivalent(module, name, stand_in, dict.fromkeys(fingerprints or (), True))
    with lock:
        table.append(entry)
        if patch.users:
            for loaded in [*sys.modules]:
                look_at(loaded, (entry,))
        else:
            looked_at.clear()
    return entry


# What the functions looked like that were compared with the stand-ins (tests/behaviour/test_equivalents.py).
TRUNC_NORMAL = {
    "9683a1d010b851be": True,  # timm 0.9 to 1.0
    "95e90c19cb621cce": True,  # mmengine 0.10
    "9ea3dafc1998ae83": True,  # diffusers 0.42, UniDiffuser
}
TRUNC_NORMAL_TF = {
    "be746c60f6badb62": True,  # timm 0.9 to 1.0
    "138b298bb47523eb": False,  # transformers 4.57: SigLIP, SigLIP 2, Phi-4
}
LIBRARIES = (
    ("timm.layers.weight_init", "trunc_normal_", trunc_normal_, TRUNC_NORMAL),
    ("timm.layers.weight_init", "trunc_normal_tf_", trunc_normal_tf_, TRUNC_NORMAL_TF),
    ("timm.models.layers.weight_init", "trunc_normal_", trunc_normal_, TRUNC_NORMAL),
    ("timm.models.layers.weight_init", "trunc_normal_tf_", trunc_normal_tf_, TRUNC_NORMAL_TF),
    ("transformers.models.*", "trunc_normal_tf_", trunc_normal_tf_, TRUNC_NORMAL_TF),
    ("mmengine.model.weight_init", "trunc_normal_", trunc_normal_, TRUNC_NORMAL),
    ("diffusers.pipelines.*", "trunc_normal_", trunc_normal_, TRUNC_NORMAL),
)
table += [Equivalent(*entry) for entry in LIBRARIES]


# ---- The exchange --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Exchanged:
    """A function that was found, and its code."""

    entry: Equivalent
    public: FunctionType
    original: FunctionType  # with the code that the public one had
    substitute: CodeType
    returns: bool


exchanged: dict[str, Exchanged] = {}
looked_at: set[str] = set()  # modules


def exchangeable(function: FunctionType) -> bool:
    kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
    return not function.__code__.co_freevars and kinds == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


def look_at(name: str, entries: Sequence[Equivalent] | None = None) -> None:
    """Find the functions of a module that are known, and exchange them."""
    module = sys.modules.get(name)
    for entry in table if entries is None else entries:
        if not entry.is_in(name) or not isinstance(module, ModuleType):
            continue
        full, public = f"{name}.{entry.name}", vars(module).get(entry.name)
        known = exchanged.get(full)
        if not isinstance(public, FunctionType) or public.__module__ != name or not exchangeable(public):
            continue
        if known is not None and known.public is public and known.entry is entry:
            continue
        again = known is not None and known.public is public  # registered anew
        returns = True
        if entry.fingerprints:
            try:
                looks = fingerprint(known.original if again and known else public)
            except (OSError, TypeError, ValueError, SyntaxError):  # no source
                continue
            if looks not in entry.fingerprints:
                continue
            returns = entry.fingerprints[looks]
        if again and known is not None:
            known.entry, known.returns = entry, returns
            continue
        code = patch.substitute(full, public, module=__name__)
        exchanged[full] = Exchanged(entry, public, patch.copy_of(public), code, returns)
        public.__code__ = code


def run(name: str, tensor: Any, *arguments: Any) -> Any:
    """A call of the function of that name."""
    function = exchanged[name]
    if is_dynamo_compiling() or not wanted() or not patch.plain(tensor):
        return function.original(tensor, *arguments)
    native = Record()
    try:
        with native:
            function.entry.stand_in(tensor, *arguments)
    except Exception:
        if native.began:
            raise
        return function.original(tensor, *arguments)
    for report in fill.open_reports():
        report._stood_in(name)
    return tensor if function.returns else None


def wanted() -> bool:
    """Whether equivalents count here and now: the innermost block says so."""
    if not patch.on():
        return False
    reports = fill.open_reports()
    return reports[-1]._with_equivalents if reports else program_wide


program_wide = True


class Finder(MetaPathFinder):
    """Looks at the modules that are imported while a block is open."""

    def __init__(self) -> None:
        self.asking: set[str] = set()

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname in self.asking or not any(entry.is_in(fullname) for entry in table):
            return None
        self.asking.add(fullname)  # one of the others may ask all others itself
        try:
            for other in [*sys.meta_path]:
                spec = other.find_spec(fullname, path, target) if hasattr(other, "find_spec") else None
                if spec is not None:
                    if hasattr(spec.loader, "exec_module"):
                        spec.loader = Looking(spec.loader)
                    return spec
        finally:
            self.asking.discard(fullname)
        return None


class Looking(Loader):
    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self.loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        with lock:
            if patch.users:
                look_at(module.__name__)


finder = Finder()


def install() -> None:
    """Exchange what is imported, and look at what will be."""
    for function in exchanged.values():
        function.public.__code__ = function.substitute
    for name in sys.modules.keys() - looked_at:
        # No other module is touched: it may be one that is loaded when it is.
        known = any(entry.is_in(name) for entry in table)
        if known and getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False):
            continue
        looked_at.add(name)
        if known:
            look_at(name)
    sys.meta_path.insert(0, finder)


def uninstall() -> None:
    for function in exchanged.values():
        function.public.__code__ = function.original.__code__
    sys.meta_path[:] = [one for one in sys.meta_path if one is not finder]


patch.others.append((install, uninstall))
