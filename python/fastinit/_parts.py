"""Parts of a larger tensor: those that ``part_of`` describes, and what a rank holds of a DTensor (contract C10).

A part has the shape of the whole, so that every function sees the dimensions, fans and errors of the whole. The operators
``torch.ops.fastinit.*`` have rules for it here, which fill the tensor that is really there.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.compiler import is_dynamo_compiling
from torch.nn import Parameter

from fastinit._lock import lock

Run = tuple[int, int]  # the first index and how many: of the whole, along one dimension

DRAWING = ("uniform_", "normal_", "trunc_normal_", "sparse_", "orthogonal_", "batched_orthogonal_")


@dataclass(frozen=True)
class Place:
    """Which elements of a whole a tensor holds.

    Attributes:
        shape: the shape of the whole.
        runs: for each dimension of the tensor, the runs of the whole's indices that it holds, one after the other.
        flat: whether the tensor has one dimension, of the whole's row-major indices, and the whole has more.
    """

    shape: tuple[int, ...]
    runs: tuple[tuple[Run, ...], ...]
    flat: bool = False

    @property
    def arguments(self) -> dict[str, list[int]]:
        """What the operators' ``.part`` takes."""
        runs = list(chain.from_iterable(self.runs))
        return {
            "shape": list(self.shape) or [1] * self.flat,  # without one, the tensor would be the whole
            "first": [first for first, _ in runs],
            "length": [length for _, length in runs],
        }

    def sizes(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return tuple(sum(length for _, length in runs) for runs in self.runs)

    def along(self, dimension: int, index: Tensor) -> Tensor:
        """Where indices of the whole along a dimension are in the tensor; negative for those that it does not hold."""
        found = torch.full_like(index, -1)
        runs = self.runs[dimension]
        starts = accumulate((length for _, length in runs), initial=0)
        for (first, length), start in zip(runs, starts, strict=False):
            found = torch.where((first <= index) & (index < first + length), index - first + start, found)
        return found

    def narrow(self, local: Tensor, dim: int, first: int, length: int) -> tuple[Tensor, Place]:
        """What the tensor holds of the whole's indices from ``first`` on along one dimension."""
        if self.flat:
            if dim != 0:
                raise ValueError("a flat partition has no pieces along other dimensions than the first")
            row = math.prod(self.shape[1:])
            first, length, dim = first * row, length * row, 0
        runs, start = [], -1
        at = 0
        for begin, size in self.runs[dim]:
            low, high = max(begin, first), min(begin + size, first + length)
            if low < high:
                runs.append((low, high - low))
                start = at + low - begin if start < 0 else start
            at += size
        runs = runs or [(0, 0)]
        held = sum(size for _, size in runs)
        here = (*self.runs[:dim], tuple(runs), *self.runs[dim + 1 :])
        return local.narrow(dim, max(start, 0), held), Place(self.shape, here, self.flat)

    def centre(self, local: Tensor, field: Sequence[int]) -> tuple[Tensor, Place]:
        """What the tensor, part of a convolution's weight, holds of the matrix at this position of the field."""
        outputs, inputs, *sizes = self.shape
        matrix = (outputs, inputs)
        if self.flat:
            step, [(first, length)] = math.prod(sizes), self.runs[0]
            position = 0
            for index, size in zip(field, sizes, strict=True):
                position = position * size + index
            begin, end = (-(-(bound - position) // step) for bound in (first, first + length))
            return local[begin * step + position - first :: step], Place(
                matrix, (((begin, end - begin),),), True
            )
        for index, runs in zip(field, self.runs[2:], strict=True):
            starts = accumulate((length for _, length in runs), initial=0)
            here = [
                index - first + start
                for (first, length), start in zip(runs, starts, strict=False)
                if first <= index < first + length
            ]
            if not here:
                return local.new_empty((0, 0)), Place(matrix, (((0, 0),), ((0, 0),)))
            local = local.select(2, here[0])
        return local, Place(matrix, self.runs[:2])


class Part(Tensor):
    """A tensor that stands for a whole, of which only a part is there: what ``part_of`` returns.

    It has the whole's shape. fastinit's functions fill it; for everything else use ``local``.

    Attributes:
        local: the tensor that is there.
        place: which elements of the whole it holds.
    """

    local: Tensor
    place: Place
    original: Tensor | None = None  # the tensor for which a part without elements stands, if it does

    @staticmethod
    def __new__(cls, local: Tensor, place: Place) -> Part:
        return Tensor._make_wrapper_subclass(cls, place.shape, dtype=local.dtype, device=local.device)

    def __init__(self, local: Tensor, place: Place) -> None:
        self.local, self.place = local, place

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Part(shape={tuple(self.shape)}, runs={self.place.runs}, local={self.local!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in (torch.ops.aten.fill_.Scalar, torch.ops.aten.fill_.Tensor, torch.ops.aten.zero_.default):
            func(args[0].local, *args[1:])
            increment_version(args[0].local)
            return args[0]
        rule = rules().get(func)
        if rule is None:
            raise NotImplementedError(
                f"{func.__name__} is not defined for a part of a tensor: use part.local, the tensor that is there"
            )
        result = rule(cls, func, types, args, kwargs or {})
        increment_version(args[0].local)  # autograd has seen a change of the part, and not of this
        return result


def piece(tensor: Tensor, dim: int, first: int, length: int) -> Part:
    """A piece of a tensor, or of a part, as a part of the same whole."""
    return Part(*placed_piece(tensor, dim, first, length))


def placed_piece(tensor: Tensor, dim: int, first: int, length: int) -> tuple[Tensor, Place]:
    local, place = here(tensor)
    if place is None:
        place = Place(tuple(tensor.shape), tuple(((0, size),) for size in tensor.shape))
    return place.narrow(local.detach(), dim, first, length)


def part_of(tensor: Tensor, shape: Sequence[int], offset: int | Sequence[int | Sequence[Run]]) -> Part:
    """Say where a tensor lies in a larger one. Every function of fastinit takes the result in place of a tensor.

    The functions then write what they would write into the whole. They use the whole's fans, and each element gets the value
    that it has there for the same key. Nothing is communicated, and the whole is never in memory. Call the function on
    every rank, including ranks with empty parts, with generators that are in the same state.

    Args:
        tensor: the part itself, with any strides.
        shape: the shape of the whole.
        offset: where the part begins, as one index for each dimension. A flat partition (a tensor of one dimension, of a
            whole that has more) takes one row-major index. If the part has several pieces, an entry may also be
            a list of runs ``(first index, length)``, which follow each other along that dimension.

    Raises:
        TypeError: if ``tensor`` is no tensor, or is a part itself.
        ValueError: if the part does not lie within the whole, or ``offset`` fits neither the part nor the whole.

    Returns:
        A tensor of the shape ``shape``, for fastinit's functions only. Its attribute ``local`` is ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> whole, half = torch.empty(6, 4), torch.empty(3, 4)
        >>> _ = fastinit.kaiming_normal_(whole, generator=torch.Generator().manual_seed(0))
        >>> part = fastinit.part_of(half, (6, 4), (3, 0))
        >>> _ = fastinit.kaiming_normal_(part, generator=torch.Generator().manual_seed(0))
        >>> torch.equal(half, whole[3:])
        True
    """
    if not isinstance(tensor, Tensor) or isinstance(tensor, kinds()):
        raise TypeError(f"part_of takes a plain tensor, not {type(tensor).__name__}")
    shape = tuple(map(operator.index, shape))
    entries = listed(offset)
    flat = entries is None and len(shape) != 1
    if entries is None:
        entries = [operator.index(offset)]  # type: ignore[arg-type]
    if flat and tensor.dim() != 1:
        raise ValueError(
            f"one row-major offset is for a flat tensor, but this one has shape {tuple(tensor.shape)}"
        )
    sizes = [math.prod(shape)] if flat else shape
    if not (len(entries) == len(sizes) == tensor.dim()):
        raise ValueError(
            f"a tensor of shape {tuple(tensor.shape)} in a whole of shape {shape} takes one offset for each dimension,"
            f" not {offset!r}"
        )
    runs = []
    for d, (entry, here, size) in enumerate(zip(entries, tensor.shape, sizes, strict=True)):
        pieces = listed(entry)
        mine = (
            [(operator.index(entry), here)]
            if pieces is None
            else [(operator.index(first), operator.index(length)) for first, length in pieces]
        )
        ends = [0] + [first + length for first, length in mine]
        if (
            sum(length for _, length in mine) != here
            or ends[-1] > size
            or any(length < 0 or first < end for (first, length), end in zip(mine, ends, strict=False))
        ):
            raise ValueError(f"dimension {d}: {here} indices at offset {entry!r} do not lie within {size}")
        runs.append(tuple(merged(mine)))
    return Part(tensor.detach(), Place(shape, tuple(runs), flat))


def listed(value: Any) -> list[Any] | None:
    """What is in it; None if it is a number, or nothing at all."""
    try:
        return list(value)
    except TypeError:
        return None


def merged(runs: Iterable[Run]) -> list[Run]:
    """The same indices in as few runs as possible, but at least one."""
    found: list[Run] = []
    for first, length in runs:
        if length == 0:
            continue
        if found and sum(found[-1]) == first:
            found[-1] = found[-1][0], found[-1][1] + length
        else:
            found.append((first, length))
    return found or [(0, 0)]


# ---- DTensor -----------------------------------------------------------------------------------------------


def dtensor() -> Any:
    """The class, if the program has loaded it: that takes a second. A module that is still being loaded has none yet."""
    return getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)


def kinds() -> tuple[type, ...]:
    """The classes of tensors of which only a part is here."""
    found = dtensor()
    return (Part,) if found is None else (Part, found)


def is_part(tensor: Tensor) -> bool:
    """Whether only a part of a tensor is here."""
    kind = type(tensor)
    return kind is not Tensor and kind is not Parameter and isinstance(tensor, kinds())


def local_of(tensor: Tensor) -> Tensor:
    """What is really here of a tensor, whether or not anybody knows where it lies."""
    if isinstance(tensor, Part):
        return tensor.local
    local: Tensor = tensor._local_tensor if is_part(tensor) else tensor  # type: ignore[attr-defined]
    return local


def here(tensor: Tensor) -> tuple[Tensor, Place | None]:
    """What is really here of a tensor, and where in the whole it lies; None if that is all of it.

    Raises:
        RuntimeError: if nobody knows where a DTensor's part lies.
    """
    if not is_part(tensor):
        return tensor, None
    return local_of(tensor), tensor.place if isinstance(tensor, Part) else place_of(tensor)


def place_of(tensor: Any) -> Place:
    """Which elements this rank holds of a DTensor.

    Raises:
        RuntimeError: if its placements do not say that.
    """
    mesh, placements = tensor.device_mesh, tensor.placements
    coordinate = mesh.get_coordinate()
    # Numbers, where a compiler has symbols: it compiles for these sizes.
    shape, here = (tuple(map(int, sizes)) for sizes in (tensor.shape, tensor._local_tensor.shape))
    if coordinate is None:
        return Place(shape, (((0, 0),),), len(shape) != 1)
    try:
        for entry in tensor._spec.shard_order or ():
            if list(entry.mesh_dims) != sorted(entry.mesh_dims):
                raise ValueError(f"dimension {entry.tensor_dim} is not split in the order of the mesh")
        place = split(shape, tuple(mesh.shape), placements, tuple(coordinate))
        if place.sizes() != here:
            raise ValueError(f"by its placements this rank holds {place.sizes()}, but its part is {here}")
    except ValueError as error:
        raise RuntimeError(
            f"fastinit cannot tell which part of the DTensor of shape {shape} and dtype {tensor.dtype} this rank holds: "
            f"{error} (placements {placements}, mesh {tuple(mesh.shape)}, rank {mesh.get_rank()} at {tuple(coordinate)})"
        ) from None
    return place


@lru_cache(maxsize=4096)
def split(
    shape: tuple[int, ...], mesh: tuple[int, ...], placements: tuple[Any, ...], coordinate: tuple[int, ...]
) -> Place:
    """Apply the placements to a shape, from left to right."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.placement_types import _StridedShard

    runs = [[(0, size)] for size in shape]
    for placement, ranks, rank in zip(placements, mesh, coordinate, strict=True):
        if isinstance(
            placement, _StridedShard
        ):  # FSDP over tensor parallel: as if it came after the other split
            pieces = chunks(runs[placement.dim], int(placement.split_factor))
            runs[placement.dim] = [run for piece in pieces for run in chunks(piece, ranks)[rank]]
        elif type(placement) is Shard:
            runs[placement.dim] = chunks(runs[placement.dim], ranks)[rank]
        elif not isinstance(placement, Replicate):
            raise ValueError(f"{placement!r} is not supported")
    return Place(shape, tuple(tuple(merged(along)) for along in runs))


def chunks(runs: Sequence[Run], count: int) -> list[list[Run]]:
    """Cut a list of runs as ``torch.chunk`` cuts a dimension: all of one size but for the last ones."""
    total = sum(length for _, length in runs)
    size = -(-total // count)
    found: list[list[Run]] = [[] for _ in range(count)]
    at = 0
    for first, length in runs:
        while length > 0:
            taken = min(length, size - at % size)
            found[at // size].append((first, taken))
            first, length, at = first + taken, length - taken, at + taken
    return found


# ---- The operators' rules ----------------------------------------------------------------------------------


# Functions that write to what is here of a tensor. A compiler cannot follow them: that is memory of the tensor, and for it
# another tensor. So it gets them as operators. By name: the schema and the function.
functions: dict[str, tuple[str, Callable[..., None]]] = {}
library = torch.library.Library("fastinit", "FRAGMENT")  # type: ignore[no-untyped-call]


def operator_of_parts(schema: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function of a part an operator for compilers. Keyword arguments are not for them."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        name = schema.partition("(")[0]
        functions[name] = schema, function

        def call(tensor: Tensor, *arguments: Any) -> None:
            if is_dynamo_compiling():
                prepare_to_compile()
                with torch.no_grad():
                    getattr(torch.ops.fastinit, name)(tensor, *arguments)
            else:
                function(tensor, *arguments)

        return call

    return decorate


@cache
def rules() -> dict[Any, Callable[..., Any]]:
    """For each operator what it does to a part, as ``torch.library.register_torch_dispatch`` wants it."""

    def take_key(cls: type, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        local, _ = here(args[0])
        return torch.ops.fastinit.take_key(local, **kwargs)

    def filling(op: Any) -> Callable[..., None]:
        def fill(cls: type, func: Any, types: Any, args: Any, kwargs: Any) -> None:
            local, place = here(args[0])
            assert place is not None
            op.part(local, *args[1:], **place.arguments, **kwargs)

        return fill

    def calling(function: Callable[..., None]) -> Callable[..., None]:
        return lambda cls, func, types, args, kwargs: function(*args)

    found: dict[Any, Callable[..., Any]] = {torch.ops.fastinit.take_key.default: take_key}
    for name, (schema, function) in functions.items():
        library.define(schema)  # type: ignore[no-untyped-call]
        found[getattr(torch.ops.fastinit, name).default] = calling(function)
    for name in DRAWING:
        op = getattr(torch.ops.fastinit, name)
        found[op.default] = found[op.key] = filling(op)
    return found


registered: set[type] = set()


def register(kind: Any) -> None:
    if kind in registered:
        return
    with lock:
        if kind not in registered:
            for op, rule in rules().items():
                torch.library.register_torch_dispatch(op, kind, rule)
            registered.add(kind)


def prepare(tensor: Tensor) -> None:
    """What must have been done before an operator is called on a tensor subclass. Raises if it holds no known part."""
    kind = dtensor()
    if kind is not None and isinstance(tensor, kind):
        register(kind)
        place_of(tensor)


def prepare_to_compile() -> None:
    """The same for all tensors that a compiler may meet."""
    kind = dtensor()
    if kind is not None:
        register(kind)


# What torch.compiler.assume_constant_result does, which would load the whole compiler: it calls the function, and goes on.
prepare_to_compile._dynamo_marked_constant = True  # type: ignore[attr-defined]
