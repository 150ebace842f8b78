"""What was done to make a tensor, as plain data, and doing it again (contract C12).

A tensor is made in pieces of memory, which are numbered. A step is a fill by one of fastinit's functions, an operator of torch
(``aten.mul_.Tensor``), or values as they are. It reads and writes views of that memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from fastinit._check.sites import Site
from fastinit._enabled.report import INITIALISERS
from fastinit._kernels import Key
from fastinit._parts import Part, Place, piece

MOST_EMBEDDED = 64 * 2**10  # bytes of values that cannot be derived, in a recipe's file
CONSTANT = "constant"  # a step that puts values where they belong
CONSTANTS = ("zeros_", "ones_", "constant_")
# Fills whose values in a 16-bit dtype are those of float32, rounded (contract C8).
ROUNDED = ("normal_", "xavier_normal_", "kaiming_normal_", "sparse_", *CONSTANTS)
PRODUCTS = ("orthogonal_", "delta_orthogonal_")  # equal on other machines to rounding (contract C9)
COPIES = ("aten.clone.default", "aten.copy_.default", "aten._to_copy.default")


# Operators that IEEE 754 fixes, or that move values only; and those that other machines may round in another way.
def operators(names: str) -> frozenset[str]:
    return frozenset(f"aten.{name}" for name in names.split())


EXACT = operators("""
    clone.default copy_.default _to_copy.default cat.default stack.default repeat.default flip.default roll.default
    arange.default arange.start arange.start_step eye.default eye.m tril.default triu.default tril_.default triu_.default
    constant_pad_nd.default index_select.default index.Tensor index_put_.default index_fill_.int_Scalar
    masked_fill.Scalar masked_fill_.Scalar where.self where.ScalarSelf where.ScalarOther fill_.Scalar fill_.Tensor
    zero_.default add.Tensor add_.Tensor add.Scalar add_.Scalar sub.Tensor sub_.Tensor rsub.Scalar mul.Tensor mul_.Tensor
    mul.Scalar mul_.Scalar div.Tensor div_.Tensor div.Scalar div_.Scalar neg.default neg_.default abs.default abs_.default
    sqrt.default sqrt_.default reciprocal.default reciprocal_.default clamp.default clamp_.default clamp_min.default
    clamp_min_.default clamp_max_.default floor.default ceil.default round.default sign.default sgn.default maximum.default
    minimum.default eq.Scalar ne.Scalar lt.Scalar le.Scalar gt.Scalar ge.Scalar eq.Tensor lt.Tensor le.Tensor gt.Tensor
    ge.Tensor logical_not.default logical_and.default bitwise_not.default bitwise_and.Tensor floor_divide.default
    remainder.Scalar diag_embed.default scalar_tensor.default unfold_copy.default
""")
INEXACT = operators("""
    linspace.default logspace.default pow.Scalar pow.Tensor_Scalar pow.Tensor_Tensor pow_.Scalar rsqrt.default
    rsqrt_.default log.default log_.default log2.default log1p.default exp.default exp_.default exp2.default expm1.default
    sin.default cos.default sinh.default tanh.default sigmoid.default erf.default erf_.default erfinv.default
    erfinv_.default atanh.default logit.default softplus.default norm.ScalarOpt_dim norm.Scalar
    linalg_vector_norm.default norm_except_dim.default sum.default sum.dim_IntList mean.default mean.dim cumsum.default
    prod.default std.correction var.correction mm.default mv.default bmm.default dot.default addmm.default addmv.default
    outer.default lerp_.Scalar _weight_norm_interface.default div.out clamp_min.out linalg_householder_product.default
    geqrf.default addcmul.default addcdiv.default square.default
""")


@dataclass(frozen=True, slots=True)
class View:
    """A tensor in a piece of memory."""

    memory: int
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def of(self, memory: Tensor) -> Tensor:
        """This view of a piece of memory, which is any tensor there."""
        view = torch.empty(0, dtype=self.dtype, device=memory.device)
        return view.set_(memory.untyped_storage(), self.offset, self.size, self.stride)

    @property
    def end(self) -> int:
        """How many bytes of the memory there must be."""
        if 0 in self.size:
            return self.offset * self.dtype.itemsize
        last = sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        return (self.offset + last + 1) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was done.

    Attributes:
        function: what did it.
        arguments: of a fill a dict; of an operator its positional arguments and a dict of the others, with views where
            tensors were; of a constant the tensor.
        out: the views that were written, those of an operator's results in their order (None for what is no new tensor).
        key: the key of a random fill.
        place: for a fill of a part, where in the whole it lies.
        site: where in the program it was done, if this process did it.
    """

    function: str
    arguments: Any
    out: tuple[View | None, ...]
    key: int | None = None
    place: Place | None = None
    site: Site | None = field(default=None, compare=False, repr=False)

    @property
    def is_fill(self) -> bool:
        return self.function in INITIALISERS

    def fill(self, tensor: Tensor) -> None:
        """Fill a tensor, of which only a part may be here."""
        source = {} if self.key is None else {"generator": Key(self.key)}
        INITIALISERS[self.function](tensor, **self.arguments, **source)

    def try_on(self, view: View) -> None:
        """Raise what a fill of this view would raise, before there is any memory."""
        self.fill(stand_in(self.place.shape if self.place else view.size, view.dtype))


def stand_in(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str = "cpu") -> Part:
    """A part without elements: a fill of it checks everything, takes its key, and writes nothing."""
    dims = max(len(shape), 1)
    return Part(
        torch.empty((0,) * dims, dtype=dtype, device=device), Place(shape or (1,), (((0, 0),),) * dims)
    )


@dataclass(frozen=True, slots=True)
class Drawn:
    """A random fill, as far as ``fastinit check`` asks for it."""

    function: str
    arguments: Any
    elements: int
    site: Site | None


@dataclass(frozen=True, slots=True)
class Made:
    """How one tensor was made.

    Attributes:
        result: the tensor.
        memory: the size of each piece of memory, in bytes, and the device that it was on.
        steps: what was done there, in order.
        draws: all random fills of it that this process was asked for, those included that were overwritten.
        site: where in the program its memory was taken.
    """

    result: View
    memory: tuple[tuple[int, str], ...]
    steps: tuple[Step, ...]
    draws: tuple[Drawn, ...] = field(default=(), compare=False, repr=False)
    site: Site | None = field(default=None, compare=False, repr=False)

    @property
    def only(self) -> Step | None:
        """The one fill that made all of it, or None."""
        if len(self.steps) != 1:
            return None
        (step,) = self.steps
        return step if step.is_fill and step.out == (self.result,) and step.place is None else None

    @property
    def exact(self) -> bool:
        """Whether every machine gets the same bits."""
        return all(
            step.function not in PRODUCTS if step.is_fill else step.function in {CONSTANT, *EXACT}
            for step in self.steps
        )

    @property
    def fills(self) -> tuple[tuple[Step, int, int], ...] | None:
        """The fills that made it, if each is one of rows: a step, the first row, and how many.

        The first is one of all rows. Then any part of the tensor can be filled by itself. ``None`` if something else was done.
        """
        if not self.steps or any(not step.is_fill or step.place is not None for step in self.steps):
            return None
        found = []
        for number, step in enumerate(self.steps):
            (out,) = step.out
            rows = None if out is None else self.rows(out)
            if rows is None or (number > 0 and step.function not in CONSTANTS):
                return None
            found.append((step, *rows))
        rows_of_all = self.result.size[0] if self.result.size else 1
        return tuple(found) if found[0][1:] == (0, rows_of_all) else None

    def rows(self, view: View) -> tuple[int, int] | None:
        """Which rows of the tensor a view is: the first, and how many. ``None`` if it is something else."""
        whole = self.result
        if view == whole:
            return 0, whole.size[0] if whole.size else 1
        if not whole.size or (view.memory, view.dtype) != (whole.memory, whole.dtype):
            return None
        inner = whole.size[1:], whole.stride[1:]
        if (view.size, view.stride) == inner:
            length = 1
        elif (view.size[1:], view.stride[1:]) == inner and view.stride[:1] == whole.stride[:1]:
            length = view.size[0]
        else:
            return None
        step = max(whole.stride[0], 1)
        first, rest = divmod(view.offset - whole.offset, step)
        return (first, length) if rest == 0 and first >= 0 and first + length <= whole.size[0] else None

    def fill(self, tensor: Tensor) -> None:
        """Do the fills: of a tensor, or of a part of it. There must be nothing else to be done (``fills``)."""
        for step, first, length in self.fills or ():
            if length == (tensor.shape[0] if tensor.dim() else 1):
                step.fill(tensor)
            else:
                step.fill(piece(tensor, 0, first, length))

    def check(self) -> None:
        """Raise an error if the steps cannot be done. No memory is taken for that."""
        memory = [torch.empty(size, dtype=torch.uint8, device="meta") for size, _ in self.memory]
        made = set()
        for step in self.steps:
            for view in (*step.out, *(v for v in tree_leaves(step.arguments) if isinstance(v, View))):
                if view is not None and view.end > self.memory[view.memory][0]:
                    raise ValueError(f"{step.function}: a tensor goes beyond its memory")
            if step.is_fill:
                (out,) = step.out
                assert out is not None
                step.try_on(out)
                if step.place is not None and step.place.sizes() != out.size:
                    raise ValueError(f"{step.function}: a part of another size")
            elif step.function == CONSTANT:
                (out,) = step.out
                assert out is not None
                if (tuple(step.arguments.shape), step.arguments.dtype) != (out.size, out.dtype):
                    raise ValueError("the values are not of their tensor's shape and dtype")
            else:
                found = call(step, memory, "meta")
                for view, result in zip(step.out, found, strict=True):
                    if view is not None and (view.size, view.dtype) != (tuple(result.shape), result.dtype):
                        raise ValueError(
                            f"{step.function} gives a tensor of {tuple(result.shape)}, not {view.size}"
                        )
            made |= {view.memory for view in step.out if view is not None}
        if self.result.end > self.memory[self.result.memory][0]:
            raise ValueError("the tensor goes beyond its memory")

    def draw(self, device: torch.device | str | None = None) -> Tensor:
        """Make the tensor. Fills alone may be done on another device; the rest is done where it was done at first."""
        fills = all(step.is_fill or step.function == CONSTANT for step in self.steps)
        memory: dict[int, Tensor] = {}
        last = {self.result.memory: len(self.steps)}
        for number, step in enumerate(self.steps):
            for view in tree_leaves((step.arguments, step.out)):
                if isinstance(view, View):
                    last[view.memory] = max(number, last.get(view.memory, 0))

        def at(number: int) -> Tensor:
            if number not in memory:
                size, made_on = self.memory[number]
                where = device if fills and device is not None else made_on
                memory[number] = torch.zeros(size, dtype=torch.uint8, device=where)
            return memory[number]

        for number, step in enumerate(self.steps):
            if step.is_fill or step.function == CONSTANT:
                (out,) = step.out
                assert out is not None
                if out.memory not in memory and self.fills_memory(out):
                    size, made_on = self.memory[out.memory]
                    where = device if fills and device is not None else made_on
                    memory[out.memory] = torch.empty(size, dtype=torch.uint8, device=where)
                view = out.of(at(out.memory))
                if step.is_fill:
                    step.fill(view if step.place is None else Part(view, step.place))
                else:
                    view.copy_(step.arguments)
            else:
                for view, result in zip(step.out, call(step, LazyMemory(at)), strict=True):
                    if view is None:
                        continue
                    same = (tuple(result.stride()), result.storage_offset()) == (view.stride, view.offset)
                    if same and result.untyped_storage().nbytes() >= self.memory[view.memory][0]:
                        memory[view.memory] = result
                    else:
                        view.of(at(view.memory)).copy_(result)
            for old in [number_of for number_of in memory if last.get(number_of, -1) <= number]:
                del memory[old]
        return self.result.of(at(self.result.memory))

    def fills_memory(self, view: View) -> bool:
        """Whether a view covers all of its memory."""
        elements = 1
        for stride, size in sorted(zip(view.stride, view.size, strict=True)):
            if size != 1 and stride != elements:
                return False
            elements *= size
        return view.offset == 0 and elements * view.dtype.itemsize == self.memory[view.memory][0]

    def in_dtype(self, dtype: torch.dtype) -> Made | None:
        """The same made in another dtype with the values rounded, if a single fill can do that."""
        step = self.only
        sixteen = dtype in (torch.bfloat16, torch.float16)
        if step is None or self.result.dtype != torch.float32 or not sixteen or step.function not in ROUNDED:
            return None
        size, device = self.memory[self.result.memory]
        result = replace(self.result, dtype=dtype)
        result = replace(result, memory=0)
        only = replace(step, out=(result,))
        made = replace(self, result=result, memory=((size // 2, device),), steps=(only,))
        try:
            made.check()
        except Exception:  # the deviation may be too large for the dtype
            return None
        return made


@dataclass
class LazyMemory:
    """Pieces of memory that are taken when something is written to them."""

    at: Callable[[int], Tensor]

    def __getitem__(self, number: int) -> Tensor:
        return self.at(number)


def call(step: Step, memory: Any, device: str | None = None) -> list[Any]:
    """Call an operator with the tensors that its views stand for; on another device, if one is named."""
    args, kwargs = tree_map(
        lambda leaf: leaf.of(memory[leaf.memory]) if isinstance(leaf, View) else leaf, step.arguments
    )
    if device is not None and ("device" in kwargs or takes_device(step.function)):
        kwargs = {**kwargs, "device": torch.device(device)}
    with torch.no_grad():
        found = operator(step.function)(*args, **kwargs)
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]


def operator(name: str) -> Any:
    space, packet, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, space), packet), overload)


def takes_device(name: str) -> bool:
    arguments = operator(name)._schema.arguments
    tensors = any("Tensor" in str(argument.type) for argument in arguments)
    return not tensors and any(argument.name == "device" for argument in arguments)


def cut(whole: Tensor, place: Place) -> Tensor:
    """The elements of a whole that a place holds."""
    whole = whole.reshape(-1) if place.flat else whole
    for dim, runs in enumerate(place.runs):
        pieces = [whole.narrow(dim, first, length) for first, length in runs]
        whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)
    return whole


def constant(tensor: Tensor) -> Made:
    """A tensor that is what it is."""
    values = tensor.detach().clone(memory_format=torch.contiguous_format)
    result = View(0, values.dtype, tuple(values.shape), values.stride(), 0)
    memory = ((values.untyped_storage().nbytes(), str(values.device)),)
    return Made(result, memory, (Step(CONSTANT, values, (result,)),))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal to the last bit, NaNs and the signs of zeros included."""
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    if torch.equal(a, b) and not a.is_floating_point() and not a.is_complex():
        return True
    first, second = (t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
    return torch.equal(first, second)


# ---- While it happens ---------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Memory:
    """A piece of memory, from when something filled all of it until something else does."""

    size: int
    device: str
    site: Site | None = None
    entries: list[Entry] = field(default_factory=list)
    lost: str = ""  # why nobody knows what is in it
    draws: list[Drawn] = field(default_factory=list)  # all that there were, of the same storage


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor in a piece of memory, at one time."""

    memory: Memory
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def view(self, number: int) -> View:
        return View(number, self.dtype, self.size, self.stride, self.offset)


@dataclass(eq=False, slots=True)
class Entry:
    """Something that was done: a step with references to memory instead of numbers."""

    number: int
    function: str
    arguments: Any
    out: tuple[Ref | None, ...]
    key: int | None = None
    place: Place | None = None
    site: Site | None = None

    def refs(self) -> Iterator[Ref]:
        for leaf in tree_leaves((self.arguments, self.out)):
            if isinstance(leaf, Ref):
                yield leaf


class Lost(Exception):
    """Nobody knows how a tensor was made."""


def made(ref: Ref, before: float = float("inf")) -> Made:
    """What must be done to have a tensor as it was before a time: the steps that it depends on, and no others.

    Raises:
        Lost: if nobody knows.
    """
    needed: dict[int, Entry] = {}
    seen: dict[Memory, float] = {}
    waiting = [(ref.memory, before)]
    while waiting:
        memory, time = waiting.pop()
        if seen.get(memory, -1.0) >= time:
            continue
        seen[memory] = time
        if memory.lost:
            raise Lost(memory.lost)
        for entry in memory.entries:
            if entry.number < time and entry.number not in needed:
                needed[entry.number] = entry
                waiting += ((other.memory, entry.number) for other in entry.refs())
    entries = [needed[number] for number in sorted(needed)]
    copied = one_copy(ref, entries)
    if copied is not None:
        return copied
    numbers: dict[Memory, int] = {ref.memory: 0}

    def view(leaf: Any) -> Any:
        if not isinstance(leaf, Ref):
            return leaf
        return leaf.view(numbers.setdefault(leaf.memory, len(numbers)))

    steps = tuple(
        Step(e.function, tree_map(view, e.arguments), tuple(map(view, e.out)), e.key, e.place, e.site)
        for e in entries
    )
    sizes = tuple((memory.size, memory.device) for memory in numbers)
    return Made(view(ref), sizes, steps, tuple(ref.memory.draws), ref.memory.site)


def one_copy(ref: Ref, entries: list[Entry]) -> Made | None:
    """A copy of something that a single fill made is made by the same fill."""
    if not entries or entries[-1].function not in COPIES or ref.memory.entries != entries[-1:]:
        return None
    copy = entries[-1]
    args, _ = copy.arguments
    source, target = (args[1], args[0]) if copy.function == "aten.copy_.default" else (args[0], copy.out[0])
    if not isinstance(source, Ref) or target != ref or source.size != ref.size:
        return None
    found: Made | None = made(source, copy.number)
    if found is not None and found.result.dtype != ref.dtype:
        found = found.in_dtype(ref.dtype)
    if found is None or found.only is None:
        return None
    result = ref.view(0)
    only, memory = replace(found.only, out=(result,)), ref.memory
    return Made(result, ((memory.size, memory.device),), (only,), (*found.draws, *memory.draws), memory.site)
