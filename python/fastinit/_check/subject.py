"""What is looked at: the parameters of a model, with what gave them their values, from a report or from a recipe."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastinit._check import theory
from fastinit._check.sites import Site
from fastinit._check.theory import Theory
from fastinit._check.trace import KEEPING, Event, Piece, covers, relevant
from fastinit._enabled.memory import Intervals, runs
from fastinit._parts import here, local_of

if TYPE_CHECKING:
    from fastinit._enabled.report import Fill, Report
    from fastinit._steps import Made, Step, View
    from fastinit.recipe import Recipe

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


def grouped(model: nn.Module) -> Iterator[tuple[tuple[str, ...], Tensor, tuple[tuple[nn.Module, str], ...]]]:
    """The parameters of a model, each with all of its names and the modules that hold it."""
    found: dict[int, tuple[list[str], Tensor, list[tuple[nn.Module, str]]]] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for attribute, parameter in module._parameters.items():
            if parameter is None or is_lazy(parameter):
                continue
            names, _, owners = found.setdefault(id(parameter), ([], parameter, []))
            names.append(f"{prefix}.{attribute}" if prefix else attribute)
            owners.append((module, attribute))
    for names, tensor, owners in found.values():
        yield tuple(dict.fromkeys(names)), tensor, tuple(owners)


# ---- From a report ------------------------------------------------------------------------------------------


def from_report(report: Report, model: nn.Module) -> Subject:
    trace = report._trace
    weights = []
    for names, tensor, owners in grouped(model):
        weight = Weight(names, tuple(tensor.shape), tensor.dtype, tensor, owners)
        local = local_of(tensor)
        fill = report.last_fill(tensor)
        piece = None if trace is None else trace.of(local)
        if piece is not None:
            with_events(weight, piece, local)
        elif fill is not None:
            weight.steps = tuple(done_by(each, tensor) for each in flat(fill))
        if fill is not None:
            weight.matches = lambda fill=fill, tensor=tensor: fill.matches(tensor)
        weights.append(weight)
    if trace is not None:
        return Subject(weights, model, wasted(weights), True)
    rows = [row for row in report.functions.values() if row.redrawn]
    size = sum(row.bytes * row.redrawn // row.elements for row in rows)
    seconds = sum(row.seconds * row.redrawn / row.elements for row in rows)
    return Subject(weights, model, (report.total.redrawn, size, seconds), False)


def wasted(weights: list[Weight]) -> tuple[int, int, float]:
    """The elements, bytes and seconds of fills that were overwritten."""
    lost = [(min(done.elements, weight.numel), weight, done) for weight in weights for done in weight.wasted]
    return (
        sum(count for count, _, _ in lost),
        sum(count * weight.dtype.itemsize for count, weight, _ in lost),
        sum(done.seconds for _, _, done in lost),
    )


def flat(fill: Fill) -> Iterator[Fill]:
    """A fill and those before it, the oldest first."""
    yield from fill.before
    yield fill


def done_by(fill: Fill, tensor: Tensor) -> Done:
    """What a report says, as one thing that was done. A copy is what made the original."""
    source = fill
    while source.source is not None:
        source = source.source
    place = fill.place or source.place
    shape = place.shape if place is not None else tuple(fill.shape)
    return Done(
        source.function,
        dict(source.arguments),
        source.key,
        source.key is not None or source.function.removeprefix("Tensor.") in RANDOM,
        fill.whole and source.whole,
        tuple(shape),
        place is not None,
        (tuple(fill.shape), tuple(fill.stride), fill.offset),
        elements=math.prod(fill.shape),
    )


def with_events(weight: Weight, piece: Piece, local: Tensor) -> None:
    """What a trace says of a parameter."""
    weight.complete = not piece.full
    weight.unwritten = piece.unwritten(local)
    weight.allocated = piece.site
    if piece.full:
        return
    weight.steps = tuple(done_in(event, local) for event in relevant(piece, local))
    kept = relevant(piece, local)
    lost = [event for event in piece.events if event.random and not event.copied and event not in kept]
    weight.wasted = tuple(done_in(event, local) for event in lost)


def done_in(event: Event, local: Tensor) -> Done:
    key = event.key
    if isinstance(key, Tensor):
        key = int(key.item()) % 2**64
    shape = event.place.shape if event.place is not None else event.shape
    return Done(
        event.function,
        event.arguments,
        key,
        event.random,
        covers(event, local),
        tuple(shape),
        event.place is not None,
        (event.shape, event.stride, event.offset - int(local.storage_offset())),
        event.site,
        event.seconds,
        math.prod(event.shape),
    )


# ---- From a recipe ------------------------------------------------------------------------------------------


def from_recipe(recipe: Recipe, model: nn.Module | None, values: bool | None) -> Subject:
    from fastinit.keys import canonical_name

    tensors = recipe._tensors
    owned: dict[str, Any] = {}
    if model is not None:
        for names, tensor, owners in grouped(model):
            owned[canonical_name(names[0])] = names, tensor, owners
    tied: dict[str, list[str]] = {}
    for other, first in recipe._tied.items():
        tied.setdefault(first, []).append(other)
    count = sum(math.prod(made.result.size) for made in tensors.values())
    draws = values if values is not None else count <= MOST_VALUES
    weights = []
    for name, made in tensors.items():
        names, tensor, owners = owned.get(name, ((name, *tied.get(name, ())), None, ()))
        if model is not None and name not in owned:
            continue  # a buffer
        if model is None and not made.result.dtype.is_floating_point:
            continue
        weight = Weight(names, made.result.size, made.result.dtype, tensor, owners, complete=True)
        with_steps(weight, made)
        if draws and (tensor is None or local_of(tensor).is_meta):
            weight.draw = made.draw
        weights.append(weight)
    return Subject(weights, model, wasted(weights), True)


def with_steps(weight: Weight, made: Made) -> None:
    """What a recipe says of a parameter."""
    from fastinit._steps import CONSTANT

    weight.allocated = made.site
    kept = Counter((step.function, step.site) for step in made.steps if step.key is not None)
    for draw in made.draws[::-1]:
        if kept[draw.function, draw.site] > 0:
            kept[draw.function, draw.site] -= 1
        else:
            done = Done(
                draw.function, draw.arguments, None, True, True, (), site=draw.site, elements=draw.elements
            )
            weight.wasted = (done, *weight.wasted)
    if any(step.function == CONSTANT for step in made.steps):
        weight.origin, weight.complete, weight.unwritten = "values as they are", False, 0.0
        return
    steps: list[Done] = []
    for step in made.steps:
        view = target(step)
        own = view is not None and view.memory == made.result.memory
        if not own:
            weight.derived = True  # of other tensors
        view = view or made.result
        steps.append(
            Done(
                step.function if step.is_fill else "aten." + step.function.split(".")[1],
                dict(step.arguments) if step.is_fill else plain_numbers(step.arguments),
                step.key,
                step.key is not None,
                view.memory != made.result.memory or same_elements(view, made.result),
                step.place.shape if step.place is not None else view.size,
                step.place is not None,
                (view.size, view.stride, view.offset - made.result.offset),
                step.site,
                elements=math.prod(view.size),
                own=own,
            )
        )
    weight.steps = tuple(steps)
    weight.unwritten = unwritten(made)


def target(step: Step) -> View | None:
    """What a step writes to: its result, or its first argument if it works in place."""
    from fastinit._steps import View

    if any(view is not None for view in step.out):
        return next(view for view in step.out if view is not None)
    first = step.arguments[0][0] if step.arguments and step.arguments[0] else None
    return first if isinstance(first, View) else None


def same_elements(view: View, whole: View) -> bool:
    """Whether a view has as many elements as the tensor, of the same memory."""
    return (
        view.memory == whole.memory
        and math.prod(view.size) == math.prod(whole.size)
        and view.offset == whole.offset
    )


def plain_numbers(arguments: Any) -> tuple[Any, ...]:
    """The numbers that an operator was given besides its first argument; None for tensors."""
    from fastinit._steps import View

    args, _ = arguments
    rest = args[1:] if args and isinstance(args[0], View) else args
    return tuple(arg if isinstance(arg, (int, float, bool)) else None for arg in rest)


def unwritten(made: Made) -> float | None:
    """Which fraction of a tensor no step has written to."""
    written = Intervals()
    for step in made.steps:
        view = target(step)
        if not step.is_fill and step.function.split(".")[1] in KEEPING:
            continue
        if view is None:
            return None
        if view.memory != made.result.memory:
            continue
        length, starts = pieces(view)
        if not starts:
            return None
        for start in starts:
            written.add(start, start + length)
    length, starts = pieces(made.result)
    if not starts or length == 0:
        return None
    known = sum(written.add(start, start + length) for start in starts)
    return 1 - known / (length * len(starts))


def pieces(view: View) -> tuple[int, list[int]]:
    """The contiguous pieces of a view: their length and where they start, in bytes."""
    tensor = torch.empty(0, dtype=view.dtype, device="meta")
    return runs(tensor.as_strided(view.size, view.stride, view.offset))
