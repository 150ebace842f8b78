"""What several test files share: the functions under test, what a call did, and memory around a view."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import UninitializedTensorMixin as Uninitialized

RANDOM = (
    "uniform_",
    "normal_",
    "trunc_normal_",
    "xavier_uniform_",
    "xavier_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "orthogonal_",
    "sparse_",
)
FIXED = ("constant_", "ones_", "zeros_", "eye_", "dirac_")
FUNCTIONS = RANDOM + FIXED

# What a plain call gives each function besides the tensor, and the shape of that tensor.
ARGUMENTS: dict[str, tuple[Any, ...]] = {"constant_": (2.5,), "sparse_": (0.4,)}
SHAPES = {"dirac_": (6, 4, 3)}


def arguments(name: str) -> tuple[Any, ...]:
    return ARGUMENTS.get(name, ())


def shape(name: str) -> tuple[int, ...]:
    return SHAPES.get(name, (6, 4))


@dataclass
class Outcome:
    """What a call did, as far as its caller can tell."""

    error: Exception | None = None
    warnings: list[tuple[type[Warning], str]] = field(default_factory=list)
    warned_here: bool = True  # every warning points at the line that made the call
    returned_it: bool = False  # the very object that was passed in
    drew: bool = False  # the default generator has moved on
    bumped: bool = False  # the tensor's version counter has moved on
    wrote: bool = False  # memory of the tensor's elements has changed
    wrote_outside: bool = False  # memory between or around the tensor's elements has changed
    facts: dict[str, Any] = field(default_factory=dict)  # shape, strides, ...


def observe(call: Callable[..., Any], tensor: Any, *args: Any, **kwargs: Any) -> Outcome:
    """Call a function on a tensor, from a fixed seed, and report what happened."""
    outcome = Outcome()
    torch.manual_seed(0)
    state, version, memory = torch.get_rng_state(), _version(tensor), Memory(tensor)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            outcome.returned_it = call(tensor, *args, **kwargs) is tensor
        except Exception as error:
            outcome.error = error
    outcome.warnings = [(warning.category, str(warning.message)) for warning in caught]
    outcome.warned_here = all(warning.filename == __file__ for warning in caught)
    outcome.drew = not torch.equal(torch.get_rng_state(), state)
    outcome.bumped = _version(tensor) != version
    outcome.wrote, outcome.wrote_outside = memory.changes()
    outcome.facts = _facts(tensor)
    return outcome


@contextmanager
def untouched(generator: torch.Generator = torch.default_generator) -> Iterator[None]:
    """Assert that nothing is drawn from the generator."""
    before = generator.get_state()
    yield
    assert torch.equal(generator.get_state(), before), "something was drawn from the generator"


class Memory:
    """The bytes of a tensor's storage at one time, and which of them are the tensor's elements."""

    def __init__(self, tensor: Any) -> None:
        self.bytes = self.before = None
        if _has_memory(tensor):
            self.bytes = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
            self.before = self.bytes.clone()
            count = self.bytes.numel() // tensor.element_size()
            index = torch.arange(count).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
            self.inside = torch.zeros(count, dtype=torch.bool)
            self.inside[index.flatten()] = True

    def changes(self) -> tuple[bool, bool]:
        """Whether elements have changed since, and whether anything else has."""
        if self.bytes is None:
            return False, False
        changed = (self.bytes != self.before).view(self.inside.numel(), -1).any(dim=1)
        return bool(changed[self.inside].any()), bool(changed[~self.inside].any())


def _has_memory(tensor: Any) -> bool:
    return (
        isinstance(tensor, torch.Tensor)
        and not isinstance(tensor, Uninitialized)
        and not isinstance(tensor, FakeTensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.untyped_storage().nbytes() > 0
    )


def _version(tensor: Any) -> int | None:
    if not isinstance(tensor, torch.Tensor) or isinstance(tensor, Uninitialized) or tensor.is_inference():
        return None
    return tensor._version


def _facts(tensor: Any) -> dict[str, Any]:
    if not isinstance(tensor, torch.Tensor) or isinstance(tensor, Uninitialized):
        return {}
    names = ["shape", "dtype", "device", "layout", "requires_grad", "is_leaf", "is_inference"]
    if tensor.layout == torch.strided:
        names += ["stride", "storage_offset"]
    return {"type": type(tensor)} | {name: _fact(tensor, name) for name in names}


def _fact(tensor: torch.Tensor, name: str) -> Any:
    try:
        value = getattr(tensor, name)
        return value() if callable(value) else value
    except RuntimeError as error:  # what autograd says of one of several views that was written to
        return type(error)
