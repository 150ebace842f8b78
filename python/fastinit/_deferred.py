"""Models that are built without memory or values, and drawn later, where they belong: ``deferred`` (contract C12).

A dispatch mode sees every operation of the block. Allocations come out on the meta device. What is done to such tensors is
logged, with the keys that their fills take; ``fastinit._steps`` has what a log is, and ``fastinit.recipe`` what becomes of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from fastinit import _enabled
from fastinit._check.sites import Site, call_site
from fastinit._enabled import fill as fills
from fastinit._enabled import patch
from fastinit._enabled.memory import runs
from fastinit._parts import Part, is_part
from fastinit._steps import (
    CONSTANT,
    MOST_EMBEDDED,
    Drawn,
    Entry,
    Lost,
    Made,
    Memory,
    Ref,
    constant,
    made,
    same_bits,
    stand_in,
)
from fastinit.recipe import Recipe, by_first_name, named_attributes, named_tensors

aten = torch.ops.aten
EMPTY = {
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.empty_like.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
}
ZEROS = {aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default}
ONES = {aten.ones.default, aten.ones_like.default, aten.new_ones.default}
FULL = {aten.full.default: 1, aten.full_like.default: 1, aten.new_full.default: 2}  # where the value stands
ALLOCATIONS = EMPTY | ZEROS | ONES | set(FULL)
OVERWRITING = {aten.fill_.Scalar, aten.fill_.Tensor, aten.zero_.default, aten.copy_.default}
MEMORY = {aten.set_, aten.resize_, aten.resize_as_}  # they exchange or change the memory of a tensor


class Log:
    """What was done in a block, to which memory."""

    def __init__(self, call_sites: bool) -> None:
        self.memory: WeakKeyDictionary[torch.UntypedStorage, Memory] = WeakKeyDictionary()
        self.numbers = count()
        self.call_sites = call_sites

    def of(self, tensor: Tensor) -> Memory | None:
        return self.memory.get(tensor.untyped_storage())

    def new(self, tensor: Tensor, device: str) -> Memory:
        """Begin anew with the memory of a tensor."""
        storage = tensor.untyped_storage()
        old = self.memory.get(storage)
        memory = self.memory[storage] = Memory(storage.nbytes(), device, call_site(self.call_sites))
        if old is not None:
            memory.draws = old.draws
        return memory

    def ref(self, tensor: Tensor) -> Ref:
        """A tensor as it is now. If nobody has seen how it was made: its values, or that they are lost."""
        memory = self.of(tensor)
        if memory is None:
            memory = self.new(tensor, str(tensor.device))
            if tensor.is_meta:
                memory.lost, memory.site = "it was made outside of the block", None
            else:
                whole = torch.empty(0, dtype=torch.uint8, device=tensor.device)
                whole.set_(tensor.untyped_storage())
                self.add(memory, CONSTANT, whole.clone(), (geometry(whole, memory),))
        return geometry(tensor, memory)

    def add(
        self,
        memory: Memory,
        function: str,
        arguments: Any,
        out: tuple[Ref | None, ...],
        key: Any = None,
        place: Any = None,
    ) -> Entry:
        entry = Entry(next(self.numbers), function, arguments, out, key, place, self.site())
        memory.entries.append(entry)
        return entry

    def site(self) -> Site | None:
        return call_site() if self.call_sites else None

    def whole(self, tensor: Tensor) -> bool:
        """Whether a tensor is all of its memory."""
        size = tensor.numel() * tensor.element_size()
        return size == tensor.untyped_storage().nbytes() and runs(tensor)[0] == size

    def fill(self, tensor: Tensor, function: str, arguments: Any, key: Any = None, place: Any = None) -> None:
        """Note a fill, or values that are put there."""
        memory = self.of(tensor)
        if self.whole(tensor) and place is None:
            memory = self.new(tensor, memory.device if memory else str(tensor.device))
        if memory is not None:  # else it is a part of something real whose values will count
            entry = self.add(memory, function, arguments, (geometry(tensor, memory),), key, place)
            if key is not None:
                memory.draws.append(Drawn(function, arguments, tensor.numel(), entry.site))

    def draw(self, tensor: Tensor) -> Tensor:
        """The values of a tensor as they are now."""
        if not tensor.is_meta:
            return tensor
        ref = self.ref(tensor)
        try:
            with _disable_current_modes(), torch.no_grad():
                return made(ref).draw()
        except Lost as lost:
            raise RuntimeError(f"a deferred tensor cannot be read: {lost}") from None


def geometry(tensor: Tensor, memory: Memory) -> Ref:
    if tensor.is_conj() or tensor.is_neg():
        raise NotImplementedError("conjugated and negated views of deferred tensors are not supported")
    return Ref(memory, tensor.dtype, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees the operations of a block."""

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def __init__(self, log: Log) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.log = log

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(is_other(tensor) for tensor in tensors) or func.namespace == "prim":
            return func(*args, **kwargs)
        if func in ALLOCATIONS and kwargs.get("layout") in (None, torch.strided):
            return self.allocate(func, args, kwargs)
        if not any(tensor.is_meta for tensor in tensors):
            return self.run(func, args, kwargs)
        return self.postpone(func, args, kwargs)

    # ---- Memory ----------------------------------------------------------------------------------------------

    def allocate(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        device = self.device_of(args, kwargs)
        kwargs |= {"device": torch.device("meta")}
        kwargs.pop("pin_memory", None)
        result: Tensor = func(*args, **kwargs)
        memory = self.log.new(result, device)
        if func in EMPTY or result.numel() == 0:
            return result
        if func in FULL:
            value = kwargs["fill_value"] if "fill_value" in kwargs else args[FULL[func]]
            value = value.item() if isinstance(value, Tensor) else value
            if type(value) is complex:
                ref = geometry(result, memory)
                self.log.add(memory, "aten.fill_.Scalar", ((ref, value), {}), (None,))
            else:
                self.log.fill(result, "constant_", {"val": value})
        else:
            self.log.fill(result, "zeros_" if func in ZEROS else "ones_", {})
        return result

    def device_of(self, args: Any, kwargs: dict[str, Any]) -> str:
        """Where an operation's result would be."""
        device = kwargs.get("device")
        if device is not None and torch.device(device).type != "meta":
            return str(torch.device(device))
        for tensor in tree_leaves(args):
            if isinstance(tensor, Tensor):
                memory = self.log.of(tensor)
                if memory is not None and memory.device != "meta":
                    return memory.device
                if not tensor.is_meta:
                    return str(tensor.device)
        return "cpu"

    # ---- Operations on tensors that are there ----------------------------------------------------------------

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do it, and note what gave real tensors their values: a parameter may become of them."""
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "meta":
            kwargs["device"] = torch.device(self.device_of(args, kwargs))  # where a deferred tensor would be
        written = written_by(func, args, kwargs)
        known = all(self.small(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor))
        if random(func) or func.overloadpacket in MEMORY or not known:
            result = func(*args, **kwargs)
            for tensor in written:
                self.log.memory.pop(tensor.untyped_storage(), None)
            return result
        if func.namespace == "fastinit" or fills.thread.busy:  # a fill, which is noted as such
            return func(*args, **kwargs)
        read = self.refs(func, args, kwargs, written)
        result = func(*args, **kwargs)
        self.note(func, read, args, kwargs, result, str(self.device_of(args, kwargs)))
        return result

    def small(self, tensor: Tensor) -> bool:
        """Whether the values of a tensor can be derived, or kept."""
        if tensor.layout != torch.strided:
            return False
        return self.log.of(tensor) is not None or tensor.untyped_storage().nbytes() <= MOST_EMBEDDED

    # ---- Operations on tensors that are not ------------------------------------------------------------------

    def postpone(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is torch.ops.fastinit.take_key.default:
            empty = torch.empty(1, dtype=args[0].dtype, device=self.device_of(args, {}))
            return func(empty, *args[1:], **kwargs)
        written = written_by(func, args, kwargs)
        if func.overloadpacket in MEMORY:
            return self.exchange(func, args, kwargs, written)
        if random(func):
            return self.now(func, args, kwargs, written)
        if any(not tensor.is_meta for tensor in written):  # into real memory
            real = tree_map(
                lambda leaf: self.log.draw(leaf) if isinstance(leaf, Tensor) else leaf, (args, kwargs)
            )
            return self.run(func, *real)
        try:
            result = self.shapes(func, args, kwargs)
        except (
            NotImplementedError,
            RuntimeError,
        ):  # it depends on the values, or is unknown to the meta device
            return self.now(func, args, kwargs, written)
        if (
            not any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)) and not written
        ):  # a value is read
            return self.now(func, args, kwargs, written)
        read = self.refs(func, args, kwargs, written)
        self.note(func, read, args, kwargs, result, self.device_of(args, kwargs))
        return result

    def shapes(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do it on the meta device."""

        def to_meta(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor) or leaf.is_meta:
                return leaf
            return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="meta")

        args, kwargs = tree_map(to_meta, (args, kwargs))
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("meta")
        kwargs.pop("pin_memory", None)
        return func(*args, **kwargs)

    def now(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], written: list[Tensor]) -> Any:
        """Draw what is read, do it, and keep the result: the operation draws random numbers itself, or asks for values."""
        leaves, spec = tree_flatten((args, kwargs))
        real = [self.log.draw(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        meta = [(leaf, there) for leaf, there in zip(leaves, real, strict=True) if leaf is not there]
        real_args, real_kwargs = tree_unflatten(real, spec)
        if real_kwargs.get("device") is not None and torch.device(real_kwargs["device"]).type == "meta":
            real_kwargs["device"] = torch.device(self.device_of(args, kwargs))
        result = func(*real_args, **real_kwargs)
        for tensor, there in meta:
            if any(tensor is other for other in written):
                self.log.fill(tensor, CONSTANT, there.clone())
        back = {id(there): tensor for tensor, there in meta}
        return tree_map(lambda leaf: back.get(id(leaf), leaf), result)

    def exchange(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], written: list[Tensor]
    ) -> Any:
        for tensor in (
            leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and not leaf.is_meta
        ):
            raise NotImplementedError(
                f"{func} of a deferred tensor and a real one (of shape {tuple(tensor.shape)})"
            )
        before = {id(tensor): self.log.of(tensor) for tensor in written}
        result = func(*args, **kwargs)
        for tensor in written:
            memory = self.log.of(tensor)
            if (
                memory is not None
                and memory is before[id(tensor)]
                and memory.size != tensor.untyped_storage().nbytes()
            ):
                memory.lost = f"{func.overloadpacket.__name__} changed the size of its memory"
            elif memory is None:
                self.log.new(tensor, "cpu")
        return result

    # ---- The log ---------------------------------------------------------------------------------------------

    def refs(self, func: Any, args: Any, kwargs: Any, written: list[Tensor]) -> Any:
        """The arguments with references in the place of tensors. What the operation overwrites begins anew."""

        def refer(leaf: Any) -> Any:
            return self.log.ref(leaf) if isinstance(leaf, Tensor) else leaf

        overwrites = func in OVERWRITING and self.log.whole(written[0])
        if not overwrites:
            if any(
                not t.is_meta and self.log.of(t) is None for t in written
            ):  # partly other values, which count
                return None
            return tree_map(refer, (args, kwargs))
        rest = tree_map(refer, (args[1:], kwargs))
        old = self.log.of(written[0])
        self.log.new(written[0], old.device if old else str(written[0].device))
        return (self.log.ref(written[0]), *rest[0]), rest[1]

    def note(self, func: Any, read: Any, args: Any, kwargs: Any, result: Any, device: str) -> None:
        """Log an operation that was done: to which memory it wrote."""
        if read is None:
            return
        inputs = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if any(tensor.layout != torch.strided for tensor in results):
            return
        fresh = [t.untyped_storage()._cdata not in inputs for t in results]
        written = written_by(func, args, kwargs)
        if not any(fresh) and not written:
            return  # a view
        name = f"{func.namespace}.{func.overloadpacket.__name__}.{func._overloadname}"
        if func in (aten.fill_.Scalar, aten.zero_.default) and type(args[-1]) is not complex:
            target = self.log.of(written[0])
            assert target is not None
            what = ("zeros_", {}) if func is aten.zero_.default else ("constant_", {"val": args[1]})
            self.log.add(target, *what, (geometry(written[0], target),))
            return
        memory = [self.log.new(t, device) if new else None for t, new in zip(results, fresh, strict=True)]
        out = tuple(geometry(t, m) if m else None for t, m in zip(results, memory, strict=True))
        if func is aten._to_copy.default and read[1].get("device") is not None:
            read[1]["device"] = torch.device(device)
        entry = Entry(next(self.log.numbers), name, read, out, site=self.log.site())
        touched = {id(m): m for m in (*memory, *(self.log.of(t) for t in written)) if m is not None}
        for each in touched.values():
            each.entries.append(entry)


def is_other(tensor: Tensor) -> bool:
    """Whether this is a tensor with a dispatch of its own, or without memory."""
    if is_part(tensor) or type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return True
    return tensor.is_meta and tensor.layout != torch.strided


def random(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


def written_by(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operation writes to."""
    found: list[Tensor] = []
    if not func._schema.is_mutable:
        return found
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            found += [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return found


# ---- Fills ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Fill:
    """A fill in a block, of a tensor that may not be there."""

    log: Log
    tensor: Tensor

    def by(self, ours: Callable[..., Any]) -> Callable[..., Any]:
        """The function without the block: of what is not there, it fills a part without elements."""

        def fill(tensor: Tensor, **arguments: Any) -> Any:
            local = tensor.local if isinstance(tensor, Part) else tensor
            with _disable_current_modes():
                if local.is_meta and tensor.numel() > 0:
                    device = self.log.ref(local).memory.device
                    original, tensor = tensor, stand_in(tuple(tensor.shape), tensor.dtype, device)
                    tensor.original = original
                return ours(tensor, **arguments)

        return fill

    def done(self, label: str, arguments: dict[str, Any], key: int | Tensor | None) -> None:
        tensor, place = (
            (self.tensor.local, self.tensor.place) if isinstance(self.tensor, Part) else (self.tensor, None)
        )
        if tensor.numel() == 0:
            return
        number = int(key.item()) % 2**64 if isinstance(key, Tensor) else key
        plain = {k: v.item() if isinstance(v, Tensor) else v for k, v in arguments.items()}
        with torch.no_grad():
            self.log.fill(tensor, label.removeprefix("Tensor."), plain, number, place)


class Thread(threading.local):
    def __init__(self) -> None:
        self.logs: list[Log] = []


thread = Thread()


def _fill(tensor: Any) -> Fill | None:
    if not thread.logs or not isinstance(tensor, Tensor):
        return None
    local = tensor.local if isinstance(tensor, Part) else tensor
    return None if is_other(local) or local.layout != torch.strided else Fill(thread.logs[-1], tensor)


fills.deferring = _fill


# ---- Values that come from Python and go there, which no dispatch mode sees ----------------------------------


READING = ("numpy", "tolist", "__array__", "__dlpack__")
MAKING = {torch.tensor, torch.as_tensor, torch.asarray}


def method(func: Any, names: tuple[str, ...]) -> Any:
    """Torch's own method, if a function is one of these. What a mode is shown is what the class has, perhaps somebody's patch."""
    for name in names:
        if func is getattr(Tensor, name):
            return getattr(torch._C.TensorBase, name, func)
    return None


class Values(TorchFunctionMode):
    """Sees the functions of a block: torch's own mechanism, so nothing of torch's is exchanged for it."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self.log = log

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if (reads := method(func, READING)) and args[0].is_meta and not is_other(args[0]):
            drawn = self.log.draw(args[0]).requires_grad_(args[0].requires_grad)
            with _disable_current_modes():
                return reads(drawn, *args[1:], **kwargs)
        # On the meta device, where a deferred tensor is, Python's numbers would be lost.
        device = kwargs.get("device")
        if makes := method(func, ("new_tensor",)):
            if args[0].is_meta if device is None else torch.device(device).type == "meta":
                kwargs["device"] = "cpu"
            return makes(*args, **kwargs)
        if func in MAKING and device is not None and torch.device(device).type == "meta":
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


patch.SEEING_ONLY.add(Values)


class Deferred:
    """What a block of ``deferred`` saw."""

    def __init__(self, call_sites: bool = False) -> None:
        self._log = Log(call_sites)

    def recipe(self, model: nn.Module) -> Recipe:
        """Return how each parameter and buffer of a model was made. Call it before the model is sharded or converted.

        Args:
            model: the model, which was built in the block.

        Raises:
            RuntimeError: if tensors were made in ways that cannot be repeated. The error names all of them, the reasons, and
                the lines that made them.

        Returns:
            A ``Recipe``.
        """
        unregistered = ((name, t) for name, t in named_attributes(model) if t.is_meta)
        named, tied = by_first_name((*named_tensors(model), *unregistered))
        tensors, lost = {}, []
        for name, tensor in named.items():
            try:
                tensors[name] = self._made(tensor)
            except Lost as why:
                memory = None if is_part(tensor) or not tensor.is_meta else self._log.of(tensor)
                line = f"{memory.site.file}:{memory.site.line}" if memory and memory.site else ""
                lost.append(f"{name}: {why}" + (f" ({line})" if line else ""))
        if lost:
            raise RuntimeError("these tensors cannot be made again:\n" + "\n".join(lost))
        return Recipe(tensors, tied)

    def _made(self, tensor: Tensor) -> Made:
        if is_part(tensor):
            raise Lost("it is sharded: ask for the recipe before that")
        if tensor.is_meta and self._log.of(tensor) is None:
            raise Lost("it was made outside of the block, or converted after it")
        if tensor.is_meta:
            return made(geometry(tensor, self._log.of(tensor)))  # type: ignore[arg-type]
        if self._log.of(tensor) is not None:
            try:
                found = made(self._log.ref(tensor))
                found.check()
            except (Lost, NotImplementedError, RuntimeError, ValueError):
                return constant(tensor)
            derived = found.exact or tensor.numel() * tensor.element_size() > MOST_EMBEDDED
            if derived and same_bits(found.draw(), tensor):
                return found
        return constant(tensor)


@contextmanager
def deferred(*, call_sites: bool = False) -> Iterator[Deferred]:
    """Build a model without memory and without values. ``Recipe.materialize_`` draws them later, where they belong.

    In the block, allocated tensors (``empty``, ``zeros``, ``ones``, ``full`` and their relatives) come out on the meta
    device. Fills of them are logged with the keys that they take, so the generator moves as if they were drawn.
    Every other operation on them is logged, too. Operations on other tensors run as usual. Code that reads a value
    (``item``, ``tolist``, ``numpy``, a comparison in an ``if``) gets it: the value is drawn for that.

    The block is also one of ``enabled()``, so the functions of ``torch.nn.init`` are fastinit's. It is for the construction
    of models, and belongs to this thread.

    Args:
        call_sites: remember where in the program each fill was called, for ``Recipe.check``. Functions of other libraries are
            not exchanged then, as in ``enabled``.

    Returns:
        A context manager that gives a ``Deferred``. Its method ``recipe`` says how a model was made.

    Example:
        >>> import fastinit, torch
        >>> with fastinit.deferred() as deferred:
        ...     model = torch.nn.Linear(30, 20)
        >>> model.weight.device.type
        'meta'
        >>> recipe = deferred.recipe(model)
        >>> _ = recipe.materialize_(model)
        >>> model.weight.device.type
        'cpu'
    """
    block = Deferred(call_sites)
    with ExitStack() as stack:
        stack.enter_context(_enabled.enabled(equivalents=not call_sites))
        logs = thread.logs
        logs.append(block._log)
        stack.callback(logs.remove, block._log)
        stack.enter_context(Values(block._log))
        stack.enter_context(Recorder(block._log))
        yield block
