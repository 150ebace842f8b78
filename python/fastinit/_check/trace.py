"""What a block of ``enabled(call_sites=True)`` remembers beyond a report: all that was done to memory, and where.

A dispatch mode sees allocations and what else writes to tensors. Fills come from the report, with their own names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves

from fastinit._check.sites import Site, call_site
from fastinit._deferred import EMPTY, OVERWRITING, random, written_by
from fastinit._enabled.memory import Intervals, runs

aten = torch.ops.aten
COPYING = {aten.clone.default, aten._to_copy.default}
# Operators that make new values of those that are there: garbage stays garbage.
KEEPING = frozenset(
    f"{name}_"
    for name in (
        *(
            "mul",
            "add",
            "sub",
            "div",
            "neg",
            "abs",
            "sqrt",
            "exp",
            "log",
            "erfinv",
            "clamp",
            "clamp_min",
            "clamp_max",
        ),
        *(
            "pow",
            "sin",
            "cos",
            "tanh",
            "reciprocal",
            "rsqrt",
            "sign",
            "floor",
            "ceil",
            "round",
            "addcmul",
            "addcdiv",
        ),
        *("lerp", "requires_grad"),
    )
)
MOST_EVENTS = 256  # of one piece of memory: a training loop has no end


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that was done to a piece of memory.

    Attributes:
        function: what did it: an initialiser by its name, or an operator (``aten.mul_``).
        arguments: of an initialiser by name; of an operator the numbers that it was given, by position.
        key: the key of a fill.
        random: whether it drew random values.
        writes: whether the values do not depend on those that were there.
        shape, stride, offset, dtype: of the view, in elements.
        place: for a part of a larger tensor, which elements it holds.
        site: where in the program.
        seconds: how long a fill took.
        copied: whether it was done to another tensor, of which this memory holds a copy.
    """

    function: str
    arguments: Any
    key: Any
    random: bool
    writes: bool
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    place: Any
    site: Site | None
    seconds: float = 0.0
    copied: bool = False

    def pieces(self) -> tuple[int, list[int]]:
        """The length of its contiguous pieces of memory, and where they start, in bytes."""
        view = torch.empty(0, dtype=self.dtype, device="meta")
        return runs(view.as_strided(self.shape, self.stride, self.offset))


@dataclass(slots=True)
class Piece:
    """A piece of memory.

    Attributes:
        empty: whether it was allocated without values.
        site: where it was allocated.
        events: what was done to it, in order.
        full: whether more was done to it than is remembered.
    """

    empty: bool
    site: Site | None
    events: list[Event] = field(default_factory=list)
    full: bool = False

    def add(self, event: Event) -> None:
        if len(self.events) < MOST_EVENTS:
            self.events.append(event)
        else:
            self.full = True

    def unwritten(self, tensor: Tensor) -> float | None:
        """Which fraction of a tensor in this memory nothing has written to; None if nobody knows."""
        if self.full:
            return None
        if not self.empty:
            return 0.0
        written = Intervals()
        for event in self.events:
            if event.writes:
                length, starts = event.pieces()
                if not starts:
                    return None
                for start in starts:
                    written.add(start, start + length)
        length, starts = runs(tensor)
        if not starts or length == 0:
            return None
        known = sum(written.add(start, start + length) for start in starts)
        return 1 - known / (length * len(starts))


class Trace:
    """All pieces of memory that were allocated or written to in a block."""

    def __init__(self) -> None:
        self.memory: WeakKeyDictionary[torch.UntypedStorage, Piece] = WeakKeyDictionary()

    def of(self, tensor: Tensor) -> Piece | None:
        try:
            return self.memory.get(tensor.untyped_storage())
        except (NotImplementedError, RuntimeError, ValueError):  # no storage, or none yet
            return None

    def filled(
        self,
        function: str,
        arguments: Mapping[str, Any],
        tensor: Tensor,
        place: Any,
        key: Any,
        seconds: float,
        random: bool,
    ) -> None:
        """Note a fill that a report is told of."""
        if function in ("Tensor.zero_", "Tensor.fill_", "Tensor.copy_"):
            return  # the operator is seen
        piece = self.of(tensor)
        if piece is None:
            piece = self.memory[tensor.untyped_storage()] = Piece(False, None)
        event = describe(function, dict(arguments), tensor, random=random, writes=True)
        piece.add(replace(event, key=key, place=place, seconds=seconds))

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Note what an operator allocated and wrote to."""
        leaves = tree_leaves((args, kwargs))
        inputs = {t.untyped_storage()._cdata for t in leaves if plain(t)}
        results = [t for t in tree_leaves(result) if plain(t)]
        packet = func.overloadpacket.__name__
        drawn = random(func)
        for tensor in results:
            storage = tensor.untyped_storage()
            given = (
                storage._cdata in inputs and func is not aten.lift_fresh.default
            )  # which torch.tensor ends with
            if given or storage in self.memory:
                continue
            piece = self.memory[storage] = Piece(func in EMPTY, call_site())
            if func in EMPTY:
                continue
            if not (func in COPYING and self.copy(args[0], tensor, piece)):
                piece.add(describe(f"aten.{packet}", numbers(args), tensor, drawn, True))
        if not func._schema.is_mutable:
            return
        for tensor in written_by(func, args, kwargs):
            mine = self.of(tensor) if plain(tensor) else None
            if mine is None:
                continue
            if func is aten.copy_.default and self.copy(args[1], tensor, mine):
                continue
            writes = func in OVERWRITING or drawn or packet not in KEEPING
            mine.add(describe(f"aten.{packet}", numbers(args[1:]), tensor, drawn, writes))

    def copy(self, source: Any, target: Tensor, piece: Piece) -> bool:
        """Note a copy as what was done to the original, if that is known and all of it is copied."""
        origin = self.of(source) if plain(source) and source.shape == target.shape else None
        if origin is None or origin.full or origin is piece:
            return False
        chain = relevant(origin, source)
        if not chain or any(not covers(event, source) for event in chain):
            return False
        for event in chain:
            moved = describe(event.function, event.arguments, target, event.random, event.writes)
            piece.add(replace(moved, key=event.key, place=event.place, site=event.site, copied=True))
        return True

    @contextmanager
    def watching(self, busy: Callable[[], bool]) -> Iterator[None]:
        """Look at every operator of this thread until the end of the block."""
        mode = Watch(self, busy)
        mode.__enter__()  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            mode.trace = None
            # A mode can be left only where it is the innermost one. A silent one is left behind otherwise.
            if _get_current_dispatch_mode() is mode:
                mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees the operators of a block."""

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def __init__(self, trace: Trace, busy: Callable[[], bool]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace: Trace | None = trace
        self.busy = busy

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.trace is not None and func.namespace == "aten" and not self.busy():
            self.trace.operator(func, args, kwargs or {}, result)
        return result


def describe(function: str, arguments: Any, tensor: Tensor, random: bool, writes: bool) -> Event:
    return Event(
        function,
        arguments,
        None,
        random,
        writes,
        tuple(tensor.shape),
        tensor.stride(),
        int(tensor.storage_offset()),
        tensor.dtype,
        None,
        call_site(),
    )


def plain(tensor: Any) -> bool:
    """Whether this is a tensor with memory."""
    return (
        isinstance(tensor, Tensor)
        and type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__
        and tensor.layout == torch.strided
        and not tensor.is_meta
    )


def numbers(args: Any) -> tuple[Any, ...]:
    """The numbers among an operator's arguments; a tensor stands as None."""
    return tuple(arg if isinstance(arg, (int, float, bool)) else None for arg in args)


def covers(event: Event, tensor: Tensor) -> bool:
    """Whether an event was done to all of a tensor."""
    size = tensor.element_size()
    same = (event.shape, event.stride, event.offset) == (
        tuple(tensor.shape),
        tensor.stride(),
        int(tensor.storage_offset()),
    )
    if same and event.dtype == tensor.dtype:
        return True
    length, starts = event.pieces()
    first, last = extent(tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()), size)
    return len(starts) == 1 and starts[0] <= first and last <= starts[0] + length


def touches(event: Event, tensor: Tensor) -> bool:
    """Whether an event was done to some of a tensor."""
    a = extent(event.shape, event.stride, event.offset, event.dtype.itemsize)
    b = extent(tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()), tensor.element_size())
    return a[0] < b[1] and b[0] < a[1]


def extent(shape: tuple[int, ...], stride: tuple[int, ...], offset: int, size: int) -> tuple[int, int]:
    if 0 in shape:
        return offset * size, offset * size
    last = sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    return offset * size, (offset + last + 1) * size


def relevant(piece: Piece, tensor: Tensor) -> list[Event]:
    """What gave a tensor its values: the last event that overwrote all of it, and those after it."""
    found: list[Event] = []
    for event in piece.events:
        if touches(event, tensor):
            if event.writes and covers(event, tensor):
                found.clear()
            found.append(event)
    return found
