"""What ``fastinit.enabled()`` saw: a table of the functions, and for each parameter what gave it its values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fastinit import extra, init
from fastinit._enabled.memory import Memory, Seen, runs
from fastinit._kernels import Key
from fastinit._parts import Part, Place, here

if TYPE_CHECKING:
    from pathlib import Path

    from fastinit._check.finding import Findings
    from fastinit._check.trace import Trace
    from fastinit.recipe import Recipe

INITIALISERS: dict[str, Callable[..., Tensor]] = {
    name: getattr(init, name) for name in init.__all__ if name.endswith("_")
} | {name: getattr(extra, name) for name in ("batched_orthogonal_", "delta_orthogonal_")}
Draw = tuple[str, Any, tuple[int, ...]]  # function, key, shape of the whole
WITHOUT_KEY = ("constant_", "ones_", "zeros_", "eye_", "dirac_")


@dataclass(frozen=True, slots=True)
class Fill:
    """One fill of a parameter, with all that is needed to repeat it.

    Attributes:
        function: the name in ``torch.nn.init``, or that of the tensor's method (``"Tensor.normal_"``).
        arguments: what the function was given besides the tensor and the generator, by name, defaults included.
        key: the 64-bit key that decided on the values; None if none did (``zeros_``), or if torch drew them.
        whole: whether all elements of the parameter were filled.
        shape: the shape of the view that was filled; of what this rank holds, if it is a part of a larger tensor.
        stride: its strides, in elements.
        offset: the distance of its first element from the parameter's, in elements.
        dtype: its dtype.
        before: earlier fills, of which this one left something, the oldest first.
        source: for a copy (``Tensor.copy_``), the fill of the tensor that was copied, if that is known.
        place: for a part (a DTensor's shard, ``part_of``), which elements of the whole it holds.
    """

    function: str
    arguments: Mapping[str, Any] = field(hash=False)
    key: int | None
    whole: bool
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    before: tuple[Fill, ...] = ()
    source: Fill | None = None
    place: Place | None = None

    def redraw(self, tensor: Tensor) -> Tensor:
        """Fill a tensor with the same values again: those of ``before`` first, then its own.

        Args:
            tensor: a tensor with the shape, strides and dtype of the parameter, on any device. For a part, it has those
                of this rank's part, or is a DTensor with the same placements.

        Raises:
            ValueError: if values came from elsewhere, because they were copied from a checkpoint or drawn by torch.

        Returns:
            ``tensor``.

        Example:
            >>> import fastinit, torch
            >>> with fastinit.enabled() as report:
            ...     layer = torch.nn.Linear(30, 20)
            >>> again = torch.empty_like(layer.weight)
            >>> torch.equal(report.parameters(layer)["weight"].redraw(again), layer.weight)
            True
        """
        local, _ = here(tensor)
        for fill in (*self.before, self):
            view = local.detach().as_strided(fill.shape, fill.stride, local.storage_offset() + fill.offset)
            name = fill.function.removeprefix("Tensor.")
            part = view if fill.place is None else Part(view, fill.place)
            if fill.key is not None:
                INITIALISERS[name](part, **fill.arguments, generator=Key(fill.key))
            elif fill.source is not None:
                copied = fill.source
                values = torch.empty_strided(
                    copied.shape, copied.stride, dtype=copied.dtype, device=local.device
                )
                view.copy_(copied.redraw(values))
            elif name in ("zero_", "fill_"):
                getattr(view, name)(**fill.arguments)
            elif name in WITHOUT_KEY:
                INITIALISERS[name](part, **fill.arguments)
            else:
                raise ValueError(f"{fill.function} cannot be repeated: its values have no key")
        return tensor

    def matches(self, tensor: Tensor) -> bool:
        """Return whether a parameter still has its values, bit for bit. The values are drawn once more for that.

        For a DTensor or a part, this rank's part counts.
        ``orthogonal_`` multiplies matrices, so it gives the same bits on the same kind of machine only.
        """
        local = here(tensor)[0].detach()
        again = torch.empty_strided(local.shape, local.stride(), dtype=local.dtype, device=local.device)
        return torch.equal(self.redraw(again), local)


@dataclass(slots=True)
class Row:
    """The calls of one function.

    Attributes:
        calls: how many calls filled at least one element.
        elements: how many elements they filled.
        bytes: how much memory that was.
        seconds: how long they took together; on a GPU, how long it took to launch them.
        redrawn: how many of the elements had been drawn before, by any function: that work was for nothing.
    """

    calls: int = 0
    elements: int = 0
    bytes: int = 0
    seconds: float = 0.0
    redrawn: int = 0


@dataclass(slots=True)
class Fallthrough:
    """Random values that torch drew itself, at one place of the program.

    Attributes:
        function: what drew them.
        filename: the file of the call, the first one outside of torch and fastinit.
        line: the line in that file.
        reason: why fastinit did not; empty if it has no such function.
        calls: how often.
    """

    function: str
    filename: str
    line: int
    reason: str
    calls: int = 0


@dataclass(slots=True)
class Unnamed:
    """Fills in a block of ``keys_by_name`` whose keys came from the generator, at one place of the program.

    Attributes:
        function: what filled.
        filename: the file of the call, the first one outside of torch and fastinit.
        line: the line in that file.
        calls: how often.
    """

    function: str
    filename: str
    line: int
    calls: int = 0


class Report:
    """What was filled in the block of a ``with fastinit.enabled() as report``.

    ``print(report)`` shows a table. It keeps no tensor alive, and what it knows of a tensor's memory goes with it.

    Attributes:
        functions: a ``Row`` for each function that was called, by name.
        fallthrough: where torch drew random values itself; ``enabled(strict=True)`` looks for that.
        unnamed: where tensors that have no name took their keys from the generator in a block of ``keys_by_name``.

    Example:
        >>> import fastinit, torch
        >>> with fastinit.enabled() as report:
        ...     layer = torch.nn.Linear(30, 20)
        ...     _ = torch.nn.init.normal_(layer.weight)
        >>> report.functions["normal_"].redrawn
        600
        >>> report.parameters(layer)["weight"].arguments
        {'mean': 0.0, 'std': 1.0}
    """

    def __init__(self, strict: bool = False, trace: Trace | None = None) -> None:
        self.strict = strict
        self._trace = trace  # of a block with ``call_sites=True``
        self._open = True  # its block is
        self._draws: list[Draw] | None = None  # where ranks are to be compared
        self.functions: dict[str, Row] = {}
        self._memory: WeakKeyDictionary[torch.UntypedStorage, Memory] = WeakKeyDictionary()
        self._fallthrough: dict[tuple[str, str, int], Fallthrough] = {}
        self._unnamed: dict[tuple[str, str, int], Unnamed] = {}

    def __getstate__(self) -> dict[str, Any]:
        """The table and the places. What is known of memory stays with the memory: a copy has no parameters."""
        return self.__dict__ | {"_memory": None, "_open": False, "_trace": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_memory": WeakKeyDictionary()}

    @property
    def fallthrough(self) -> list[Fallthrough]:
        return list(self._fallthrough.values())

    @property
    def unnamed(self) -> list[Unnamed]:
        return list(self._unnamed.values())

    @property
    def total(self) -> Row:
        """The sum of all rows."""
        rows = [astuple(row) for row in self.functions.values()]
        return Row(*map(sum, zip(*rows, strict=True)))

    def parameters(self, module: nn.Module) -> dict[str, Fill | None]:
        """Return the last fill of each parameter of a module.

        A fill of a part of a parameter (a padding row) says so, and has the fills under it in ``before``. Arithmetic in
        place and assignments to slices are not seen, but ``Fill.matches`` notices them. A parameter whose memory was given
        up since (by a conversion to another dtype or device) counts as not filled.

        Args:
            module: the module.

        Returns:
            A ``Fill`` for each name of ``named_parameters``, a shared parameter under each of its names; None
            where no fill was seen.
        """
        named = module.named_parameters(remove_duplicate=False)
        return {name: self.last_fill(parameter) for name, parameter in named}

    def last_fill(self, tensor: Tensor) -> Fill | None:
        """The last fill of one tensor, as ``parameters`` has it."""
        return _with_numbers(self._last(tensor))

    def recipe(self, module: nn.Module) -> Recipe:
        """Return how each parameter and buffer of a module was made, to be saved, replayed and verified.

        If the last fill of a tensor does not give its bits (because something computed it, or a checkpoint brought it), the
        recipe has its values. Each tensor is drawn once to find out.

        Args:
            module: the module.

        Returns:
            A ``Recipe``.
        """
        from fastinit.recipe import Recipe  # which is made of fills

        return Recipe._of_report(self, module)

    def check(self, module: nn.Module) -> Findings:
        """Return what is wrong with the initialisation of a module: a list of findings, the worst first.

        A block of ``enabled(call_sites=True)`` tells more: which parameters nothing filled, what was drawn twice, and where in
        the program. The parameters' values are read once. Those of random fills are drawn again and compared.
        ``docs/check.md`` has all findings, and their limits.

        Args:
            module: the module.

        Returns:
            A list of ``Finding``. ``print`` shows it as text of at most 100 columns.

        Example:
            >>> import fastinit, torch
            >>> with fastinit.enabled(call_sites=True) as report:
            ...     layer = torch.nn.Linear(30, 20)
            ...     layer.scale = torch.nn.Parameter(torch.empty(20))
            >>> [(finding.kind, finding.names) for finding in report.check(layer)]
            [('never-filled', ('scale',))]
        """
        from fastinit._check import check, sources

        return check.check(sources.from_report(self, module))

    def plot(self, path: str | Path, module: nn.Module) -> None:
        """Draw a picture of a module's initialisation: deviations and ranges by depth, what was drawn twice, histograms.

        Args:
            path: the file to write. matplotlib, which must be installed, takes the format from its name.
            module: the module.

        Raises:
            ImportError: if matplotlib is not installed.

        Example:
            >>> import fastinit, torch
            >>> with fastinit.enabled() as report:
            ...     model = torch.nn.TransformerEncoderLayer(64, 4)
            >>> report.plot("model.png", model)  # doctest: +SKIP
        """
        from fastinit._check import sources
        from fastinit._check.plot import plot

        plot(path, sources.from_report(self, module))

    def to_json(self, module: nn.Module | None = None) -> str:
        """Return the report as JSON: the table and, for a module, what gave each parameter its values, and the findings.

        Args:
            module: the module, or None for the table alone.

        Example:
            >>> import fastinit, json, torch
            >>> with fastinit.enabled() as report:
            ...     layer = torch.nn.Linear(30, 20)
            >>> round(json.loads(report.to_json(layer))["parameters"]["weight"]["std"], 3)
            0.105
        """
        from fastinit._check import text

        return text.report_json(self, module)

    def to_markdown(self, module: nn.Module | None = None) -> str:
        """Return the report as Markdown: the table and, for a module, a table of its fills, and the findings.

        Args:
            module: the module, or None for the table alone.

        Example:
            >>> import fastinit, torch
            >>> with fastinit.enabled() as report:
            ...     layer = torch.nn.Linear(30, 20)
            >>> print(report.to_markdown().splitlines()[0])
            | function | calls | elements | drawn again | MiB | seconds |
        """
        from fastinit._check import text

        return text.report_markdown(self, module)

    def _last(self, parameter: Tensor) -> Fill | None:
        try:
            parameter, _ = here(parameter)
            memory = self._memory.get(parameter.untyped_storage())
        except (NotImplementedError, RuntimeError, ValueError):  # no storage, or none yet
            return None
        if memory is None or parameter.numel() == 0:
            return None
        length, starts = runs(parameter)
        start = int(parameter.storage_offset()) * parameter.element_size()
        end = starts[-1] + length if starts else parameter.untyped_storage().nbytes()
        found: list[Fill] = []
        for seen in memory.fills.values():
            if seen.end <= start or end <= seen.start:
                continue
            same = (seen.shape, seen.stride, seen.start) == (parameter.shape, parameter.stride(), start)
            whole = same or (seen.solid and seen.start <= start and end <= seen.end)
            if whole:
                found.clear()
            found.append(_fill_of(seen, parameter, whole))
        return replace(found[-1], before=tuple(found[:-1])) if found else None

    def _add(
        self,
        function: str,
        arguments: Mapping[str, Any],
        tensor: Tensor,
        place: Place | None,
        key: int | Tensor | None,
        seconds: float,
        random: bool,
        source: Tensor | None,
    ) -> None:
        elements, size = tensor.numel(), tensor.element_size()
        drawn = (
            0 if elements == 0 else self._remember(function, arguments, tensor, place, key, source, random)
        )
        row = self.functions.get(function)
        if row is None:
            row = self.functions[function] = Row()
        row.calls += 1
        row.elements += elements
        row.bytes += elements * size
        row.seconds += seconds
        row.redrawn += drawn // size
        if self._trace is not None and elements > 0:
            self._trace.filled(function, arguments, tensor, place, key, seconds, random)

    def _remember(
        self,
        function: str,
        arguments: Mapping[str, Any],
        tensor: Tensor,
        place: Place | None,
        key: int | Tensor | None,
        source: Tensor | None,
        random: bool = False,
    ) -> int:
        """Keep what filled these bytes, or what they are a copy of. How many were drawn before and are drawn again."""
        copied = None if source is None else self._last(source)
        if copied is not None:
            same = here(source)[0].shape, place  # type: ignore[arg-type]
            copied = copied if copied.whole and (copied.shape, copied.place) == same else None
        size, offset, storage = tensor.element_size(), int(tensor.storage_offset()), tensor.untyped_storage()
        shape, stride, bytes_filled = tensor.shape, tensor.stride(), tensor.numel() * size
        length, starts = runs(tensor)
        solid, start = length == bytes_filled, offset * size
        if solid:
            end = start + bytes_filled
        else:
            end = start + size + size * sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        memory, view = self._memory.get(storage), (offset, shape, stride)
        if memory is None:
            memory = self._memory[storage] = Memory()
        if solid and bytes_filled == storage.nbytes():
            memory.fills.clear()
        else:  # so that a place that is filled again and again is remembered once, and in order
            memory.fills.pop(view, None)
        memory.fills[view] = Seen(
            function, arguments, key, shape, place, stride, offset, tensor.dtype, start, end, solid, copied
        )
        return sum(memory.drawn.add(start, start + length) for start in starts) if random else 0

    def _follow(self, tensor: Tensor, clone: Tensor) -> None:
        """Remember that a tensor is a clone, if anything is known of the original."""
        if clone.layout != torch.strided or clone.is_meta:
            return
        try:
            (original, _), (local, place) = here(tensor), here(clone)
        except RuntimeError:  # of shards, and nobody knows where they belong
            return
        if original.untyped_storage() in self._memory:
            self._remember("Tensor.clone", {}, local, place, None, tensor)

    def _fell(self, function: str, filename: str, line: int, reason: str) -> bool:
        """Note random values of torch's, and return whether they are the first from this place."""
        place = (function, filename, line)
        entry = self._fallthrough.setdefault(place, Fallthrough(*place, reason))
        entry.calls += 1
        return entry.calls == 1

    def _took_key(self, function: str, filename: str, line: int) -> None:
        """Note a fill without a name where fills have keys by name."""
        place = (function, filename, line)
        self._unnamed.setdefault(place, Unnamed(*place)).calls += 1

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        rows = sorted(self.functions.items(), key=lambda item: -item[1].seconds)
        lines = [(name, row) for name, row in rows]
        lines.append(("total", self.total))
        width = max(len(name) for name, _ in [("function", None), *lines])
        yield f"{'function':{width}} {'calls':>9} {'elements':>15} {'drawn again':>15} {'MiB':>11} {'seconds':>10}"
        for name, row in lines:
            yield (
                f"{name:{width}} {row.calls:9,} {row.elements:15,} {row.redrawn:15,} "
                f"{row.bytes / 2**20:11,.1f} {row.seconds:10.4f}"
            )
        for fell in self.fallthrough:
            why = f": {fell.reason}" if fell.reason else ""
            yield f"drawn by torch, {fell.calls}×: {fell.function} at {fell.filename}:{fell.line}{why}"
        for fill in self.unnamed:
            yield no_name(fill)


def no_name(fill: Unnamed) -> str:
    place = f"{fill.filename}:{fill.line}"
    return f"key from the generator, not by name, {fill.calls}×: {fill.function} at {place}"


def _fill_of(seen: Seen, parameter: Tensor, whole: bool) -> Fill:
    return Fill(
        seen.function,
        seen.arguments,
        seen.key,
        whole,
        seen.shape,
        seen.stride,
        seen.offset - int(parameter.storage_offset()),
        seen.dtype,
        source=seen.source,
        place=seen.place,
    )


def _with_numbers(fill: Fill | None) -> Fill | None:
    """The same with numbers for keys: a key on a GPU is waited for here, and not when a fill or a copy is recorded."""
    if fill is None:
        return None
    key: Any = fill.key
    return replace(
        fill,
        key=int(key.item()) % 2**64 if isinstance(key, Tensor) else key,
        before=tuple(earlier for earlier in map(_with_numbers, fill.before) if earlier),
        source=_with_numbers(fill.source),
    )
