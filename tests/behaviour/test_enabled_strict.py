"""fastinit.enabled(strict=True): random values that torch draws itself."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import init

import fastinit

pytestmark = pytest.mark.usefixtures("one_thread", "no_trace")


def test_strict() -> None:
    here = test_strict.__code__.co_firstlineno
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with fastinit.enabled(strict=True) as report:
            model = nn.Linear(3, 4)  # nothing to say
            model.weight.data.normal_()
            with torch.device("cpu"):
                init.trunc_normal_(model.weight)
            for _ in range(3):
                torch.empty(3).bernoulli_()
            torch.randn(3)
            torch.empty(3).exponential_()
            init.normal_(torch.empty(3, dtype=torch.float64)[:0])
            torch.empty(3, device="meta").normal_()
            init.normal_(torch.empty(1, 3), mean=float("inf"))
            torch.empty(3).fill_(0.0)
    found = [(str(w.message).split(" draws")[0], w.filename, w.lineno - here) for w in caught]
    assert found == [
        ("bernoulli_", __file__, 10),
        ("randn", __file__, 11),
        ("exponential_", __file__, 12),
        ("normal_", __file__, 15),
    ]
    assert "mean must be finite" in str(caught[-1].message)
    assert [(f.function, f.filename, f.line - here, f.calls) for f in report.fallthrough] == [
        ("bernoulli_", __file__, 10, 3),
        ("randn", __file__, 11, 1),
        ("exponential_", __file__, 12, 1),
        ("normal_", __file__, 15, 1),
    ]
    assert f"bernoulli_ at {__file__}:{here + 10}" in str(report)


def test_strict_nests() -> None:
    with fastinit.enabled(strict=True) as outer, fastinit.enabled() as between:
        with fastinit.enabled(strict=True) as inner, pytest.warns(UserWarning, match="randn") as caught:
            torch.randn(3)
        with pytest.warns(UserWarning, match="rand draws"):
            torch.rand(3)
    assert len(caught) == 1
    assert [(f.function, f.calls) for f in outer.fallthrough] == [("randn", 1), ("rand", 1)]
    assert [(f.function, f.calls) for f in inner.fallthrough] == [("randn", 1)]
    assert not between.fallthrough


def test_strict_gives_the_same_values() -> None:
    def build() -> list[torch.Tensor]:
        torch.manual_seed(5)
        return [p.detach() for p in nn.TransformerEncoderLayer(16, 2, 32).parameters()]

    with fastinit.enabled():
        expected = build()
    with fastinit.enabled(strict=True) as report:
        found = build()
    assert all(map(torch.equal, found, expected)) and not report.fallthrough


DRAWING: dict[str, Callable[[], Any]] = {
    "_standard_gamma": lambda: torch.distributions.Gamma(1.0, 1.0).sample(),
    "_sample_dirichlet": lambda: torch.distributions.Beta(1.0, 1.0).sample(),
    "_sample_dirichlet, of more": lambda: torch.distributions.Dirichlet(torch.ones(3)).sample(),
    "_standard_gamma, by StudentT": lambda: torch.distributions.StudentT(3.0).sample(),
    "native_dropout": lambda: torch.native_dropout(torch.ones(9), 0.5, True),
    "bernoulli_": lambda: nn.functional.dropout(torch.ones(9)),
    "randperm": lambda: torch.randperm(5),
    "multinomial": lambda: torch.multinomial(torch.ones(5), 2),
}
NOT_DRAWING: tuple[Callable[[], Any], ...] = (
    lambda: torch.native_dropout(torch.ones(9), 0.5, False),
    lambda: nn.functional.dropout(torch.ones(9), training=False),
    lambda: nn.functional.scaled_dot_product_attention(*torch.ones(3, 1, 2, 4, 8)),
    lambda: nn.functional.rrelu(torch.ones(9), training=False),
)


@pytest.mark.parametrize("what", DRAWING)
def test_strict_sees(what: str) -> None:
    with fastinit.enabled(strict=True) as report, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        DRAWING[what]()
    assert what.partition(",")[0] in {fell.function for fell in report.fallthrough}


def test_strict_sees_nothing_where_nothing_is_drawn() -> None:
    with fastinit.enabled(strict=True) as report:
        for call in NOT_DRAWING:
            call()
    assert not report.fallthrough
