"""Where fastinit and torch.nn.init differ: the one list, from which docs/differences.md has its table.

test_fuzz.py lets pass what is listed here and nothing else, and shows for each row that it still occurs.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import NoneType

import torch

from differential import NeverEnds, Run
from strategies import COMPLEX, FLOAT8, FLOATS, NO_TENSORS, SPARSE, TRANSFORMS, VALID, Case, Layout, Recipe
from testing import RANDOM

inf, nan = math.inf, math.nan


@dataclass(frozen=True)
class Difference:
    """A difference that is meant."""

    what: str  # with the functions concerned
    torch: str
    fastinit: str
    reason: str
    where: Callable[[Case, Run, Run], bool]
    example: Case
    aspects: tuple[str, ...] = ("error", "wrote")  # of those that differential.differences names

    @property
    def occurs(self) -> bool:
        """Whether the example shows it with this torch: before 2.12 trunc_normal_ inverted the error function."""
        return self.example.name != "trunc_normal_" or torch.__version__ >= "2.12"


def torch_fails(theirs: Run, ours: Run) -> bool:
    return theirs.outcome.error is not None and ours.outcome.error is None


def ours_fails(theirs: Run, ours: Run) -> bool:
    return theirs.outcome.error is None and ours.outcome.error is not None


def strange(case: Case) -> list[str]:
    """The parameters that are none of the values known to work."""
    return [
        name
        for name, value in case.parameters.items()
        if not any(
            value is valid or (type(value) is type(valid) and value == valid)
            for valid in VALID[case.name].get(name, ())
        )
    ]


def faults(case: Case) -> int:
    """How many things are wrong, or unusual, with a call."""
    recipe = case.tensor
    accepts = {"trunc_normal_": FLOATS, "orthogonal_": FLOATS[:2]}.get(case.name, FLOATS + COMPLEX)
    return len(strange(case)) + sum(
        (
            not case.parameters and case.name not in ("ones_", "zeros_", "eye_"),
            recipe.kind in (*NO_TENSORS, *SPARSE, "fake"),
            recipe.kind == "inference" and case.setting != "inference_mode",
            case.shares_memory,
            recipe.dtype not in accepts,
            case.setting in TRANSFORMS,
            case.setting == "device",
            case.generator in ("a string", "a number"),
            0 in recipe.shape,
            recipe.kind == "one of several views" and case.setting in TRANSFORMS,
            recipe.kind == "negative view" and case.name == "trunc_normal_",
            recipe.layout != Layout(offset=recipe.layout.offset) and case.name == "orthogonal_",
            recipe.kind not in NO_TENSORS
            and {
                "eye_": len(recipe.shape) != 2,
                "sparse_": len(recipe.shape) != 2,
                "dirac_": len(recipe.shape) not in (3, 4, 5),
            }.get(case.name, len(recipe.shape) < 2),
        )
    )


def plain(case: Case) -> bool:
    """A call of a function on a tensor, with no transform around it."""
    return case.setting not in TRANSFORMS


def finite_in_arithmetic(case: Case, value: float) -> bool:
    """Whether a parameter is finite as it is used: in float32 for all dtypes but the two widest."""
    wide = case.tensor.dtype in (torch.float64, torch.complex128)
    return bool(torch.tensor(value, dtype=torch.float64 if wide else torch.float32).isfinite())


def unbounded(case: Case) -> bool:
    """Whether a bound is infinite, or would be in the tensor's dtype."""
    dtype = case.tensor.dtype
    return dtype in FLOATS and not all(abs(case.number(bound)) <= torch.finfo(dtype).max for bound in "ab")


def out_of_range(case: Case) -> bool:
    """A parameter with which the distribution is not defined, or is not one of finite numbers."""
    n = case.number
    return {
        "uniform_": lambda: False,
        "normal_": lambda: not all(finite_in_arithmetic(case, n(p)) for p in ("mean", "std")),
        "trunc_normal_": lambda: (
            not all(finite_in_arithmetic(case, n(p)) for p in ("mean", "std"))
            or n("std") < 0
            or not n("a") <= n("b")
            or (
                unbounded(case)
                and (
                    n("a") > torch.finfo(case.tensor.dtype).max or n("b") < torch.finfo(case.tensor.dtype).min
                )
            )
        ),
        "xavier_uniform_": lambda: not n("gain") >= 0 or not finite_in_arithmetic(case, n("gain")),
        "xavier_normal_": lambda: not n("gain") >= 0 or not finite_in_arithmetic(case, n("gain")),
        "kaiming_uniform_": lambda: not abs(n("a")) < inf,
        "kaiming_normal_": lambda: not abs(n("a")) < inf,
        "orthogonal_": lambda: not finite_in_arithmetic(case, n("gain")),
        "sparse_": lambda: not 0 <= n("sparsity") <= 1 or not finite_in_arithmetic(case, n("std")),
    }.get(case.name, lambda: False)()


SMALL = Recipe((6, 4))
DIFFERENCES = (
    # Where fastinit refuses and torch does not.
    Difference(
        "Random functions, `eye_`, `dirac_`: elements that share memory (an expanded tensor)",
        "fills some of them, with one value for several elements",
        "`RuntimeError`",
        "Elements that share memory cannot have values of their own, and such an `eye_` is no identity.",
        lambda case, theirs, ours: (
            case.shares_memory
            and case.name in (*RANDOM, "eye_", "dirac_")
            and isinstance(ours.outcome.error, RuntimeError)
            and ours_fails(theirs, ours)
        ),
        Case("normal_", Recipe((6, 4), layout=Layout(overlapping=True))),
    ),
    Difference(
        "Parameters that are NaN, infinite or too large to compute with, a `gain` below 0, a `sparsity` outside of [0, 1], "
        "normal values that may be too large for the dtype",
        "goes on and may fill with NaN or infinities, or raises `OverflowError` later",
        "`RuntimeError` or `ValueError`, which names the parameter",
        "There is no such distribution. The mistake shows up where it was made, and not in the first loss.",
        lambda case, theirs, ours: (
            out_of_range(case)
            and isinstance(ours.outcome.error, RuntimeError | ValueError | OverflowError)
            and isinstance(theirs.outcome.error, NoneType | OverflowError | NeverEnds)
        ),
        Case("normal_", SMALL, (nan,)),
    ),
    Difference(
        "Random functions, `eye_`: a tensor without elements, and something else that is refused",
        "checks less, or nothing",
        "checks as usual",
        "Whether a call is right should not depend on the size of the tensor.",
        lambda case, theirs, ours: (
            0 in case.tensor.shape and plain(case) and ours_fails(theirs, ours) and faults(case) > 1
        ),
        Case("normal_", Recipe((0, 4), torch.int64)),
    ),
    Difference(
        "Any function: several things wrong with one call",
        "reports one of them",
        "may report another",
        "Neither library promises which of them it finds first.",
        lambda case, theirs, ours: (
            theirs.outcome.error is not None and ours.outcome.error is not None and faults(case) > 1
        ),
        Case("eye_", Recipe((6, 4), torch.int5, Layout(overlapping=True))),
    ),
    Difference(
        "Random functions: meta tensors and FakeTensors of a dtype without a kernel, or with bounds that the dtype cannot hold",
        "returns the tensor",
        "`NotImplementedError`, `RuntimeError`",
        "A model that is built on the meta device should fail there, and not only when it gets its memory.",
        lambda case, theirs, ours: (
            case.tensor.kind in ("meta", "fake")
            and case.name in RANDOM
            and (case.tensor.dtype not in FLOATS + COMPLEX or "out of bounds" in str(ours.outcome.error))
            and ours_fails(theirs, ours)
        ),
        Case("uniform_", Recipe((6, 4), torch.int64, kind="meta")),
    ),
    Difference(
        "Random functions: sparse CSR tensors (nested ones too)",
        "fills the stored values (`normal_` and the functions built on it)",
        "`NotImplementedError`",
        "Elements that are not stored cannot get a value, and those that are stored have no index in a whole.",
        lambda case, theirs, ours: (
            case.tensor.kind == "csr"
            and case.name in RANDOM
            and isinstance(ours.outcome.error, NotImplementedError)
            and isinstance(theirs.outcome.error, NoneType | TypeError | RuntimeError)
        ),
        Case("normal_", Recipe((6, 4), kind="csr")),
    ),
    Difference(
        "`dirac_`: sparse layouts",
        "`TypeError`",
        "`NotImplementedError`",
        "This type says what is wrong. torch's error comes from an assignment to an element.",
        lambda case, theirs, ours: (
            case.tensor.kind in SPARSE
            and case.name == "dirac_"
            and isinstance(theirs.outcome.error, TypeError)
            and isinstance(ours.outcome.error, NotImplementedError)
        ),
        Case("dirac_", Recipe((6, 4, 3), kind="sparse")),
    ),
    Difference(
        "`trunc_normal_`, `orthogonal_`: a bound or gain that is an array, a tensor with dimensions or a Fraction",
        "fills, for some intervals",
        "`TypeError`",
        "Every other parameter of the random functions is treated like this, in torch too.",
        lambda case, theirs, ours: (
            case.name in ("trunc_normal_", "orthogonal_")
            and bool({"a", "b", "gain"} & set(strange(case)))
            and isinstance(ours.outcome.error, TypeError)
            and ours_fails(theirs, ours)
        ),
        Case("trunc_normal_", SMALL, (0.0, 1.0, -2.0, torch.tensor([2.0]))),
    ),
    Difference(
        "`trunc_normal_`: uint64, and bounds that it cannot hold",
        "`TypeError` or `OverflowError`",
        "`NotImplementedError`",
        "Every other dtype that is not floating-point gives this error.",
        lambda case, theirs, ours: (
            case.name == "trunc_normal_"
            and case.tensor.dtype == torch.uint64
            and isinstance(theirs.outcome.error, TypeError | OverflowError)
            and isinstance(ours.outcome.error, NotImplementedError)
        ),
        Case("trunc_normal_", Recipe((6, 4), torch.uint64), (0.0, 1.0, -inf, inf)),
    ),
    Difference(
        "`kaiming_normal_`: uninitialized parameters",
        "`RuntimeError`",
        "`ValueError`",
        "Every other function gives this error, in torch too.",
        lambda case, theirs, ours: (
            case.name == "kaiming_normal_"
            and case.tensor.kind == "uninitialized"
            and isinstance(theirs.outcome.error, RuntimeError)
            and isinstance(ours.outcome.error, ValueError)
        ),
        Case("kaiming_normal_", Recipe((), kind="uninitialized")),
    ),
    # Where fastinit does what torch does not.
    Difference(
        "`trunc_normal_`: the tail, with a bound that is infinite or that the dtype cannot hold",
        "`RuntimeError`",
        "fills",
        "The tail of a normal distribution is well defined.",
        lambda case, theirs, ours: (
            case.name == "trunc_normal_"
            and isinstance(theirs.outcome.error, RuntimeError)
            and unbounded(case)
            and torch_fails(theirs, ours)
        ),
        Case("trunc_normal_", SMALL, (0.0, 1.0, 1.0, inf)),
    ),
    Difference(
        "`trunc_normal_`: an interval far from the mean, or a wide one",
        "draws forever, or raises `OverflowError`",
        "fills",
        "Each value is drawn by a method that suits the interval.",
        lambda case, theirs, ours: (
            case.name == "trunc_normal_"
            and isinstance(theirs.outcome.error, NeverEnds | OverflowError)
            and bool(strange(case))
            and torch_fails(theirs, ours)
        ),
        Case("trunc_normal_", SMALL, (0.0, 1.0, 3.0, 1e9)),
    ),
    Difference(
        "`trunc_normal_`: views that are negated when read",
        "`RuntimeError`",
        "fills",
        "torch asks the dispatch key of the view for a device.",
        lambda case, theirs, ours: (
            case.name == "trunc_normal_"
            and case.tensor.kind == "negative view"
            and isinstance(theirs.outcome.error, RuntimeError)
            and torch_fails(theirs, ours)
        ),
        Case("trunc_normal_", Recipe((6, 4), kind="negative view")),
    ),
    Difference(
        "`orthogonal_`: float16, bfloat16, complex32, complex64, complex128",
        "`NotImplementedError`",
        "fills",
        "fastinit factorises nothing, so it is not limited to LAPACK's dtypes.",
        lambda case, theirs, ours: (
            case.name == "orthogonal_"
            and case.tensor.dtype in (*FLOATS[2:], *COMPLEX, torch.complex32)
            and isinstance(theirs.outcome.error, RuntimeError)
            and torch_fails(theirs, ours)
        ),
        Case("orthogonal_", Recipe((6, 4), torch.bfloat16)),
    ),
    Difference(
        "Random functions: float8 (except float8_e8m0fnu)",
        "`NotImplementedError`",
        "fills",
        "A value is computed in float32 and rounded, whatever the dtype.",
        lambda case, theirs, ours: (
            case.name in RANDOM
            and case.tensor.dtype in FLOAT8
            and isinstance(theirs.outcome.error, NotImplementedError)
            and torch_fails(theirs, ours)
        ),
        Case("normal_", Recipe((6, 4), torch.float8_e5m2)),
    ),
    Difference(
        "`trunc_normal_`, `sparse_`, `orthogonal_`: a batched tensor within `torch.func.vmap`",
        "`RuntimeError`",
        "fills, as `randomness` says",
        "torch's functions read values, or use operations that have no rule for batches.",
        lambda case, theirs, ours: (
            case.setting.startswith("vmap")
            and case.name in ("trunc_normal_", "sparse_", "orthogonal_")
            and isinstance(theirs.outcome.error, RuntimeError)
            and torch_fails(theirs, ours)
        ),
        Case("trunc_normal_", Recipe((2, 6, 4)), setting="vmap, different"),
    ),
    Difference(
        "`orthogonal_`: three dimensions or more in a layout that is no matrix (channels_last, for example)",
        "`RuntimeError`",
        "fills",
        "Any strides can be filled.",
        lambda case, theirs, ours: (
            case.name == "orthogonal_"
            and len(case.tensor.shape) > 2
            and re.match("view size is not compatible|Cannot view a tensor", str(theirs.outcome.error))
            is not None
            and torch_fails(theirs, ours)
        ),
        Case("orthogonal_", Recipe((6, 4, 3, 3), layout=Layout("channels last"))),
    ),
    Difference(
        "`eye_`: complex32, uint16, uint32, uint64, float8, and any dtype on the meta device",
        "`NotImplementedError`, or `ValueError`",
        "fills",
        "The tensor is filled with zeros and ones, as by `constant_`.",
        lambda case, theirs, ours: (
            case.name == "eye_"
            and re.match('"eye" not implemented for|Received unknown dtypes', str(theirs.outcome.error))
            is not None
            and torch_fails(theirs, ours)
        ),
        Case("eye_", Recipe((6, 4), torch.complex32)),
    ),
    Difference(
        "`eye_`: within `torch.func.vmap`, `torch.func.jvp` or another default device",
        "`RuntimeError` or `NotImplementedError`",
        "fills",
        "torch makes a new matrix, for which there is no such rule. fastinit fills the tensor.",
        lambda case, theirs, ours: (
            case.name == "eye_"
            and (case.setting in ("jvp", "device") or case.setting.startswith("vmap"))
            and isinstance(theirs.outcome.error, RuntimeError)
            and torch_fails(theirs, ours)
        ),
        Case("eye_", Recipe((2, 6, 4)), setting="vmap, same"),
    ),
    Difference(
        "`trunc_normal_`, `sparse_`, `dirac_`: a FakeTensor",
        "`AssertionError` or `DataDependentOutputException`",
        "does nothing, and returns the tensor",
        "torch's functions read values, and a FakeTensor has none.",
        lambda case, theirs, ours: (
            case.tensor.kind == "fake"
            and case.name in ("trunc_normal_", "sparse_", "dirac_")
            and torch_fails(theirs, ours)
        ),
        Case("sparse_", Recipe((6, 4), kind="fake"), (0.5,)),
    ),
    Difference(
        "`normal_`, `xavier_normal_`, `kaiming_normal_`, `sparse_`: a FakeTensor of a dtype that is not floating-point",
        "`RuntimeError`",
        "does nothing, and returns the tensor",
        "FakeTensorMode reads `NotImplementedError` as the lack of a kernel, and goes on. The real call raises it.",
        lambda case, theirs, ours: (
            case.tensor.kind == "fake"
            and case.name in ("normal_", "xavier_normal_", "kaiming_normal_", "sparse_")
            and "expected a floating-point or complex dtype" in str(theirs.outcome.error)
            and torch_fails(theirs, ours)
        ),
        Case("normal_", Recipe((6, 4), torch.int64, kind="fake")),
    ),
    Difference(
        "`trunc_normal_`: a bool as `mean`",
        "`RuntimeError`, for some intervals",
        "fills",
        "A bool is a number, as elsewhere in torch.",
        lambda case, theirs, ours: (
            case.name == "trunc_normal_"
            and "with a bool tensor is not supported" in str(theirs.outcome.error)
            and torch_fails(theirs, ours)
        ),
        Case("trunc_normal_", SMALL, (True, 1.0, 3.0, 4.0)),
    ),
    Difference(
        "`orthogonal_`: a complex `gain`",
        "`RuntimeError`, after the tensor was written to",
        "`TypeError`",
        "Every other complex parameter gives this error, in torch too.",
        lambda case, theirs, ours: (
            case.name == "orthogonal_"
            and "can't be cast to the desired output type" in str(theirs.outcome.error)
            and isinstance(ours.outcome.error, TypeError)
        ),
        Case("orthogonal_", SMALL, (1j,)),
    ),
    # What a call leaves behind.
    Difference(
        "`sparse_`: with `generator=`",
        "takes the places of the zeros from the default generator",
        "takes everything from the given generator",
        "Users asked for it (pytorch#98200).",
        lambda case, theirs, ours: case.name == "sparse_" and case.generator == "CPU",
        Case("sparse_", SMALL, (0.5,), generator="CPU"),
        ("default generator",),
    ),
)


def explained(
    case: Case,
    theirs: Run,
    ours: Run,
    found: dict[str, str],
    rows: Sequence[Difference] = DIFFERENCES,
) -> set[str]:
    """Those of the aspects found to differ that a row of the list allows."""
    allowed = {aspect for row in rows if row.where(case, theirs, ours) for aspect in row.aspects}
    return allowed & set(found)


def table() -> str:
    """The list as docs/differences.md has it."""
    lines = ["| what | torch | fastinit | because |", "| --- | --- | --- | --- |"]
    lines += [f"| {row.what} | {row.torch} | {row.fastinit} | {row.reason} |" for row in DIFFERENCES]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
