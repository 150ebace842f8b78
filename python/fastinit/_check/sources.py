"""What a report or a recipe says of the parameters of a model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastinit._check.subject import MOST_VALUES, RANDOM, Done, Subject, Weight
from fastinit._check.trace import KEEPING, Event, Piece, covers, relevant
from fastinit._enabled.memory import Intervals, runs
from fastinit._parts import local_of

if TYPE_CHECKING:
    from fastinit._enabled.report import Fill, Report
    from fastinit._steps import Made, Step, View
    from fastinit.recipe import Recipe


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
