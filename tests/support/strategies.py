"""What test_fuzz.py draws: calls of an initialiser, as plain data that hypothesis can print and make smaller.

A case says how to make the tensor rather than being one, so that each library gets its own, and the two are alike.
"""

import inspect
import math
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from testing import FUNCTIONS

inf, nan = math.inf, math.nan

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
COMPLEX = (torch.complex64, torch.complex128)
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)
DTYPES = sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)}, key=str)

# ---------------------------------------------------------------------------------------------------------------
# Tensors

EMPTY = 0xFF  # every byte of the memory: NaN in each floating-point dtype, and no value that is ever drawn
GUARD = 128  # bytes before and after the elements, more than any vector that a kernel stores


@dataclass(frozen=True)
class Layout:
    """Where the elements lie in memory, whatever the sizes are: strides are worked out from the innermost dimension."""

    order: str = "rows"  # "rows", "columns", "channels last": which dimension is the innermost one
    steps: tuple[int, ...] = ()  # for each dimension: 1, or how many times as far apart the elements are
    gaps: tuple[int, ...] = ()  # for each dimension: elements left out at its end
    offset: int = 0  # elements before the first one
    shared: tuple[int, ...] = ()  # dimensions that are expanded
    overlapping: bool = False  # every stride is 1

    def strides(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        dims = len(shape)
        if self.overlapping:
            return (1,) * dims
        inwards = list(range(dims))
        if self.order == "columns":
            inwards.reverse()
        if self.order == "channels last":
            inwards = [*inwards[:1], *inwards[2:], *inwards[1:2]]
        strides, span = [0] * dims, 1
        for dim in reversed(inwards):
            strides[dim] = span * (self.steps[dim] if dim < len(self.steps) else 1)
            span = strides[dim] * max(shape[dim], 1) + (self.gaps[dim] if dim < len(self.gaps) else 0)
        return tuple(0 if dim in self.shared else stride for dim, stride in enumerate(strides))


class Plain(torch.Tensor):
    """A subclass that overrides nothing."""


class Passing(torch.Tensor):
    """A subclass that is asked about every call, and lets it pass."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})


NO_TENSORS: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "list": lambda: [1.0, 2.0],
    "number": lambda: 1.5,
    "ndarray": lambda: np.zeros((3, 3, 3)),
    "uninitialized": torch.nn.UninitializedParameter,
}
KINDS = (
    "alone",  # the only tensor on its memory
    "view",
    "leaf",
    "Parameter",
    "not a leaf",
    "view of a leaf",
    "one of several views",
    "conjugate view",
    "negative view",
    "inference",
    "Plain",
    "Passing",
    "fake",
    "meta",
    "sparse",
    "csr",
)
SPARSE = ("sparse", "csr")


@dataclass(frozen=True)
class Recipe:
    """How to make a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    layout: Layout = Layout()
    kind: str = "alone"

    def make(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that ComplexHalf is experimental, and the like
            return self._make()

    def _make(self) -> Any:
        shape, dtype, kind = self.shape, self.dtype, self.kind
        strides = self.layout.strides(shape)
        if kind in NO_TENSORS:
            return NO_TENSORS[kind]()
        if kind == "meta":
            return torch.empty_strided(shape, strides, dtype=dtype, device="meta")
        if kind == "fake":
            with FakeTensorMode():
                return torch.empty_strided(shape, strides, dtype=dtype)
        if kind == "csr" and len(shape) == 2:
            return torch.ones(shape).to_sparse_csr()
        if kind in SPARSE:
            return torch.zeros(shape).to_sparse()
        if kind == "inference":
            with torch.inference_mode():
                return self._alone(shape, strides)
        if kind in ("alone", "Plain", "Passing", "conjugate view", "negative view"):
            tensor = self._alone(shape, strides)
            if kind == "conjugate view":
                return tensor.conj()
            if kind == "negative view":
                return torch._neg_view(tensor)
            return (
                tensor if kind == "alone" else tensor.as_subclass({"Plain": Plain, "Passing": Passing}[kind])
            )
        differentiable = dtype.is_floating_point or dtype.is_complex
        if kind in ("leaf", "Parameter"):
            tensor = self._alone(shape, strides)
            return (
                torch.nn.Parameter(tensor, requires_grad=differentiable)
                if kind == "Parameter"
                else tensor.requires_grad_(differentiable)
            )
        offset = self._offset()
        whole = self._alone((self._elements(shape, strides) + 2 * offset,), (1,), 0)
        if kind != "view":
            whole.requires_grad_(differentiable)
        if differentiable and kind in ("not a leaf", "one of several views"):
            whole = whole.clone()
        if kind == "one of several views":
            return whole.as_strided((1, *shape), (1, *strides), offset).unbind()[0]
        return whole.as_strided(shape, strides, offset)

    def _offset(self) -> int:
        return GUARD // self.dtype.itemsize + self.layout.offset

    @staticmethod
    def _elements(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
        last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        return last + 1 if math.prod(shape) else 0

    def _alone(
        self, shape: tuple[int, ...], strides: tuple[int, ...], offset: int | None = None
    ) -> torch.Tensor:
        """On memory of its own, with guards on both sides of it unless it is the whole of it."""
        offset = self._offset() if offset is None else offset
        count = (self._elements(shape, strides) + 2 * offset) * self.dtype.itemsize
        memory = torch.full((count,), 1 if self.dtype == torch.bool else EMPTY, dtype=torch.uint8)
        return torch.empty(0, dtype=self.dtype).set_(memory.untyped_storage(), offset, shape, strides)


# ---------------------------------------------------------------------------------------------------------------
# Around the call


def functional_call(call: Callable[..., Any], tensor: Any) -> Any:
    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self) -> Any:
            return call(self.weight)

    return torch.func.functional_call(Module(), {"weight": tensor}, ())


def within(context: Callable[[], AbstractContextManager[Any]]) -> Callable[..., Any]:
    def call_within(call: Callable[..., Any], tensor: Any) -> Any:
        with context():
            return call(tensor)

    return call_within


# Each runs the call on the tensor, or on what a transform makes of it.
SETTINGS: dict[str, Callable[[Callable[..., Any], Any], Any]] = {
    "plain": within(nullcontext),
    "no_grad": within(torch.no_grad),
    "inference_mode": within(torch.inference_mode),
    "device": within(lambda: torch.device("meta")),
    "functional_call": functional_call,
    **{
        f"vmap, {randomness}": lambda call, tensor, r=randomness: torch.vmap(call, randomness=r)(tensor)
        for randomness in ("error", "same", "different")
    },
    "vmap of a copy": lambda call, tensor: torch.vmap(lambda t: call(t.clone()))(tensor),
    "grad": lambda call, tensor: torch.func.grad(lambda t: call(t).sum())(tensor),
    "grad of a copy": lambda call, tensor: torch.func.grad(lambda t: call(t.clone()).sum())(tensor),
    "jvp": lambda call, tensor: torch.func.jvp(call, (tensor,), (tensor.detach().clone(),)),
    "functionalize": lambda call, tensor: torch.func.functionalize(call)(tensor),
}
TRANSFORMS = tuple(name for name in SETTINGS if name.startswith(("vmap", "grad", "jvp", "functionalize")))

# ---------------------------------------------------------------------------------------------------------------
# Arguments

# For each function values that work, in any combination.
VALID: dict[str, dict[str, tuple[Any, ...]]] = {
    "uniform_": dict(
        a=(0.0, -1, -0.5, False, np.float32(0.25)), b=(1.0, 2, 0.5, True, torch.tensor(3.5), 65000)
    ),
    "normal_": dict(mean=(0.0, 1, -0.5, np.int64(3), torch.tensor(2)), std=(1.0, 0.02, 0, 3, True, 1e-30)),
    "trunc_normal_": dict(
        mean=(0.0, 0.5, -0.5, 1), std=(1.0, 0.5, 2), a=(-2.0, -3, -0.25, -inf), b=(2.0, 1, 0.75, inf)
    ),
    "constant_": dict(val=(0.5, 0, -3, True, 1.25, 100, np.float64(0.5), torch.tensor(7))),
    "ones_": {},
    "zeros_": {},
    "eye_": {},
    "dirac_": dict(groups=(1, 2, 3, True)),
    "xavier_uniform_": dict(gain=(1.0, 0.5, 0, 2, math.sqrt(2))),
    "xavier_normal_": dict(gain=(1.0, 0.5, 0, 2, math.sqrt(2))),
    "orthogonal_": dict(gain=(1, 0.5, 0, -2, math.sqrt(2), np.float64(2), 1e-30)),
    "sparse_": dict(sparsity=(0.4, 0.0, 1, 0.5, True, 1e-9), std=(0.01, 1, 0)),
} | {
    f"kaiming_{distribution}_": dict(
        a=(0, 0.5, -1, 5**0.5),
        mode=("fan_in", "fan_out", "FAN_IN"),
        nonlinearity=("leaky_relu", "relu", "tanh", "linear", "selu", "conv2d"),
    )
    for distribution in ("uniform", "normal")
}

HOSTILE: tuple[Any, ...] = (
    *(nan, inf, -inf, 0.0, -0.0, -1.5, 5e-324, 1e-45, 1e-40, 65519.0, 65520.0, -7e4, 3.4e38, -3e38, 1e39, 1e300),
    *(-1e300, 10**400, 2**63, -(2**63), 2**31, 3, 0, -2, True, None, "0", "fan_in", "relu", "", 1j, b"1", (), [0.5]),
    *(np.float32(0.5), np.float64(nan), np.int64(-5), np.bool_(True), np.array(0.5), np.array([1.0, 2.0])),
    *(np.complex64(1), np.float16(2.0)),
    *(torch.tensor(0.5), torch.tensor(2), torch.tensor([0.5]), torch.tensor([0.5, 0.6]), torch.tensor(nan)),
    *(torch.tensor(0.5, requires_grad=True), torch.tensor(1j), torch.tensor(True), torch.empty((), device="meta")),
    *(Fraction(1, 2), Decimal("0.5"), object, torch.float32),
)  # fmt: skip
GENERATORS = ("none",) * 10 + ("CPU",) * 6 + ("a string", "a number")


@dataclass(frozen=True)
class Case:
    """One call of a function of torch.nn.init."""

    function: str
    tensor: Recipe
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    generator: str = "none"
    setting: str = "plain"

    @property
    def name(self) -> str:
        """The function's, without regard to what it was called in the past."""
        return self.function if self.function.endswith("_") else self.function + "_"

    @property
    def parameters(self) -> dict[str, Any]:
        """Every parameter by its name, with the defaults filled in; none if the call does not fit the signature."""
        try:
            bound = inspect.signature(getattr(torch.nn.init, self.name)).bind(None, *self.args, **self.kwargs)
        except TypeError:
            return {}
        bound.apply_defaults()
        return {name: value for name, value in bound.arguments.items() if name not in ("tensor", "generator")}

    @property
    def shares_memory(self) -> bool:
        """Whether two elements lie in the same place."""
        shape = self.tensor.shape
        if self.tensor.kind in (*NO_TENSORS, *SPARSE) or not math.prod(shape):
            return False
        strides = self.tensor.layout.strides(shape)
        span = Recipe._elements(shape, strides)
        return torch.arange(span).as_strided(shape, strides).unique().numel() < math.prod(shape)

    def number(self, name: str) -> float:
        """A parameter as a float; NaN if it is none."""
        value = self.parameters.get(name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of gradients and imaginary parts that get lost
                return float(value) if isinstance(value, int | float | torch.Tensor | np.generic) else nan
        except (TypeError, ValueError, OverflowError, RuntimeError):
            return nan


# ---------------------------------------------------------------------------------------------------------------
# Strategies

SIZES = (1, 2, 3, 4, 5, 7, 8, 16, 17, 33, 70, 0)


@st.composite
def shapes(draw: st.DrawFn, dims: tuple[int, ...]) -> tuple[int, ...]:
    """At most about 4,000 elements."""
    shape: list[int] = []
    for _ in range(draw(st.sampled_from(dims))):
        room = 4000 // max(1, math.prod(shape))
        shape.append(draw(st.sampled_from([size for size in SIZES if size <= room])))
    return tuple(shape)


@st.composite
def layouts(draw: st.DrawFn, dims: int) -> Layout:
    each = st.tuples(*[st.sampled_from((1, 1, 2, 3))] * dims)
    return Layout(
        order=draw(st.sampled_from(("rows", "columns", "channels last"))),
        steps=draw(st.one_of(st.just(()), each)),
        gaps=draw(st.one_of(st.just(()), each)),
        offset=draw(st.integers(0, 17)),
        shared=draw(st.sampled_from([()] * 40 + [(dim,) for dim in range(dims)])),
        overlapping=draw(st.sampled_from([False] * 40 + [True])),
    )


# The rank that suits a function; others now and then.
RANKS = {"eye_": (2,), "sparse_": (2,), "dirac_": (3, 4, 5), "orthogonal_": (2, 2, 3, 4, 5)}
FANS = (2, 2, 3, 4, 5)
ANY = (0, 1, 2, 3, 4, 5)


@st.composite
def recipes(draw: st.DrawFn, name: str, setting: str) -> Recipe:
    suitable = RANKS.get(name, FANS if "ing" in name or "xavier" in name else ANY)
    shape = draw(shapes(suitable if draw(st.integers(0, 9)) else ANY))
    if setting.startswith("vmap"):
        shape = (draw(st.integers(1, 3)), *shape)
    if draw(st.integers(0, 19)) == 19:
        return Recipe(shape, kind=draw(st.sampled_from(list(NO_TENSORS))))
    kind = draw(st.sampled_from((*("alone", "view") * 5, *KINDS)))
    if setting == "jvp" and kind in ("negative view", "conjugate view"):  # torch: "INTERNAL ASSERT FAILED"
        kind = "view"
    if kind == "conjugate view":
        dtype = draw(st.sampled_from(COMPLEX))
    elif kind == "negative view":
        dtype = draw(st.sampled_from(FLOATS + COMPLEX))
    elif draw(st.integers(0, 5)):
        dtype = draw(st.sampled_from(FLOATS))
    else:
        dtype = draw(st.sampled_from([*COMPLEX, *COMPLEX, *COMPLEX, *DTYPES]))
        if str(dtype).startswith(("torch.q", "torch.bits")):  # which torch itself has no views of
            kind = "alone"
    return Recipe(shape, dtype, draw(layouts(len(shape))), kind)


# Any float: denormal, huge, NaN.
numbers = st.one_of(st.sampled_from(HOSTILE), st.sampled_from(HOSTILE), st.floats())


@st.composite
def arguments(draw: st.DrawFn, name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    valid = VALID[name]
    hostile = draw(st.integers(0, 9)) >= 7
    least = 1 if name in ("constant_", "sparse_") and not hostile else 0
    given = {}
    for parameter in list(valid)[: draw(st.integers(least, len(valid)))]:
        strange = hostile and draw(st.booleans())
        given[parameter] = draw(numbers if strange else st.sampled_from(valid[parameter]))
    by_place = draw(st.integers(0, len(given)))
    args = tuple(given.values())[:by_place]
    kwargs = dict(list(given.items())[by_place:])
    if hostile and not draw(st.integers(0, 9)):
        kwargs["unknown"] = 1
    return args, kwargs


def huge(value: Any) -> bool:
    return isinstance(value, int) and abs(value) > 1000


@st.composite
def cases(draw: st.DrawFn, name: str) -> Case:
    setting = draw(st.sampled_from(["plain"] * 40 + list(SETTINGS)))
    args, kwargs = draw(arguments(name))
    recipe = draw(recipes(name, setting))
    if name == "dirac_" and 0 in recipe.shape and any(huge(value) for value in (*args, *kwargs.values())):
        args, kwargs = (), {}  # torch would loop over all these groups
    takes_generator = "generator" in inspect.signature(getattr(torch.nn.init, name)).parameters
    has_old_name = hasattr(torch.nn.init, name[:-1])
    return Case(
        name[:-1] if has_old_name and not draw(st.integers(0, 15)) else name,
        recipe,
        args,
        kwargs,
        draw(st.sampled_from(GENERATORS)) if takes_generator else "none",
        setting,
    )


assert set(VALID) == set(FUNCTIONS)
