"""fastinit beside torch.nn.init: the same call on the same tensor must have the same outcome.

The tables are the specification. FUNCTIONS x TENSORS and PARAMETERS are run through both libraries and compared;
BETTER and STRICTER list the rows in which fastinit departs from torch; differences.py lists what is behind them.
"""

import fractions
import inspect
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fastinit
from testing import FUNCTIONS, RANDOM, Outcome, arguments, observe, shape

inf, nan = math.inf, math.nan
Shape = tuple[int, ...]

# ---------------------------------------------------------------------------------------------------------------
# Tensors. Each is made anew for each call, from the shape that suits the function; some have their own.


def full(shape: Shape, dtype: torch.dtype = torch.float32, **options: Any) -> torch.Tensor:
    return torch.full(shape, 7, dtype=dtype, **options)


def of_dtype(dtype: torch.dtype) -> Callable[[Shape], torch.Tensor]:
    return lambda shape: full(shape, dtype)


def of_shape(*shape: int) -> Callable[[Shape], torch.Tensor]:
    return lambda _: full(shape)


def without(dim: int) -> Callable[[Shape], torch.Tensor]:
    return lambda shape: full((*shape[:dim], 0, *shape[dim + 1 :]))


def inner(shape: Shape) -> torch.Tensor:
    """A view with a gap between and around all its elements."""
    return full(tuple(2 * size + 3 for size in shape))[tuple(slice(2, 2 + 2 * size, 2) for size in shape)]


def inference(shape: Shape) -> torch.Tensor:
    with torch.inference_mode():
        return full(shape)


def quantized(shape: Shape) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(full(shape), 0.1, 0, torch.qint8)


class Plain(torch.Tensor):
    """A subclass that overrides nothing."""


TENSORS: dict[str, Callable[[Shape], Any]] = {
    # layouts in memory
    "contiguous": full,
    "transposed": lambda shape: full(shape[::-1]).permute(*reversed(range(len(shape)))),
    "with gaps": inner,
    "channels_last": lambda _: full((6, 4, 3, 3)).to(memory_format=torch.channels_last),
    "4 dimensions": of_shape(6, 4, 3, 2),
    "5 dimensions": of_shape(6, 4, 3, 2, 3),
    "6 dimensions": of_shape(2, 3, 2, 3, 2, 1),
    "1 dimension": of_shape(5),
    "no dimension": of_shape(),
    "one element": lambda shape: full((1,) * len(shape)),
    "expanded": lambda shape: full((1, *shape[1:])).expand(shape),
    "overlapping": lambda shape: full((64,)).as_strided(shape, (1,) * len(shape)),
    # no elements
    "empty": of_shape(0),
    "no rows": without(0),
    "no columns": without(1),
    "no rows, no columns": lambda shape: full((0, 0, *shape[2:])),
    # dtypes
    "float64": of_dtype(torch.float64),
    "float16": of_dtype(torch.float16),
    "bfloat16": of_dtype(torch.bfloat16),
    "complex64": of_dtype(torch.complex64),
    "complex128": of_dtype(torch.complex128),
    "conjugate view": lambda shape: full(shape, torch.complex64).conj(),
    "negative view": lambda shape: full(shape, torch.complex64).conj().imag,
    "float8": of_dtype(torch.float8_e4m3fn),
    "int64": of_dtype(torch.int64),
    "uint8": of_dtype(torch.uint8),
    "bool": of_dtype(torch.bool),
    "quantized": quantized,
    # autograd
    "leaf requiring grad": lambda shape: full(shape, requires_grad=True),
    "Parameter": lambda shape: torch.nn.Parameter(full(shape)),
    "not a leaf": lambda shape: full(shape, requires_grad=True) * 1,
    "view of a leaf": lambda shape: full((9, *shape[1:]), requires_grad=True)[2:8],
    "inference tensor": inference,
    # other kinds of tensor, and what is none
    "meta": lambda shape: full(shape, device="meta"),
    "sparse layout": lambda shape: full(shape).to_sparse(),
    "plain subclass": lambda shape: full(shape).as_subclass(Plain),
    "uninitialized": lambda _: torch.nn.UninitializedParameter(),
    "list": lambda _: [1.0, 2.0],
    "ndarray": lambda shape: np.zeros(shape),
    "None": lambda _: None,
}

# Where torch fails (2.13; 2.11 not everywhere) and fastinit does not.
BETTER = {
    ("orthogonal_", "float16"): "torch has no half-precision QR",
    ("orthogonal_", "bfloat16"): "torch has no half-precision QR",
    ("orthogonal_", "channels_last"): "torch takes a view that such strides do not allow",
    **{
        ("orthogonal_", name): "torch has no sign of a complex number"
        for name in ("complex64", "complex128", "conjugate view")
    },
    ("trunc_normal_", "negative view"): "torch asks the wrong dispatch key for a device",
    **{(name, "float8"): "torch has no kernels for it" for name in RANDOM},
}

# Where torch goes on and fastinit refuses, or the two refuse differently.
STRICTER: dict[tuple[str, str], type[Exception]] = {
    # Elements that share memory cannot have values of their own.
    **{(name, "overlapping"): RuntimeError for name in (*RANDOM, "eye_", "dirac_")},
    **{(name, "expanded"): RuntimeError for name in ("eye_", "dirac_")},
    # torch reports what it stumbles over first.
    ("kaiming_normal_", "uninitialized"): ValueError,
    ("dirac_", "sparse layout"): NotImplementedError,
}


def both(name: str, make: Callable[[], Any], *args: Any, **kwargs: Any) -> tuple[Outcome, Outcome, Any, Any]:
    """The outcomes of one call in torch and in fastinit, and the two tensors."""
    theirs, ours = make(), make()
    return (
        observe(getattr(torch.nn.init, name), theirs, *args, **kwargs),
        observe(getattr(fastinit, name), ours, *args, **kwargs),
        theirs,
        ours,
    )


def check_refused(ours: Outcome, expected: type[Exception] | tuple[type[Exception], ...]) -> None:
    """Refused with this type of error, and nothing happened."""
    assert isinstance(ours.error, expected)
    assert not ours.wrote, "the tensor is not as it was"
    assert not ours.wrote_outside
    assert not ours.bumped, "the version counter says that the tensor was written to"
    assert not ours.drew, "something was drawn from the generator"


def check_same(theirs: Outcome, ours: Outcome) -> None:
    if theirs.error:
        check_refused(ours, type(theirs.error))
        if type(theirs.error) is ValueError and "uninitialized" not in str(theirs.error):
            assert str(ours.error) == str(theirs.error)
    else:
        assert ours.error is None
        assert ours.returned_it == theirs.returned_it
        if (
            theirs.facts["device"].type != "meta"
        ):  # torch's versions differ there; see test_meta_draws_nothing
            assert ours.bumped == theirs.bumped
            assert ours.drew == theirs.drew
        assert ours.wrote == theirs.wrote
    assert not ours.wrote_outside
    assert ours.warnings == theirs.warnings
    assert ours.warned_here
    assert ours.facts == theirs.facts


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_tensors(name: str, kind: str) -> None:
    theirs, ours, their_tensor, our_tensor = both(name, lambda: TENSORS[kind](shape(name)), *arguments(name))
    if (name, kind) in BETTER:
        assert ours.error is None
        assert ours.returned_it and ours.bumped and ours.drew and ours.wrote and not ours.wrote_outside
    elif (name, kind) in STRICTER:
        check_refused(ours, STRICTER[name, kind])
    else:
        check_same(theirs, ours)
        if not theirs.error and name not in RANDOM and kind not in ("meta", "sparse layout"):
            assert torch.equal(our_tensor, their_tensor)


# ---------------------------------------------------------------------------------------------------------------
# Parameters, on the shape of the function's own.

# Whatever torch does with these, fastinit does: values and types that work, and types that do not.
PARAMETERS: list[tuple[str, dict[str, Any]]] = [
    ("uniform_", dict(a=-2, b=3)),
    ("uniform_", dict(a=2, b=2)),
    ("uniform_", dict(a=True, b=2)),
    ("uniform_", dict(a=torch.tensor(0.5), b=torch.tensor(2))),
    ("uniform_", dict(a=np.float32(0.5), b=np.int64(3))),
    ("uniform_", dict(a=np.float64(0.5))),
    ("uniform_", dict(generator=torch.Generator())),
    ("uniform_", dict(a="0")),
    ("uniform_", dict(a=None)),
    ("uniform_", dict(a=1j)),
    ("uniform_", dict(a=torch.tensor([0.5]))),
    ("uniform_", dict(a=torch.tensor([0.5, 0.6]))),
    ("uniform_", dict(a=torch.tensor(0.5, requires_grad=True))),
    ("uniform_", dict(a=np.array(0.5))),
    ("uniform_", dict(a=fractions.Fraction(1, 2))),
    ("uniform_", dict(b=10**400)),
    ("uniform_", dict(generator="0")),
    ("uniform_", dict(c=1)),
    ("normal_", dict(mean=3, std=0)),
    ("normal_", dict(std=-0.0)),
    ("normal_", dict(mean=torch.tensor(3), std=np.float32(0.5))),
    ("normal_", dict(mean="0")),
    ("normal_", dict(std=None)),
    ("normal_", dict(std=1j)),
    ("normal_", dict(generator=0)),
    ("trunc_normal_", dict(mean=1, std=2, a=0, b=3)),
    ("trunc_normal_", dict(a=1, b=1)),
    ("trunc_normal_", dict(a=-inf, b=inf)),
    ("trunc_normal_", dict(a=-inf, b=0)),
    ("trunc_normal_", dict(mean=5)),  # warns
    ("trunc_normal_", dict(a=3, b=4)),  # warns
    ("trunc_normal_", dict(mean=5, std=0)),  # warns, and fails
    ("trunc_normal_", dict(mean=torch.tensor(0.5), std=torch.tensor(2))),
    ("trunc_normal_", dict(mean="0")),
    ("trunc_normal_", dict(mean=None)),
    ("trunc_normal_", dict(mean=1j)),
    ("trunc_normal_", dict(mean=fractions.Fraction(1, 2))),
    ("trunc_normal_", dict(generator="0")),
    ("constant_", dict(val=-3)),
    ("constant_", dict(val=True)),
    ("constant_", dict(val=nan)),
    ("constant_", dict(val=inf)),
    ("constant_", dict(val=2**63)),
    ("constant_", dict(val=10**400)),
    ("constant_", dict(val=1e300)),
    ("constant_", dict(val=1j)),
    ("constant_", dict(val=np.float32(0.5))),
    ("constant_", dict(val=np.int64(5))),
    ("constant_", dict(val=torch.tensor(0.5))),
    ("constant_", dict(val=torch.tensor(0.5, requires_grad=True))),
    ("constant_", dict(val=torch.tensor([0.5]))),
    ("constant_", dict(val=torch.tensor([0.5, 0.6]))),
    ("constant_", dict(val=fractions.Fraction(1, 2))),
    ("constant_", dict(val="0")),
    ("constant_", dict(val=None)),
    ("dirac_", dict(groups=2)),
    ("dirac_", dict(groups=6)),
    ("dirac_", dict(groups=True)),
    *([("dirac_", dict(groups=np.True_))] if np.__version__ >= "2.3" else []),  # older ones only warn
    ("dirac_", dict(groups=np.int64(2))),
    ("dirac_", dict(groups=torch.tensor(2))),
    ("dirac_", dict(groups=-2)),
    ("dirac_", dict(groups=0)),
    ("dirac_", dict(groups=4)),
    ("dirac_", dict(groups=2.0)),
    ("dirac_", dict(groups=1.5)),
    ("dirac_", dict(groups="2")),
    ("dirac_", dict(groups=None)),
    *[
        (f"xavier_{distribution}_", parameters)
        for distribution in ("uniform", "normal")
        for parameters in (
            dict(gain=2),
            dict(gain=0),
            dict(gain=torch.tensor(2.0)),
            dict(gain=np.float32(2)),
            dict(gain="2"),
            dict(gain=np.array([1.0, 2.0])),
            dict(gain=torch.tensor([1.0, 2.0])),
            dict(gain=None),
            dict(gain=1j),
            dict(generator="0"),
        )
    ],
    *[
        (f"kaiming_{distribution}_", parameters)
        for distribution in ("uniform", "normal")
        for parameters in (
            dict(a=-1),
            dict(a=None),
            dict(a=np.float64(1)),
            dict(a=nan, nonlinearity="relu"),
            dict(mode="FAN_OUT"),
            dict(nonlinearity="selu"),
            dict(a=1e200),
            dict(a="1"),
            dict(a=True),
            dict(a=np.float32(1)),
            dict(a=torch.tensor(1.0)),
            dict(mode="fan_avg"),
            dict(mode=None),
            dict(nonlinearity="gelu"),
            dict(generator="0"),
        )
    ],
    ("orthogonal_", dict(gain=-2)),
    ("orthogonal_", dict(gain=0)),
    ("orthogonal_", dict(gain=torch.tensor(2.0))),
    ("orthogonal_", dict(gain=np.float32(2))),
    ("orthogonal_", dict(gain="2")),
    ("orthogonal_", dict(gain=None)),
    ("orthogonal_", dict(generator="0")),
    ("sparse_", dict(sparsity=0)),
    ("sparse_", dict(sparsity=True)),
    ("sparse_", dict(sparsity=0.5, std=0)),
    ("sparse_", dict(sparsity=torch.tensor(0.5))),
    ("sparse_", dict(sparsity=np.float32(0.5))),
    ("sparse_", dict(sparsity="0.5")),
    ("sparse_", dict(sparsity=None)),
    ("sparse_", dict(sparsity=np.array([0.1, 0.2]))),
    ("sparse_", dict(sparsity=torch.tensor([0.1, 0.2]))),
    ("sparse_", dict(sparsity=fractions.Fraction(1, 2))),
    ("sparse_", dict(sparsity=torch.tensor([0.5]))),
    ("sparse_", dict(sparsity=1j)),
    ("sparse_", dict(sparsity=0.5, std="1")),
    ("sparse_", dict(sparsity=0.5, generator="0")),
    ("sparse_", {}),
]

# Values out of range. Each is refused, with torch's type of error where torch refuses it too, and the message
# names this parameter and its value.
OUT_OF_RANGE: list[tuple[str, dict[str, Any], str]] = [
    ("uniform_", dict(a=nan), "a"),
    ("uniform_", dict(b=nan), "b"),
    ("uniform_", dict(a=-inf), "a"),
    ("uniform_", dict(b=inf), "b"),
    ("uniform_", dict(a=1, b=0), "a"),
    ("uniform_", dict(a=-1e39), "a"),
    ("uniform_", dict(b=1e39), "b"),
    ("uniform_", dict(a=-3e38, b=2e38), "a"),
    ("normal_", dict(mean=nan), "mean"),
    ("normal_", dict(mean=-inf), "mean"),
    ("normal_", dict(std=nan), "std"),
    ("normal_", dict(std=inf), "std"),
    ("normal_", dict(std=-1.5), "std"),
    ("trunc_normal_", dict(mean=nan), "mean"),
    ("trunc_normal_", dict(std=nan), "std"),
    ("trunc_normal_", dict(std=inf), "std"),
    ("trunc_normal_", dict(std=-0.5), "std"),
    ("trunc_normal_", dict(std=0), "std"),
    ("trunc_normal_", dict(a=nan), "a"),
    ("trunc_normal_", dict(b=nan), "b"),
    ("trunc_normal_", dict(a=2, b=-2), "a"),
    ("xavier_uniform_", dict(gain=nan), "gain"),
    ("xavier_uniform_", dict(gain=inf), "gain"),
    ("xavier_uniform_", dict(gain=-1.5), "gain"),
    ("xavier_normal_", dict(gain=nan), "gain"),
    ("xavier_normal_", dict(gain=inf), "gain"),
    ("xavier_normal_", dict(gain=-1.5), "gain"),
    ("kaiming_uniform_", dict(a=nan), "a"),
    ("kaiming_uniform_", dict(a=-inf), "a"),
    ("kaiming_normal_", dict(a=nan), "a"),
    ("kaiming_normal_", dict(a=-inf), "a"),
    ("orthogonal_", dict(gain=nan), "gain"),
    ("orthogonal_", dict(gain=-inf), "gain"),
    ("sparse_", dict(sparsity=nan), "sparsity"),
    ("sparse_", dict(sparsity=inf), "sparsity"),
    ("sparse_", dict(sparsity=-0.5), "sparsity"),
    ("sparse_", dict(sparsity=1.5), "sparsity"),
    ("sparse_", dict(sparsity=0.5, std=nan), "std"),
    ("sparse_", dict(sparsity=0.5, std=-1.5), "std"),
]

# What torch refuses, or gets wrong, although it is well defined. The bounds hold for every value.
WELL_DEFINED: list[tuple[str, dict[str, Any], tuple[float, float]]] = [
    ("trunc_normal_", dict(a=1, b=inf), (1, inf)),
    ("trunc_normal_", dict(a=-inf, b=-1), (-inf, -1)),
]


def label(row: tuple[Any, ...]) -> str:
    text = f"{row[0]}({', '.join(f'{key}={value!r}' for key, value in row[1].items())})"
    return re.sub(r" object at 0x\w+", "", text)[:80]  # the same in every process


@pytest.mark.parametrize("row", PARAMETERS, ids=label)
def test_parameters(row: tuple[str, dict[str, Any]]) -> None:
    name, parameters = row
    theirs, ours, their_tensor, our_tensor = both(name, lambda: full(shape(name)), **parameters)
    check_same(theirs, ours)
    if not theirs.error and (name not in RANDOM or 0 in (parameters.get("std"), parameters.get("gain"))):
        torch.testing.assert_close(our_tensor, their_tensor, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("row", OUT_OF_RANGE, ids=label)
def test_out_of_range(row: tuple[str, dict[str, Any], str]) -> None:
    name, parameters, culprit = row
    theirs, ours, *_ = both(name, lambda: full(shape(name)), **parameters)
    check_refused(ours, type(theirs.error) if theirs.error else (RuntimeError, ValueError))
    assert re.search(rf"\b{culprit}\b", str(ours.error))
    assert f"{parameters[culprit]:g}" in str(ours.error)
    assert "\n" not in str(ours.error)


@pytest.mark.parametrize("dtype, limit", [(torch.float16, 65504), (torch.bfloat16, 3.4e38)])
def test_uniform_bounds_beyond_the_dtype(dtype: torch.dtype, limit: float) -> None:
    for parameters in (dict(b=limit * 1.01), dict(a=-limit * 1.01), dict(a=-0.7 * limit, b=0.7 * limit)):
        theirs, ours, *_ = both("uniform_", lambda: full((5,), dtype), **parameters)
        assert theirs.error
        check_same(theirs, ours)


@pytest.mark.parametrize(
    "dtype, limit", [(torch.float16, 65504), (torch.bfloat16, 3.4e38), (torch.float32, 3.5e38)]
)
def test_truncated_normal_bounds_beyond_the_dtype(dtype: torch.dtype, limit: float) -> None:
    """A finite bound keeps the values finite, and far enough from a value it changes nothing."""
    unbounded = fastinit.trunc_normal_(
        full((1000,), dtype), 0, 1, -inf, inf, torch.Generator().manual_seed(1)
    )
    wide = fastinit.trunc_normal_(
        full((1000,), dtype), 0, 1, -10 * limit, 2 * limit, torch.Generator().manual_seed(1)
    )
    assert torch.equal(wide, unbounded)
    assert (
        fastinit.trunc_normal_(full((10_000,), dtype), 0, limit / 2, -10 * limit, 2 * limit).isfinite().all()
    )
    for a, b in ((2 * limit, 3 * limit), (-inf, -2 * limit)):
        outcome = observe(fastinit.trunc_normal_, full((5,), dtype), 0, 1, a, b)
        check_refused(outcome, RuntimeError)
        assert "has no number in" in str(outcome.error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_truncated_normal_within_the_widest_interval(dtype: torch.dtype) -> None:
    """Whose length is more than the largest number."""
    largest = torch.finfo(dtype).max
    values = fastinit.trunc_normal_(full((10_000,), dtype), 0, largest, -largest, largest).double() / largest
    assert abs(values.mean()) < 0.03 and abs(values.std() - 0.5396) < 0.02
    assert (values.abs() < 1).any() and (values.abs() == 1).sum() < 100


@pytest.mark.parametrize("name", ["eye_", "dirac_"])
def test_dtype_that_holds_no_one(name: str) -> None:
    """torch zeroes tensors of these dtypes, and cannot fill them: nothing must have happened before that is found."""
    theirs, ours, *_ = both(
        name, lambda: torch.full((*shape(name), 1), 7, dtype=torch.uint8).view(torch.int5)[..., 0]
    )
    check_same(theirs, ours)
    assert ours.error


@pytest.mark.parametrize("val", [torch.tensor(0.5), True, np.float32(0.5), 0.5], ids=repr)
def test_constant_for_an_inference_tensor(val: Any) -> None:
    """torch writes some of them first, and raises then."""
    theirs, ours, *_ = both("constant_", lambda: inference((3, 4)), val)
    check_refused(ours, type(theirs.error))


@pytest.mark.parametrize("row", WELL_DEFINED, ids=label)
def test_well_defined(row: tuple[str, dict[str, Any], tuple[float, float]]) -> None:
    name, parameters, (low, high) = row
    theirs, ours, _, tensor = both(name, lambda: full(shape(name)), **parameters)
    assert ours.error is None
    assert ours.warnings == theirs.warnings
    assert ((tensor >= low) & (tensor <= high)).all()


# ---------------------------------------------------------------------------------------------------------------
# Values


@pytest.mark.parametrize(
    "kernel", [(1,), (3,), (4,), (3, 3), (2, 5), (1, 1), (3, 3, 3), (2, 4, 3), (0,), (3, 0)], ids=str
)
@pytest.mark.parametrize("channels", [(6, 4), (4, 6), (6, 1), (1, 6), (12, 2), (0, 3), (3, 0)], ids=str)
@pytest.mark.parametrize(
    "make", [full, TENSORS["transposed"], inner], ids=["contiguous", "transposed", "gaps"]
)
def test_dirac_is_torch_s(make: Callable[[Shape], torch.Tensor], channels: Shape, kernel: Shape) -> None:
    for groups in (1, 2, 3, 5, 6):
        theirs, ours, their_tensor, our_tensor = both("dirac_", lambda: make(channels + kernel), groups)
        check_same(theirs, ours)
        if not theirs.error:
            assert torch.equal(our_tensor, their_tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "name, parameters",
    [
        ("uniform_", dict(a=-3, b=5)),
        ("normal_", dict(mean=1, std=3)),
        ("trunc_normal_", dict(mean=1, std=2, a=0, b=4)),
        ("trunc_normal_", dict(mean=0, std=1, a=1, b=1.5)),
        ("xavier_uniform_", dict(gain=5)),
        ("xavier_normal_", dict(gain=5)),
        ("kaiming_uniform_", dict(a=1)),
        ("kaiming_uniform_", dict(mode="fan_out", nonlinearity="tanh")),
        ("kaiming_normal_", dict(nonlinearity="relu")),
        ("kaiming_normal_", dict(mode="fan_out", nonlinearity="selu")),
        ("orthogonal_", dict(gain=3)),
        ("sparse_", dict(sparsity=0.3, std=2)),
    ],
    ids=str,
)
def test_same_distribution(name: str, parameters: dict[str, Any], dtype: torch.dtype) -> None:
    """The same mean, spread and share of zeros within what chance allows; test_distributions looks closer."""
    rows, columns = 300, 200
    torch.manual_seed(0)
    theirs = torch.empty(rows, columns, dtype=torch.float64)
    ours = torch.empty(rows, columns, dtype=dtype)
    getattr(torch.nn.init, name)(theirs, **parameters)
    getattr(fastinit, name)(ours, **parameters)
    ours = ours.double()
    error = 5 * theirs.std() * (2 / theirs.numel()) ** 0.5  # five standard errors of the difference
    assert abs(ours.mean() - theirs.mean()) < error
    assert abs(ours.std() - theirs.std()) < error
    assert abs((ours == 0).double().mean() - (theirs == 0).double().mean()) < 1e-3
    assert ours.abs().max() < 1.3 * theirs.abs().max()


# ---------------------------------------------------------------------------------------------------------------
# Names, signatures, old names


def test_every_name_is_there() -> None:
    assert set(torch.nn.init.__all__) <= set(fastinit.__all__)
    assert all(hasattr(fastinit, name) for name in fastinit.__all__)


@pytest.mark.parametrize(
    "name", [*torch.nn.init.__all__, "_calculate_fan_in_and_fan_out", "_calculate_correct_fan"]
)
def test_signature(name: str) -> None:
    theirs = inspect.signature(getattr(torch.nn.init, name))
    ours = inspect.signature(getattr(fastinit, name))
    if name in OLD_NAMES:  # each library's annotations name its own type variables
        theirs, ours = (
            signature.replace(
                parameters=[p.replace(annotation=p.empty) for p in signature.parameters.values()],
                return_annotation=signature.empty,
            )
            for signature in (theirs, ours)
        )
    assert ours == theirs


OLD_NAMES = [name for name in torch.nn.init.__all__ if not name.endswith("_") and name != "calculate_gain"]


@pytest.mark.parametrize("name", OLD_NAMES)
def test_old_name(name: str) -> None:
    new_name = name + "_"
    theirs, ours, *_ = both(name, lambda: full(shape(new_name)), *arguments(new_name))
    assert len(ours.warnings) == 1
    check_same(theirs, ours)
    assert getattr(fastinit, name).__name__ == getattr(torch.nn.init, name).__name__ == name


@pytest.mark.parametrize("size", [(), (3,), (3, 5), (3, 5, 2), (3, 5, 2, 7), (0, 5), (3, 5, 0)], ids=str)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_fans(size: Shape, device: str) -> None:
    def result(call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(torch.empty(size, device=device), *args)
        except ValueError as error:
            return str(error)

    ours, theirs = fastinit, torch.nn.init
    assert result(ours._calculate_fan_in_and_fan_out) == result(theirs._calculate_fan_in_and_fan_out)
    for mode in ("fan_in", "fan_out", "FAN_IN", "fan_avg"):
        assert result(ours._calculate_correct_fan, mode) == result(theirs._calculate_correct_fan, mode)
