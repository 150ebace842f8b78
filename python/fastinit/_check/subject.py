"""What is looked at: the parameters of a model, with what gave them their values, from a report or from a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastinit._check import theory
from fastinit._check.sites import Site
from fastinit._check.theory import Theory
from fastinit._parts import here, local_of

if TYPE_CHECKING:
    pass

CHUNK = 2**22  # elements of a parameter that are looked at at a time
MOST_VALUES = 2**28  # elements of a recipe beyond which nothing is drawn, unless it is asked for
RANDOM: tuple[str, ...] = (
    "uniform_",
    "normal_",
    "trunc_normal_",
    "sparse_",
    "orthogonal_",
    "batched_orthogonal_",
)
RANDOM += ("xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "delta_orthogonal_")


@dataclass(frozen=True, slots=True)
class Done:
    """One thing that was done to a parameter.

    Attributes:
        function: an initialiser by its name (``Tensor.normal_``), or an operator (``aten.mul_``).
        arguments: of an initialiser by name; of an operator its numbers by position, and None for tensors.
        key: the key of a random fill, if it had one.
        random: whether it drew random values.
        whole: whether it was done to all of the parameter.
        shape: of what it was done to; of the whole, for a part of a larger tensor.
        part: whether it was a part of a larger tensor that said so.
        view: where it was done, if not to the whole: a tensor without values, with the offset from the parameter.
        site: where in the program.
        seconds: how long it took, where that was measured.
        elements: how many elements.
    """

    function: str
    arguments: Any
    key: int | None
    random: bool
    whole: bool
    shape: tuple[int, ...]
    part: bool = False
    view: tuple[tuple[int, ...], tuple[int, ...], int] | None = None
    site: Site | None = None
    seconds: float = 0.0
    elements: int = 0
    own: bool = True  # in the parameter's memory, and not in that of a tensor which it was made of

    @property
    def name(self) -> str:
        return self.function.removeprefix("Tensor.")

    @property
    def is_operator(self) -> bool:
        return self.function.startswith("aten.")

    def __str__(self) -> str:
        if self.is_operator:
            shown = ", ".join("…" if value is None else number(value) for value in self.arguments)
            return f"{self.function.removeprefix('aten.').partition('.')[0]}({shown})"
        return f"{self.function}({', '.join(f'{k}={number(v)}' for k, v in self.arguments.items())})"


def number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


@dataclass(slots=True)
class Stats:
    """What the values of a parameter are.

    Attributes:
        count: how many there are.
        nan, infinite: how many are that.
        low, high, mean, std: of the finite ones.
        sample: at most 2^16 of them, evenly spaced.
        fingerprint: equal for tensors with the same values, and for few others.
    """

    count: int = 0
    nan: int = 0
    infinite: int = 0
    low: float = math.inf
    high: float = -math.inf
    mean: float = 0.0
    std: float = 0.0
    sample: Tensor = field(default_factory=lambda: torch.empty(0))
    fingerprint: tuple[Any, ...] = ()

    @property
    def constant(self) -> bool:
        return self.count > 0 and self.low == self.high and not self.nan and not self.infinite


def look(tensor: Tensor) -> Stats | None:
    """Read the values of a tensor, a piece at a time."""
    local = here(tensor)[0].detach()
    if not local.is_floating_point() or local.layout != torch.strided or local.numel() == 0:
        return None
    flat = local.reshape(-1)
    found = Stats(count=flat.numel())
    total = squares = 0.0
    for piece in torch.split(flat, CHUNK):
        wide = piece if piece.dtype in (torch.float32, torch.float64) else piece.float()
        low, high = map(float, torch.aminmax(wide))
        if not (math.isfinite(low) and math.isfinite(high)):
            found.nan += int(torch.isnan(wide).sum())
            found.infinite += int(torch.isinf(wide).sum())
            wide = wide[torch.isfinite(wide)]
            if wide.numel() == 0:
                continue
            low, high = map(float, torch.aminmax(wide))
        found.low, found.high = min(found.low, low), max(found.high, high)
        if max(abs(low), abs(high)) > 1e15:  # beyond what float32 can square
            wide = wide.double()
        total += float(wide.sum())
        squares += float(torch.dot(wide, wide))
    finite = max(found.count - found.nan - found.infinite, 1)
    found.mean = total / finite
    found.std = 0.0 if found.constant else math.sqrt(max(squares / finite - found.mean**2, 0.0))
    step = max(1, flat.numel() // 2**16)
    found.sample = flat[::step][: 2**16].float().cpu()
    found.fingerprint = (tuple(local.shape), local.dtype, found.low, found.high, *found.sample[:8].tolist())
    return found


@dataclass(eq=False)
class Weight:
    """A parameter.

    Attributes:
        names: its names in the model; a shared one has several.
        shape: its shape; of the whole, if it is sharded.
        dtype: its dtype.
        tensor: the parameter itself, if there is a model.
        owners: the modules that hold it, with the attribute's name, in the order of ``names``.
        steps: what gave it its values, the oldest first; None if nobody knows.
        complete: whether nothing else was done to it that is not among the steps.
        unwritten: which fraction of it nothing has written to; None if nobody knows.
        wasted: the random fills of it that were overwritten.
        draw: makes its values, if that is possible without the model having them.
        origin: a word for where its values come from, if there are no steps.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    tensor: Tensor | None = None
    owners: tuple[tuple[nn.Module, str], ...] = ()
    steps: tuple[Done, ...] | None = None
    complete: bool = False
    unwritten: float | None = None
    wasted: tuple[Done, ...] = ()
    draw: Callable[[], Tensor] | None = None
    origin: str = ""
    derived: bool = False  # from other tensors, in ways that are not followed
    allocated: Site | None = None
    matches: Callable[[], bool] | None = None

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def module(self) -> nn.Module | None:
        return self.owners[0][0] if self.owners else None

    @property
    def attribute(self) -> str:
        return self.owners[0][1] if self.owners else self.name.rpartition(".")[2]

    @cached_property
    def fill(self) -> Done | None:
        """The last thing that gave all of it new values."""
        return next(
            (done for done in reversed(self.steps or ()) if done.whole and not done.is_operator), None
        )

    def chain(self, done: Done) -> str:
        """A fill as text, with the operators that changed all of what it gave."""
        steps = self.steps or ()
        rest = steps[steps.index(done) + 1 :] if done in steps else ()
        return " → ".join(
            map(str, (done, *(each for each in rest if each.is_operator and each.whole and each.own)))
        )

    @cached_property
    def only(self) -> Done | None:
        """The fill that gave it all of its values, if there was nothing else but constants put into parts of it."""
        steps = self.steps or ()
        first = steps[0] if steps else None
        if first is None or first.is_operator or not first.whole or self.derived or not self.trusted:
            return None
        rest = (
            done.name in ("zeros_", "zero_", "aten.zero_", "aten.fill_", "fill_", "constant_")
            for done in steps[1:]
        )
        return first if all(rest) else None

    @cached_property
    def trusted(self) -> bool:
        """Whether the steps say all. If they may not, the values are compared."""
        if self.complete:
            return True
        try:
            return self.matches is not None and self.matches()
        except (RuntimeError, ValueError):
            return False

    @cached_property
    def theory(self) -> Theory | None:
        """The distribution of its values, as far as what was done to all of it says."""
        found = None
        if not self.steps or self.derived or not self.trusted:
            return None
        for done in self.steps:
            if not done.whole:
                if theory_of_constant(done) == 0.0:
                    continue  # a padding row
                return None
            if done.is_operator:
                found = theory.after(found, done.function, done.arguments)
            else:
                found = theory.of_fill(done.name, done.arguments, done.shape)
            if found is None:
                return None
        return found

    @cached_property
    def stats(self) -> Stats | None:
        values = self.values()
        return None if values is None else look(values)

    def values(self) -> Tensor | None:
        """Its values, of this rank; None if there are none."""
        if self.tensor is not None and not local_of(self.tensor).is_meta:
            return self.tensor
        return None if self.draw is None else self.draw()

    @property
    def random(self) -> bool:
        """Whether its values are known to be random."""
        return any(done.random for done in self.steps or ())


def theory_of_constant(done: Done) -> float | None:
    found = (
        theory.after(None, done.function, done.arguments)
        if done.is_operator
        else theory.of_fill(done.name, done.arguments, done.shape)
    )
    return found.mean if found is not None and found.family == "constant" else None


@dataclass
class Subject:
    """All parameters of a model.

    Attributes:
        weights: the parameters, shared ones once.
        model: the model, if there is one.
        redrawn: how many elements were drawn for nothing, their bytes, and the seconds if they were measured: of all.
        traced: whether all that was done to memory was seen.
    """

    weights: list[Weight]
    model: nn.Module | None
    redrawn: tuple[int, int, float]
    traced: bool

    @cached_property
    def by_name(self) -> dict[str, Weight]:
        return {name: weight for weight in self.weights for name in weight.names}

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        return {} if self.model is None else dict(self.model.named_modules())
