"""The CPU's loops without torch: on each instruction set of this machine and, by a cross compiler and an emulator, of aarch64.

What they fill is compared with the recorded hashes, and the memory around it with what the extension leaves of it here.
"""

import ctypes
import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_contract
import test_reproducibility
import toolchain
import torch

import native
import reference
from fastinit import _C, _kernels
from fills import CAPABILITIES, FILLS, KEY, Call, PlainFill, bits_of, next_key, plain
from native import AARCH64, HERE, Case, Machine, case

PHILOX = Path(__file__).parents[1] / "vectors" / "philox.txt"
UNTOUCHED = 0xA5  # as in fills.cpp
MISSING = AARCH64.missing()


def targets(*here: pytest.MarkDecorator) -> list[Any]:
    """A machine and a line of cpu/targets.def, for every line."""
    try:
        of_this_machine = toolchain.instruction_sets()
    except SystemExit:  # no compiler here
        return []
    found = []
    names = _C.build_info()["cpu_capabilities"]
    for target, name in zip(of_this_machine, names, strict=True):
        absent = pytest.mark.skipif(name not in CAPABILITIES, reason=f"this processor does not run {name}")
        marks = [*here, absent, pytest.mark.xdist_group("native")]
        found.append(pytest.param(HERE, target, id=target, marks=marks))
    absent = pytest.mark.skipif(
        bool(MISSING), reason=f"no {MISSING} here (Debian: g++-aarch64-linux-gnu, qemu-user)"
    )
    for target in ["neon"] if MISSING else toolchain.instruction_sets(AARCH64.cxx):
        marks = [absent, pytest.mark.xdist_group("aarch64")]
        found.append(pytest.param(AARCH64, target, id=f"aarch64-{target}", marks=marks))
    return found


every_target = pytest.mark.parametrize(("machine", "target"), targets())
# Of this machine, the other tests of this folder show as much by the extension. Here it is the program that is tested.
every_program = pytest.mark.parametrize(("machine", "target"), targets(pytest.mark.long))


@every_target
def test_operations_on_lanes(machine: Machine, target: str) -> None:
    """Each has the bits of its portable meaning, and Philox those of its authors."""
    known = [line for line in PHILOX.read_text().splitlines() if not line.startswith("#")]
    command = [*machine.run, str(native.lanes(machine, target))]
    done = subprocess.run(command, input="\n".join(known), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    operations, answers = (int(part.split()[0]) for part in done.stdout.split(","))
    kinds = answers // len(known)  # of lanes, by how many there are side by side
    assert operations >= 80 * kinds > 0 and answers == kinds * len(known) == kinds * 3


def recorded() -> dict[str, tuple[str, Case]]:
    """The cases of tests/vectors/values.txt that need no products: what is recorded, and what the kernels are told."""
    noted: list[Case] = []

    def note(kernel: Callable[..., None], tensor: torch.Tensor, numbers: Any, source: Any, _: str) -> None:
        noted.append(case(plain(Call(kernel.__name__, numbers), tensor), next_key(source)))

    cases = [one for one in test_reproducibility.cases() if "orthogonal_" not in one.function.name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_kernels, "named", note)
        for one in cases:
            one.hash()
    _, hashes = test_reproducibility.read()
    return {str(one): (hashes[str(one)], told) for one, told in zip(cases, noted, strict=True)}


@pytest.mark.filterwarnings("ignore:mean is more than 2 std")
@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.long), 5])
@every_program
def test_values_are_what_they_were(machine: Machine, target: str, count: int) -> None:
    expected = recorded()
    assert len(expected) > 600
    answers = native.run_fills(machine, target, [told for _, told in expected.values()], count)
    wrong = [
        name
        for (name, (value, _)), answer in zip(expected.items(), answers, strict=True)
        if hashlib.sha256(answer).hexdigest()[:16] != value
    ]
    assert not wrong, f"{len(wrong)} of {len(expected)} differ:\n" + "\n".join(wrong[:20])


def memory_of(view: torch.Tensor) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(view.untyped_storage())


@every_program
def test_layouts(machine: Machine, target: str) -> None:
    """The extension's values, and nothing written between and around them."""
    cases, expected = [], {}
    for name, fill in FILLS.items():
        for layout, new in test_contract.LAYOUTS.items():
            for dtype in fill.dtypes:
                view = new(dtype)
                if fill.matrix and view.dim() != 2:
                    continue
                memory_of(view).fill_(UNTOUCHED)
                cases.append(case(plain(fill, view), KEY))
                expected[f"{name}, {layout}, {dtype}"] = memory_of(fill(view)).numpy().tobytes()
    for answer, (what, memory) in zip(
        native.run_fills(machine, target, cases, 3), expected.items(), strict=True
    ):
        assert answer == memory, what


@every_program
def test_parts_of_a_larger_tensor(machine: Machine, target: str) -> None:
    generator = np.random.default_rng(0)
    whole = (331, 67)
    cases, expected = [], {}
    for name, fill in FILLS.items():
        for dtype in fill.dtypes:
            values = fill.new(*whole, dtype=dtype)
            for _ in range(12):
                (a, b), (c, d) = (np.sort(generator.choice(size + 1, 2, replace=False)) for size in whole)
                part = torch.empty(b - a, d - c, dtype=dtype)
                cases.append(case(plain(fill, part, whole, int(a) * whole[1] + int(c)), KEY))
                expected[f"{name}, {dtype}, [{a}:{b}, {c}:{d}]"] = bits_of(values[a:b, c:d]).numpy().tobytes()
    for answer, (what, memory) in zip(
        native.run_fills(machine, target, cases), expected.items(), strict=True
    ):
        assert answer == memory, what


@every_program
def test_blocks_whose_number_gains_a_word(machine: Machine, target: str) -> None:
    """Where its high half changes within a run, and beyond: on the whole tensor that would be 64 GiB."""
    n = 4133
    memory = torch.empty(n)
    firsts = [4 * (2**32 - 2) - 3, 2**34 - 5, 2**40 + 3, 2**63 - n]
    cases = [case(PlainFill("uniform_", (0.0, 1.0), memory, (n, 1, 1), first), KEY) for first in firsts]
    for first, answer in zip(firsts, native.run_fills(machine, target, cases), strict=True):
        index = np.arange(first, first + n, dtype=np.uint64)
        values = (reference.bits(index, KEY, wide=False) >> np.uint64(8)).astype(np.float32) * np.float32(
            2**-24
        )
        assert np.array_equal(np.frombuffer(answer, np.float32), values), first


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@every_program
def test_products(machine: Machine, target: str, dtype: torch.dtype) -> None:
    """An element is one sum of fused multiply-adds in the order of its terms, 384 at a time. (Without the instruction, of
    multiplications and additions.)"""
    if target == "baseline":
        pytest.skip("no fused multiply-add")
    rows, terms, columns, chunk = 19, 401, 29, 384
    libm = ctypes.CDLL("libm.so.6")
    fma, real = (libm.fmaf, ctypes.c_float) if dtype == torch.float32 else (libm.fma, ctypes.c_double)
    fma.restype, fma.argtypes = real, [real] * 3
    normal = Call("normal_", (0.0, 1.0))
    a = normal.new(rows, terms, dtype=dtype)
    b = normal.new(terms, columns, dtype=dtype, key=KEY + 1).tolist()
    products = []
    for row in a.tolist():
        for column in range(columns):
            total = 0.0
            for first in range(0, terms, chunk):
                part = 0.0
                for term in range(first, min(first + chunk, terms)):
                    part = fma(row[term], b[term][column], part)
                total = fma(1.0, part, total)
            products.append(total)
    squares = [sum(x * x for x in a[column:, column].double().tolist()) for column in range(min(rows, terms))]
    squares += [0.0] * (terms - rows)

    size = len(products) * dtype.itemsize
    fill = PlainFill("product", (rows, terms, columns), torch.empty(0, dtype=dtype), (), 0)
    told = case(fill, KEY)._replace(bytes=size + 8 * terms)
    (answer,) = native.run_fills(machine, target, [told])
    assert np.array_equal(np.frombuffer(answer[:size], a.numpy().dtype), np.array(products, a.numpy().dtype))
    assert np.array_equal(np.frombuffer(answer[size:]), np.array(squares))
