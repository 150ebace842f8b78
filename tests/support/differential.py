"""One drawn call in torch.nn.init and in fastinit: what each did, what of it differs, and what fastinit promises."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest import mock

import torch

import fastinit
from fills import assert_same, bits_of
from strategies import COMPLEX, FLOATS, SETTINGS, TRANSFORMS, Case
from testing import RANDOM, Memory, Outcome, observe

# Where torch.func.jvp needs this it is imported, which warns that torch.jit.script is deprecated: not in a comparison.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch._decomp.decompositions_for_jvp

SEED = 5


class NeverEnds(Exception):
    """torch's trunc_normal_ goes on drawing until every value fits; with some parameters none ever does."""


@contextmanager
def bounded() -> Iterator[None]:
    """Give torch's trunc_normal_ up after 100 rounds, in each of which it calls torch.where once."""
    where, rounds = torch.where, 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal rounds
        rounds += 1
        if rounds > 100:
            raise NeverEnds
        return where(*args, **kwargs)

    with mock.patch.object(torch, "where", counted):
        yield


@dataclass
class Run:
    """What one library did with a case."""

    outcome: Outcome
    tensor: Any
    drew: bool  # from the generator that was to be drawn from
    drew_elsewhere: bool  # from the default generator, though another one was given
    memory: torch.Tensor | None  # every byte of the storage, what is around the elements included


def run(library: ModuleType, case: Case, tensor: Any = None) -> Run:
    """Make the call, from a fixed seed."""
    tensor = case.tensor.make() if tensor is None else tensor
    function, kwargs, generator = getattr(library, case.function), dict(case.kwargs), None
    if case.generator == "CPU":
        kwargs["generator"] = generator = torch.Generator().manual_seed(SEED)
    elif case.generator != "none":
        kwargs["generator"] = {"a string": "cpu", "a number": 0}[case.generator]

    def call(target: Any) -> Any:
        return SETTINGS[case.setting](lambda t: function(t, *case.args, **kwargs), target)

    with bounded() if library is torch.nn.init and case.name == "trunc_normal_" else nullcontext():
        outcome = observe(call, tensor)
    drew, drew_elsewhere = outcome.drew, False
    if generator is not None:
        fresh = torch.Generator().manual_seed(SEED)
        drew, drew_elsewhere = not torch.equal(generator.get_state(), fresh.get_state()), drew
    return Run(outcome, tensor, drew, drew_elsewhere, Memory(tensor).bytes)


def both(case: Case) -> tuple[Run, Run]:
    return run(torch.nn.init, case), run(fastinit, case)


def differences(case: Case, theirs: Run, ours: Run) -> dict[str, str]:
    """In what the two differ, and how."""
    t, o = theirs.outcome, ours.outcome
    pairs: dict[str, tuple[Any, Any]] = {"error": (type(t.error), type(o.error))}
    if not t.error and not o.error:
        pairs |= {
            "returned": (t.returned_it, o.returned_it),
            "version": (t.bumped, o.bumped),
            "generator": (theirs.drew, ours.drew),
            "default generator": (theirs.drew_elsewhere, ours.drew_elsewhere),
            "facts": (t.facts, o.facts),
            "warnings": ({w for w, _ in t.warnings}, {w for w, _ in o.warnings}),
        }
        if case.name not in RANDOM and theirs.memory is not None and ours.memory is not None:
            pairs["values"] = (
                (theirs.memory.tolist(), ours.memory.tolist())
                if case.tensor.kind not in ("conjugate view", "negative view")
                else (as_read(theirs), as_read(ours))
            )
        elif finite(theirs) and not finite(ours):
            pairs["values"] = ("finite", "not finite")
        if t.wrote != o.wrote:
            pairs["wrote"] = (t.wrote, o.wrote)
    if t.error and o.error and isinstance(o.error, type(t.error)):
        del pairs["error"]  # whoever catches torch's catches fastinit's
    found = {what: f"torch: {a}, fastinit: {b}" for what, (a, b) in pairs.items() if a != b}
    if "error" in found:
        found["error"] += f" ({t.error!r}, {o.error!r})"
    return found


def as_read(result: Run) -> str:
    """The values as they are read, without the sign of zero: what a view negates may be stored as either."""
    return str((result.tensor.detach() + 0).tolist())


def finite(result: Run) -> bool:
    tensor = result.tensor
    if result.memory is None or tensor.dtype not in FLOATS + COMPLEX:
        return True
    return bool(torch.isfinite(tensor.detach()).all())


def check_promises(case: Case, ours: Run) -> None:
    """What holds for every call of fastinit, whatever torch does."""
    outcome, tensor = ours.outcome, ours.tensor
    assert not outcome.wrote_outside, "memory between or around the elements was written to"
    assert not ours.drew_elsewhere, "drew from the default generator, though another one was given"
    if case.setting in TRANSFORMS:  # which have work to do, and may fail, after the call
        return
    if outcome.error:
        assert not outcome.wrote, "failed, and had written"
        assert not outcome.bumped, "failed, and had moved the version"
        assert not ours.drew, "failed, and had drawn"
        return
    assert outcome.returned_it
    if ours.memory is None or case.name not in RANDOM or not tensor.numel():
        return
    assert ours.drew, "no key was taken"
    values = tensor.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg()
    check_complete(values)
    check_bounds(case, values)
    # The same values as in a contiguous tensor: they do not depend on the layout, the offset, or who is asked.
    plain = torch.empty(tensor.shape, dtype=tensor.dtype)
    again = run(fastinit, case, plain)
    assert again.outcome.error is None
    if case.name == "orthogonal_" and tensor.is_complex():  # ATen's products: they agree to rounding
        torch.testing.assert_close(values, plain)
    elif case.tensor.kind in (
        "conjugate view",
        "negative view",
    ):  # but for the sign of zero, which reading may change
        assert torch.equal(values, plain), "the values depend on the layout"
    else:
        assert_same(values, plain, "the values depend on the layout")


def check_complete(values: torch.Tensor) -> None:
    """Nothing is left of what the memory was filled with."""
    assert (bits_of(values) != -1).all(), "an element was left as it was"


def check_bounds(case: Case, values: torch.Tensor) -> None:
    if case.name not in ("uniform_", "trunc_normal_"):
        return
    parts = torch.view_as_real(values) if values.is_complex() else values
    lower, upper = (case.number(bound) for bound in "ab")
    if lower == upper:
        assert (parts == torch.tensor(lower, dtype=parts.dtype)).all(), "a point is not the nearest number"
        return
    exact = parts.double()  # as real numbers
    assert (exact >= lower).all() and (exact <= upper).all(), "a value lies outside of the bounds"
    assert case.name != "uniform_" or (exact < upper).all(), "a value lies on the upper bound"
