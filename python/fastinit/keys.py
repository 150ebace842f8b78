"""Keys that depend on a parameter's name: ``keys_by_name``, and the hash that makes them (contract C11)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn

from fastinit import _C, _kernels
from fastinit._enabled.fill import open_reports
from fastinit._enabled.memory import extent, storage_of
from fastinit._enabled.report import Unnamed, no_name
from fastinit._kernels import Key, Source
from fastinit._lock import lock
from fastinit._parts import Part, is_part
from fastinit._warn import program_line

WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def key_of_name(seed: int, name: str, count: int = 0) -> int:
    """Return the key of a fill by name. The hash is published, and is the same everywhere.

    It is the 64-bit BLAKE2b hash (RFC 7693) of the text ``fastinit:SEED:COUNT:NAME`` in UTF-8. Its hexadecimal digits
    are read as one number. The seed counts modulo 2^64, and both numbers are decimal.

    Args:
        seed: the seed, from -2^63 to 2^64 - 1, as in ``torch.manual_seed``.
        name: the qualified name of the parameter, without what wrappers add (``module.``, ``_orig_mod.``).
        count: how many fills the name had before.

    Raises:
        ValueError: if ``seed`` or ``count`` is out of range.

    Returns:
        The key, from 0 to 2^64 - 1.

    Example:
        >>> import fastinit
        >>> hex(fastinit.key_of_name(0, "lm_head.weight"))  # printf fastinit:0:0:lm_head.weight | b2sum -l 64
        '0x1d8cc94d3dc18d71'
    """
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed must lie in [-2^63, 2^64), but is {seed}")
    if count < 0:
        raise ValueError(f"count must be at least 0, but is {count}")
    text = f"fastinit:{int(seed) % 2**64}:{int(count)}:{name}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def canonical_name(name: str) -> str:
    """Return a qualified name without the parts that wrappers add, such as ``module.`` and ``_orig_mod.``."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


class Names:
    """Which names the tensors of a module have, by identity and, for views of them, by memory."""

    def __init__(self, module: nn.Module, rename: Callable[[str], str] | None) -> None:
        self.module, self.rename = module, rename
        self.known: dict[
            int, tuple[Tensor, str]
        ] = {}  # keeps the tensors, so that no other one gets such an id
        self.memory: dict[int, list[tuple[int, int, bool, str]]] = {}
        self.read()

    def read(self) -> None:
        """Look at the module as it is now."""
        self.known.clear()
        self.memory.clear()
        originals: dict[str, str] = {}
        for original, tensor in (*self.module.named_parameters(), *self.module.named_buffers()):
            if id(tensor) in self.known:
                continue
            name = canonical_name(original)
            if self.rename is not None:
                name = self.rename(name)
            if originals.setdefault(name, original) != original:
                raise ValueError(f"{originals[name]} and {original} would both be called {name}")
            self.known[id(tensor)] = tensor, name
            if (storage := storage_of(tensor)) is not None:
                self.memory.setdefault(storage, []).append((*extent(tensor), is_part(tensor), name))

    def find(self, tensor: Tensor) -> str | None:
        known = self.known.get(id(tensor))
        if known is not None:
            return known[1]
        storage = storage_of(tensor)
        if storage is None or storage not in self.memory:
            return None
        # The local tensor of a DTensor is not the DTensor: who fills it by itself means something else.
        part, told, (start, end) = is_part(tensor), isinstance(tensor, Part), extent(tensor)
        for first, last, of_part, name in self.memory[storage]:
            if first <= start and end <= last and (told or part == of_part):
                return name
        return None

    def name_of(self, tensor: Tensor) -> str | None:
        if isinstance(tensor, Part) and tensor.original is not None:
            tensor = tensor.original
        name = self.find(tensor)
        if name is None:  # a parameter that was put in since?
            self.read()
            name = self.find(tensor)
        return name


class KeysByName:
    """What got its key by name in a block of ``keys_by_name``. ``print`` also shows what did not.

    Attributes:
        seed: the seed of the block.
        fills: how many fills each name had.
    """

    def __init__(self, names: Names, seed: int) -> None:
        self.seed = seed
        self.fills: dict[str, int] = {}
        self._names = names
        self._open = True
        self._unnamed: dict[tuple[str, str, int], Unnamed] = {}

    @property
    def unnamed(self) -> list[Unnamed]:
        """The places of the program that filled tensors without a name, with keys from the generator."""
        return list(self._unnamed.values())

    def __str__(self) -> str:
        named = (
            f"keys by name: {sum(self.fills.values()):,} fills of {len(self.fills):,} names, seed {self.seed}"
        )
        return "\n".join((named, *map(no_name, self.unnamed)))


blocks: ContextVar[tuple[KeysByName, ...]] = ContextVar("fastinit.keys_by_name", default=())
users = 0  # blocks that are open, in all threads


@contextmanager
def keys_by_name(
    module: nn.Module, seed: int = 0, rename: Callable[[str], str] | None = None
) -> Iterator[KeysByName]:
    """Make the values of a module's parameters depend on their names, and on nothing that happens elsewhere.

    In the block, a random fill of a parameter or buffer of the module takes the key
    ``key_of_name(seed, name, count)``. The count is the number of fills that the name had before in the block. The generator
    does not move, not even one that is given with ``generator=``. So a parameter has the same values whatever other modules
    there are, in whatever order they are initialised, and in whatever process. This holds for fastinit's functions. It also
    holds for those of torch in ``fastinit.enabled()``, inside the block or around it.

    A fill of a part of a parameter (a row, a chunk of a fused weight) counts as a fill of its name, through any view:
    everything in the parameter's memory belongs to the parameter. A tied parameter goes by its first name in
    ``named_parameters()``. The parts of a name that wrappers add do not count: ``_orig_mod``, ``module``,
    ``_fsdp_wrapped_module``, ``_checkpoint_wrapped_module``. A tensor that does not belong to the module takes its key from
    the generator, as usual. The result and the reports of ``enabled()`` say where this happened. Code that
    ``torch.compile`` has compiled keeps using the generator.

    Blocks nest. The innermost block that knows a tensor names it. A block belongs to this thread or asyncio task.

    Args:
        module: the module whose parameters and buffers have names. Tensors that are put into it in the block count too.
        seed: the seed, from -2^63 to 2^64 - 1.
        rename: makes the name that counts from the module's name without wrappers' parts. It is for pipeline stages that
            number their layers from 0.

    Raises:
        ValueError: if two tensors would have the same name, or ``seed`` is out of range.

    Returns:
        A context manager that gives a ``KeysByName``, which counts the fills.

    Example:
        >>> import fastinit, torch
        >>> small, large = (torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(n))) for n in (1, 3))
        >>> for model in (small, large):
        ...     with fastinit.keys_by_name(model, seed=0):
        ...         for parameter in reversed(list(model.parameters())):
        ...             _ = fastinit.normal_(parameter)
        >>> torch.equal(small[0].weight, large[0].weight)
        True
    """
    key_of_name(seed, "")
    block = KeysByName(Names(module, rename), seed)
    _use(1)
    try:
        blocks.set((*blocks.get(), block))
        yield block
    finally:
        block._open = False
        blocks.set(tuple(other for other in blocks.get() if other is not block))
        _use(-1)


def _use(change: int) -> None:
    global users
    with lock:
        users += change
        _kernels.named = _fill if users else None
        _C.set_named(users > 0)


def _fill(
    native: Callable[..., None], tensor: Tensor, numbers: tuple[float, ...], source: Source, caller: str
) -> None:
    """Call a native fill with the key that its tensor's name gives, if there is one."""
    here = [block for block in reversed(blocks.get()) if block._open]
    if not here or not isinstance(tensor, Tensor) or isinstance(source, Key):  # a key that was given is meant
        return native(tensor, *numbers, source, caller)
    for block in here:
        name = block._names.name_of(tensor)
        if name is not None:
            break
    else:
        native(tensor, *numbers, source, caller)
        if tensor.numel() > 0 and not tensor.is_meta:
            _tell(here[0], caller)
        return None
    count = block.fills.get(name, 0)
    native(tensor, *numbers, Key(key_of_name(block.seed, name, count)), caller)
    if tensor.numel() > 0 and not tensor.is_meta:  # else it took no key
        block.fills[name] = count + 1
    return None


def _tell(block: KeysByName, function: str) -> None:
    place = (function, *program_line())
    block._unnamed.setdefault(place, Unnamed(*place)).calls += 1
    for report in open_reports():
        report._took_key(*place)
