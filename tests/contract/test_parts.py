"""part_of (contract C10): a box, a product of runs or a flat partition of a tensor has the bits that the whole has there."""

import random
from typing import Any

import numpy as np
import pytest
import torch

import fastinit
from shards import (
    FUNCTIONS,
    NAMES,
    Call,
    assert_part,
    call_of,
    memory_for,
    needs_parts,
    runs_for,
)

CASES = 60  # of each function and kind of part
KINDS = ("box", "runs", "flat")


def cut(whole: torch.Tensor, kind: str, r: random.Random) -> tuple[torch.Tensor, Any]:
    """A part of the whole, and its offset."""
    if kind == "flat":
        [(first, length)] = runs_for(whole.numel(), r, pieces=1)
        return whole.flatten()[first : first + length], first
    offset: list[Any] = []
    for d, size in enumerate(whole.shape):
        runs = runs_for(size, r, pieces=1 if kind == "box" else r.choice([1, 2, 3]))
        whole = torch.cat([whole.narrow(d, *run) for run in runs], d)
        offset.append(runs[0][0] if kind == "box" else runs)
    return whole, offset


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_part_has_the_values_of_the_whole(kind: str, name: str) -> None:
    needs_parts(name)
    r = random.Random(f"{kind} {name}")
    for _ in range(CASES):
        call = call_of(name, r)
        whole, state = call.whole()
        expected, offset = cut(whole, kind, r)
        local, wrote_outside = memory_for(expected.shape, call.dtype, r)
        part = fastinit.part_of(local, call.shape, offset)
        assert part.shape == call.shape and part.dtype == call.dtype
        after = call(part)
        what = f"{offset}, strides {local.stride()}"
        assert_part(local, expected, call, what)
        assert torch.equal(after, state), (call, what)
        assert not wrote_outside(), (call, what)


def fill(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Fill it, each time from the same key."""
    return getattr(fastinit, name)(tensor, generator=torch.Generator().manual_seed(7))


def test_flat_parameters_cut_anywhere() -> None:
    """As FSDP1 and ZeRO-3 have them: the parameters of a layer one after the other, in equal partitions."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.Linear(11, 7), torch.nn.Linear(7, 9))
    parameters = list(model.parameters())

    def initialise(tensor: torch.Tensor, generator: torch.Generator) -> None:
        if tensor.dim() == 1:
            fastinit.uniform_(tensor, -0.1, 0.1, generator=generator)
        else:
            fastinit.kaiming_normal_(tensor, nonlinearity="relu", generator=generator)

    generator = torch.Generator().manual_seed(3)
    for parameter in parameters:
        initialise(parameter, generator)
    whole = torch.cat([parameter.detach().flatten() for parameter in parameters])
    for ranks in (2, 3, 8, 100):
        size = -(-whole.numel() // ranks)
        flat = torch.zeros(size * ranks)
        for rank in range(ranks):
            mine, begin, end = flat[rank * size :][:size], rank * size, (rank + 1) * size
            generator = torch.Generator().manual_seed(3)
            at = 0
            for parameter in parameters:
                first = min(max(begin, at), at + parameter.numel())
                last = max(min(end, at + parameter.numel()), first)
                piece = mine[first - begin :][: last - first] if first < last else mine[:0]
                initialise(fastinit.part_of(piece, parameter.shape, first - at), generator)
                at += parameter.numel()
        assert torch.equal(flat[: whole.numel()], whole) and not flat[whole.numel() :].any(), ranks


@pytest.mark.parametrize("name", ["xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"])
def test_tensor_parallel_layers_have_the_fans_of_the_whole(name: str) -> None:
    """As Megatron splits them: the first layer by columns of its matrix, the second by rows."""
    first, second = fill(name, torch.empty(96, 32)), fill(name, torch.empty(32, 96))
    for rank in range(4):
        rows, columns = torch.empty(24, 32), torch.empty(32, 24)
        fill(name, fastinit.part_of(rows, (96, 32), (24 * rank, 0)))
        fill(name, fastinit.part_of(columns, (32, 96), (0, 24 * rank)))
        assert torch.equal(rows, first[24 * rank :][:24])
        assert torch.equal(columns, second[:, 24 * rank :][:, :24])


def test_a_fused_projection() -> None:
    """Query, key and value in one matrix, of which a rank has the same heads of each."""
    whole, local = fill("normal_", torch.empty(3 * 32, 16)), torch.empty(3 * 8, 16)
    fill("normal_", fastinit.part_of(local, (96, 16), [[(8, 8), (40, 8), (72, 8)], 0]))
    assert torch.equal(local, torch.cat([whole[start : start + 8] for start in (8, 40, 72)]))


def test_numbers_of_any_kind() -> None:
    """Sizes and offsets come from configurations, from numpy, or from tensors."""
    whole = fill("normal_", torch.empty(6, 4))
    for shape, offset in [
        (torch.Size((6, 4)), np.array([3, 0])),
        ([np.int64(6), 4], (np.int32(3), 0)),
        (whole.shape, torch.tensor([3, 0])),
        (whole.shape, [np.array([[3, 3]]), [[0, 2], [2, 2]]]),
    ]:
        local = torch.empty(3, 4)
        fill("normal_", fastinit.part_of(local, shape, offset))
        assert torch.equal(local, whole[3:])
    for offset in (7, np.int64(7), torch.tensor(7)):
        flat = torch.empty(5)
        fill("normal_", fastinit.part_of(flat, (6, 4), offset))
        assert torch.equal(flat, whole.flatten()[7:12])


# ---- Errors ------------------------------------------------------------------------------------------------

T = torch.empty
REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "no tensor": (([1.0], (2,), (0,)), TypeError, "takes a plain tensor, not list"),
    "a part": ((fastinit.part_of(T(2), (4,), (0,)), (8,), (0,)), TypeError, "takes a plain tensor, not Part"),
    "beyond the end": (
        (T(3, 4), (6, 4), (4, 0)),
        ValueError,
        "dimension 0: 3 indices at offset 4 .* within 6",
    ),
    "before the start": (
        (T(3, 4), (6, 4), (-1, 0)),
        ValueError,
        "dimension 0: 3 indices at offset -1 .* within 6",
    ),
    "larger than the whole": ((T(3, 5), (6, 4), (0, 0)), ValueError, "dimension 1: 5 indices .* within 4"),
    "too few offsets": ((T(3, 4), (6, 4), (0,)), ValueError, r"shape \(3, 4\) in a whole of shape \(6, 4\)"),
    "too many offsets": ((T(3, 4), (6, 4), (0, 0, 0)), ValueError, "one offset for each dimension"),
    "other dimensions": ((T(3, 4), (6, 4, 2), (0, 0, 0)), ValueError, "one offset for each dimension"),
    "not flat": ((T(3, 4), (6, 4), 3), ValueError, r"a flat tensor, but this one has shape \(3, 4\)"),
    "flat, beyond the end": ((T(5), (6, 4), 20), ValueError, "5 indices at offset 20 do not lie within 24"),
    "flat, before the start": ((T(5), (6, 4), -1), ValueError, "5 indices at offset -1 do not lie within 24"),
    "runs of another length": ((T(3), (9,), [[(0, 1), (4, 1)]]), ValueError, "dimension 0: 3 indices"),
    "runs in disorder": ((T(4), (9,), [[(4, 2), (0, 2)]]), ValueError, "do not lie within 9"),
    "runs that overlap": ((T(4), (9,), [[(0, 2), (1, 2)]]), ValueError, "do not lie within 9"),
    "a negative length": ((T(1), (9,), [[(4, 2), (6, -1)]]), ValueError, "do not lie within 9"),
    "runs beyond the end": ((T(4), (9,), [[(0, 2), (8, 2)]]), ValueError, "do not lie within 9"),
    "a fraction": ((T(3, 4), (6, 4), (1.5, 0)), TypeError, "float"),
    "a fraction of a size": ((T(3, 4), (6.5, 4), (1, 0)), TypeError, "float"),
    "a negative size": ((T(0, 4), (-1, 4), (0, 0)), ValueError, "-1"),
    "no offset": ((T(3, 4), (6, 4), None), TypeError, "None"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_part_is_refused(what: str) -> None:
    arguments, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        fastinit.part_of(*arguments)


def default_call(name: str) -> Call:
    shape = (6, 4) if 2 in FUNCTIONS[name].dims else (6, 4, 3)
    return Call(name, FUNCTIONS[name].arguments(random.Random(name), shape), shape, torch.float32, 0, False)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_memory_that_must_not_be_written_is_refused(name: str) -> None:
    """As for the whole; nothing is written and no key is taken."""
    needs_parts(name)
    call = default_call(name)
    local = torch.zeros(1, *call.shape[1:]).expand(3, *call.shape[1:])
    if name in ("constant_", "ones_", "zeros_"):
        call(
            fastinit.part_of(local, call.shape, (0,) * local.dim())
        )  # which torch does, and each value is the same
        return
    before = torch.default_generator.manual_seed(0).get_state()
    with pytest.raises(RuntimeError, match="share memory"):
        call(fastinit.part_of(local, call.shape, (0,) * local.dim()))
    assert not local.any() and torch.equal(torch.default_generator.get_state(), before)


def test_what_a_part_is_not_for() -> None:
    local = torch.zeros(3)
    part = fastinit.part_of(local, (6,), (3,))
    assert part.local.data_ptr() == local.data_ptr() and part.shape == (6,)
    assert "(6,)" in repr(part) and "3" in repr(part)
    for use in (lambda: part + 1, lambda: part[0], part.clone, part.sum, lambda: torch.nn.init.eye_(part)):
        with pytest.raises((NotImplementedError, ValueError), match=r"part\.local|2 dimensions"):
            use()
    part.fill_(2)
    assert torch.equal(local, torch.full((3,), 2.0))


def test_a_parameter_is_filled_as_it_is() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3, 4))
    version = parameter._version
    assert fastinit.normal_(fastinit.part_of(parameter, (6, 4), (3, 0))) is not parameter
    assert (
        parameter.all() and parameter.is_leaf and parameter.grad_fn is None and parameter._version > version
    )


def test_meta() -> None:
    before = torch.default_generator.get_state()
    for name in FUNCTIONS:
        needs = default_call(name)
        local = torch.empty(3, *needs.shape[1:], device="meta")
        getattr(fastinit, name)(
            fastinit.part_of(local, needs.shape, (3,) + (0,) * (local.dim() - 1)), *needs.arguments
        )
    assert torch.equal(torch.default_generator.get_state(), before)
