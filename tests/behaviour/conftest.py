"""Fixtures of the tests of fastinit.enabled()."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn import init

from blocks import METHODS, ORIGINALS, is_on


@pytest.fixture
def no_trace() -> Iterator[None]:
    """After every test here, all is as it was."""
    yield
    assert not is_on()
    for name, (function, code) in ORIGINALS.items():
        assert getattr(init, name) is function and function.__code__ is code
    assert not any(name in torch.Tensor.__dict__ for name in METHODS)
