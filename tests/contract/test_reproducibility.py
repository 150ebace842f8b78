"""Values never change by accident: what each function fills from a seed, as hashes in tests/vectors/values.txt.

Within a major version nothing may change them (before 1.0, within a minor one), once it is released. After a deliberate
change, with the new version in pyproject.toml or, before its release, a new entry under Values in CHANGELOG.md,
`python tests/contract/test_reproducibility.py` writes the file anew.
"""

import hashlib
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch

import fastinit
from fastinit import _C
from fills import CAPABILITIES, COMPLEX, REAL, bits_of, capability, threads

VALUES = Path(__file__).parents[1] / "vectors" / "values.txt"
INFINITY = math.inf
SEEDS = (0, 2**63 + 11)

Dtypes = tuple[torch.dtype, ...]
MATRICES = ((1, 1), (9, 5), (64, 33), (300, 70), (4500, 3))
SHAPES = ((), (1,), (7,), (3, 0, 2), (64, 33), (8, 3, 5, 5), (1 << 18,))
WEIGHTS = ((1, 1), (64, 33), (8, 3, 5, 5))


@dataclass(frozen=True)
class Function:
    """A function with its arguments, as they are written in the file, and what it is called for."""

    name: str
    arguments: tuple[Any, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = SHAPES
    dtypes: Dtypes = REAL

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(repr, self.arguments))})"


FUNCTIONS = (
    Function("uniform_", dtypes=(*REAL, *COMPLEX)),
    Function("uniform_", (-0.3, 1.7)),
    Function("normal_", dtypes=(*REAL, *COMPLEX)),
    Function("normal_", (0.5, 0.02)),
    Function("trunc_normal_"),
    Function("trunc_normal_", (0.0, 1.0, -2.5, 3.0)),  # by quantiles in float32, as those before and after
    Function("trunc_normal_", (0.1, 0.5, -0.2, 0.3)),
    Function("trunc_normal_", (0.0, 1.0, 3.0, 4.0)),
    Function("trunc_normal_", (0.0, 1.0, -5.0, 1.0)),  # the normal proposal
    Function("trunc_normal_", (0.5, 1.0, 0.5, 6.0)),  # the half normal proposal
    Function("trunc_normal_", (0.0, 1.0, 2.0, 2.125)),  # the uniform proposal
    Function("trunc_normal_", (0.0, 1.0, 3.0, 5.0)),  # the exponential proposal
    Function("trunc_normal_", (0.0, 1.0, -INFINITY, -6.0)),
    Function("xavier_uniform_", shapes=WEIGHTS, dtypes=(*REAL, *COMPLEX)),
    Function("xavier_normal_", shapes=WEIGHTS, dtypes=(*REAL, *COMPLEX)),
    Function("kaiming_uniform_", (5**0.5,), shapes=WEIGHTS),
    Function("kaiming_normal_", (0.0, "fan_out", "relu"), shapes=WEIGHTS),
    Function("sparse_", (0.1,), shapes=MATRICES, dtypes=(*REAL, *COMPLEX)),
    Function("sparse_", (0.9, 1.0), shapes=MATRICES),
    Function("orthogonal_", shapes=(*MATRICES, (33, 64), (8, 3, 5, 5), (200, 200))),
    Function("batched_orthogonal_", shapes=((3, 9, 5), (4, 33, 64), (2, 70, 8, 9), (1, 200, 200))),
    Function("delta_orthogonal_", shapes=((8, 3, 5, 5),)),
)


@dataclass(frozen=True)
class Case:
    function: Function
    dtype: torch.dtype
    shape: tuple[int, ...]
    seed: int

    def __str__(self) -> str:
        dtype, shape = str(self.dtype).removeprefix("torch."), "x".join(map(str, self.shape)) or "scalar"
        return f"{self.function} {dtype} {shape} {self.seed}"

    def hash(self) -> str:
        tensor = torch.empty(self.shape, dtype=self.dtype)
        generator = torch.Generator().manual_seed(self.seed)
        getattr(fastinit, self.function.name)(tensor, *self.function.arguments, generator=generator)
        return hashlib.sha256(bits_of(tensor).numpy().tobytes()).hexdigest()[:16]


def cases() -> Iterator[Case]:
    for function in FUNCTIONS:
        for dtype in function.dtypes:
            for shape in function.shapes:
                for seed in SEEDS:
                    yield Case(function, dtype, shape, seed)


def series(version: str) -> str:
    """The part of a version within which values stay what they are: 2 for 2.1.3, and 0.2 for 0.2.1."""
    major, minor = re.match(r"(\d+)\.(\d+)", version).groups()  # type: ignore[union-attr]
    return major if major != "0" else f"0.{minor}"


def revision(version: str, changelog: str) -> str:
    """The series, and how many entries under Values the changelog has for its versions."""
    entries = 0
    for section in re.split(r"^## ", changelog, flags=re.M)[1:]:
        head, _, values = section.partition("### Values\n")
        if head[0].isdigit() and series(head) == series(version):
            entries += len(re.findall(r"^- ", values.partition("\n### ")[0], re.M))
    return f"{series(version)} revision {entries}"


def current() -> str:
    return revision(fastinit.__version__, (Path(__file__).parents[2] / "CHANGELOG.md").read_text())


def read() -> tuple[str, dict[str, str]]:
    """The series and revision that the file is of, and its hashes."""
    lines = [line for line in VALUES.read_text().splitlines() if not line.startswith("#")]
    hashes = dict(reversed(line.split(" ", 1)) for line in lines[1:])  # type: ignore[arg-type]
    return lines[0].removeprefix("series "), hashes


def write() -> None:
    new = {str(case): case.hash() for case in cases()}
    now = current()
    if VALUES.exists():
        before, old = read()
        changed = [name for name in old if name in new and new[name] != old[name]]
        if changed and now == before:
            sys.exit(
                f"{len(changed)} values changed within {now}, the first {changed[0]}: that takes a new version or, "
                "before the release, an entry under Values in CHANGELOG.md"
            )
    VALUES.write_text(
        "# SHA-256, first 16 digits, of the elements' bytes in row-major order (little-endian), then what filled them:\n"
        "# function and arguments, dtype, shape, seed of the CPU generator. See test_reproducibility.py.\n"
        f"series {now}\n" + "".join(f"{value} {name}\n" for name, value in new.items())
    )


def same_everywhere(case: Case, instruction_set: str) -> bool:
    # orthogonal_ multiplies matrices, for which plain C++ is left to torch.
    return "orthogonal_" not in case.function.name or instruction_set != "default"


SETTINGS = [(name, count) for name in CAPABILITIES for count in (1, 2, 5)]


@pytest.mark.filterwarnings("ignore:mean is more than 2 std")
@pytest.mark.parametrize(("instruction_set", "count"), SETTINGS)
def test_values_are_what_they_were(instruction_set: str, count: int) -> None:
    version, expected = read()
    assert version == current(), "a new version or an entry under Values: write the values anew"
    with capability(instruction_set), threads(count):
        actual = {str(case): case.hash() for case in cases() if same_everywhere(case, instruction_set)}
    wrong = [f"{name}: {value}" for name, value in actual.items() if value != expected.get(name)]
    assert not wrong, f"{len(wrong)} of {len(actual)} differ:\n" + "\n".join(wrong[:20])


def test_every_case_is_in_the_file() -> None:
    assert [str(case) for case in cases()] == list(read()[1])


def test_every_random_function_is_covered() -> None:
    functions = [name for name in fastinit.__all__ if re.fullmatch(r"[a-z]\w*_", name)]
    random = {name for name in functions if "generator" in signature(getattr(fastinit, name)).parameters}
    assert random == {function.name for function in FUNCTIONS}


def test_the_hash_sees_a_single_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(cases())
    before = case.hash()
    fill = _C.uniform_

    def flip_one(tensor: torch.Tensor, *rest: Any) -> None:
        fill(tensor, *rest)
        tensor.view(torch.int32)[...] ^= 1

    monkeypatch.setattr(_C, "uniform_", flip_one)
    assert case.hash() != before


@pytest.mark.parametrize(("version", "expected"), [("0.1.0", "0.1"), ("0.12.3", "0.12"), ("3.1.4rc1", "3")])
def test_series(version: str, expected: str) -> None:
    assert series(version) == expected


def test_the_changelog_counts_as_a_revision() -> None:
    first, second = (
        "## 0.1.0 (unreleased)\n\nText.\n\n- new\n",
        "\n### Values\n\n- one\n  more of it\n- two\n",
    )
    other = "\n### Fixed\n\n- this\n\n## 0.0.1\n\n### Values\n\n- older\n"
    assert revision("0.1.0", first + other) == "0.1 revision 0"
    assert revision("0.1.2", first + second + other) == "0.1 revision 2"


if __name__ == "__main__":
    write()
