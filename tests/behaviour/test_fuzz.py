"""fastinit beside torch.nn.init on drawn calls: either both have the same outcome, or differences.py says why not.

A failure prints the smallest case that was found. The cases are the same ones in every run; FASTINIT_FUZZ=random in
the environment draws others.
"""

import os
import random
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import fastinit

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, Phase, given, seed, settings

import differences as known
from differential import both, check_promises, differences
from fills import FILLS, bits_of, next_key, run_together
from strategies import EMPTY, GUARD, Case, Recipe, cases, recipes
from testing import FUNCTIONS

FIXED = os.environ.get("FASTINIT_FUZZ") != "random"
FEW, MANY = 60, 1500  # cases for each function
ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("one_thread")


def unexplained(case: Case) -> dict[str, str]:
    """In what torch and fastinit differ on this call, though no row of the list says so."""
    theirs, ours = both(case)
    check_promises(case, ours)
    found = differences(case, theirs, ours)
    return {
        what: how for what, how in found.items() if what not in known.explained(case, theirs, ours, found)
    }


def search(name: str, count: int, **options: Any) -> None:
    """Compare the two on so many drawn calls of a function."""
    compared = 0

    @settings(
        max_examples=count,
        derandomize=FIXED,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],  # on a busy machine
        **options,
    )
    @given(cases(name))
    def compare(case: Case) -> None:
        nonlocal compared
        compared += 1
        assert not unexplained(case)

    if FIXED:  # other cases for each function
        compare = seed(zlib.crc32(name.encode()))(compare)
    compare()
    assert compared >= count


@pytest.mark.parametrize("name", FUNCTIONS)
def test_same_outcome_on_a_few_calls(name: str) -> None:
    search(name, FEW)


@pytest.mark.long
@pytest.mark.parametrize("name", FUNCTIONS)
def test_same_outcome_on_many_calls(name: str) -> None:
    search(name, MANY)


def test_many_are_twenty_thousand() -> None:
    assert MANY * len(FUNCTIONS) >= 20_000


@settings(max_examples=100, derandomize=FIXED, deadline=None, database=None)
@given(recipes("normal_", "plain"))
def test_views_have_guards_on_both_sides(recipe: Recipe) -> None:
    tensor = recipe.make()
    if type(tensor) is torch.Tensor and tensor.device.type == "cpu" and tensor.layout == torch.strided:
        size = tensor.element_size()
        before = tensor.storage_offset() * size
        after = tensor.untyped_storage().nbytes() - before
        if tensor.numel():
            after -= (last(tensor) + 1) * size
        assert before >= GUARD and after >= GUARD


# ---------------------------------------------------------------------------------------------------------------
# The list of differences


@pytest.mark.parametrize("row", [r for r in known.DIFFERENCES if r.occurs], ids=lambda row: row.what[:60])
def test_difference_still_occurs(row: known.Difference) -> None:
    """As its example shows, which no other row explains."""
    theirs, ours = both(row.example)
    check_promises(row.example, ours)
    found = differences(row.example, theirs, ours)
    assert row.where(row.example, theirs, ours) and set(row.aspects) & set(found)
    others = [other for other in known.DIFFERENCES if other is not row]
    assert set(found) - known.explained(row.example, theirs, ours, found, others)


def test_list_in_the_documentation() -> None:
    text = (ROOT / "docs" / "differences.md").read_text()
    assert known.table() in text, (
        "docs/differences.md is not what `python tests/support/differences.py` prints"
    )


# ---------------------------------------------------------------------------------------------------------------
# Faults that are put into fastinit, each of which the search has to find


def one_element(tensor: torch.Tensor, offset: int) -> torch.Tensor:
    """An element of the tensor's memory, counted from its first one."""
    return tensor.detach().as_strided((1,), (1,), tensor.storage_offset() + offset)


def last(tensor: torch.Tensor) -> int:
    return sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def without_version(tensor: torch.Tensor) -> None:
    if not tensor.is_inference():
        torch._C._autograd._unsafe_set_version_counter((tensor,), (tensor._version - 1,))


def accepted(error: Exception) -> None:
    if not isinstance(error, NotImplementedError):
        raise error


def refused(error: Exception) -> None:
    raise ValueError(str(error))


# What is done after each call on a tensor that has memory; or what becomes of an error.
FAULTS: dict[str, Callable[[torch.Tensor], object]] = {
    "writes past the end": lambda tensor: one_element(tensor, last(tensor) + 1).zero_(),
    "writes before the start": lambda tensor: one_element(tensor, -1).zero_(),
    "leaves an element out": lambda tensor: one_element(tensor, last(tensor)).view(torch.uint8).fill_(EMPTY),
    "moves no version": without_version,
    "draws once more": lambda tensor: torch.rand(1),
    "warns": lambda tensor: warnings.warn("something", stacklevel=1),
    "changes requires_grad": lambda tensor: tensor.requires_grad_(not tensor.requires_grad),
    "changes the strides": lambda tensor: tensor.t_(),
    "fills with one value": lambda tensor: tensor.detach().fill_(0.5),
}
FAULTS_OF_ERRORS: dict[str, Callable[[Exception], None]] = {
    "accepts any dtype": accepted,
    "raises another error": refused,
}


@pytest.mark.parametrize("fault", [*FAULTS, *FAULTS_OF_ERRORS])
def test_search_finds(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = fastinit.normal_

    def wrong(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        try:
            result = right(tensor, *args, **kwargs)
        except Exception as error:
            FAULTS_OF_ERRORS.get(fault, reraise)(error)
            return tensor
        if (
            fault in FAULTS
            and type(tensor) is torch.Tensor
            and tensor.device.type == "cpu"
            and tensor.numel()
        ):
            with suppress(RuntimeError):  # in transforms, mostly
                FAULTS[fault](tensor)
        return result

    monkeypatch.setattr(fastinit, "normal_", wrong)
    with pytest.raises(AssertionError):
        search("normal_", 4 * FEW, phases=[Phase.generate], report_multiple_bugs=False)


def reraise(error: Exception) -> None:
    raise error


# ---------------------------------------------------------------------------------------------------------------
# One generator in two threads


def check_shared_generator(count: int) -> None:
    """Each fill has the key of one of the fills that a single thread would have made, and no two have the same."""
    alone, shared = (torch.Generator().manual_seed(5) for _ in range(2))
    keys = [next_key(alone) for _ in range(2 * count)]
    kinds = [(fill, shape) for fill in FILLS.values() for shape in ((3, 5), (17, 2))]
    key_of = [
        {tuple(bits_of(fill.new(*shape, key=key)).tolist()): key for key in keys} for fill, shape in kinds
    ]
    drawn: list[list[int]] = [[], []]

    def draw(mine: list[int], choice: random.Random) -> None:
        for _ in range(count):
            number = choice.randrange(len(kinds))
            fill, shape = kinds[number]
            values = fill.draw(torch.empty(shape), shared)
            mine.append(key_of[number][tuple(bits_of(values).tolist())])

    run_together(*(partial(draw, mine, random.Random(n)) for n, mine in enumerate(drawn)))
    assert sorted(drawn[0] + drawn[1]) == sorted(keys)
    assert torch.equal(shared.get_state(), alone.get_state())


@pytest.mark.filterwarnings("ignore:mean is more than 2 std")
def test_one_generator_in_two_threads() -> None:
    check_shared_generator(100)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:mean is more than 2 std")
def test_one_generator_in_two_threads_for_long() -> None:
    check_shared_generator(3000)
