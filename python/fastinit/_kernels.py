"""The one door to the native kernels: nothing else in the package calls ``fastinit._C`` to fill a tensor.

There are two ways in. ``fastinit._C`` costs the least per call. ``torch.compile`` cannot look into it and gets the same
kernels as ``torch.ops.fastinit``. Both go through torch's dispatcher, and neither tracks gradients.

A fill takes its key from a source: a generator, the default generator of the tensor's device (None), or a ``Key``, which
is the key itself. ``caller`` is the function that error messages name.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._library.effects import EffectType
from torch.compiler import is_compiling, is_dynamo_compiling

from fastinit import _C, _parts
from fastinit import _vmap as _vmap  # registers its rules
from fastinit._C import Key as Key
from fastinit._C import Record as Record

Source = Generator | Key | None  # or, while a compiler traces, a key as a tensor
AnyKey = int | Tensor

# A compiler may drop a fill that nobody reads, but not the key that it takes: every later fill depends on that.
torch.library._register_effectful_op("fastinit::take_key", EffectType.ORDERED)

# While a block of keys_by_name is open anywhere: what gives a fill its source, and calls it.
named: Callable[[Callable[..., None], Tensor, tuple[float, ...], Source, str], None] | None = None


def uniform_(tensor: Tensor, a: float, b: float, source: Source, caller: str = "uniform_") -> None:
    if is_dynamo_compiling():
        _traced("uniform_", tensor, (a, b), source)
    elif named is None:
        _C.uniform_(tensor, a, b, source, caller)
    else:
        named(_C.uniform_, tensor, (a, b), source, caller)


def normal_(tensor: Tensor, mean: float, std: float, source: Source, caller: str = "normal_") -> None:
    if is_dynamo_compiling():
        _traced("normal_", tensor, (mean, std), source)
    elif named is None:
        _C.normal_(tensor, mean, std, source, caller)
    else:
        named(_C.normal_, tensor, (mean, std), source, caller)


def trunc_normal_(tensor: Tensor, mean: float, std: float, a: float, b: float, source: Source) -> None:
    if is_dynamo_compiling():
        _traced("trunc_normal_", tensor, (mean, std, a, b), source)
    elif named is None:
        _C.trunc_normal_(tensor, mean, std, a, b, source)
    else:
        named(_C.trunc_normal_, tensor, (mean, std, a, b), source, "trunc_normal_")


def sparse_(tensor: Tensor, sparsity: float, std: float, source: Source) -> None:
    if is_dynamo_compiling():
        _traced("sparse_", tensor, (sparsity, std), source)
    elif named is None:
        _C.sparse_(tensor, sparsity, std, source)
    else:
        named(_C.sparse_, tensor, (sparsity, std), source, "sparse_")


def orthogonal_(tensor: Tensor, gain: float, source: Source, caller: str = "orthogonal_") -> None:
    if is_dynamo_compiling():
        _traced("orthogonal_", tensor, (gain,), source)
    elif named is None:
        _C.orthogonal_(tensor, gain, source, caller)
    else:
        named(_C.orthogonal_, tensor, (gain,), source, caller)


def batched_orthogonal_(tensor: Tensor, gain: float, source: Source) -> None:
    if is_dynamo_compiling():
        _traced("batched_orthogonal_", tensor, (gain,), source)
    elif named is None:
        _C.batched_orthogonal_(tensor, gain, source)
    else:
        named(_C.batched_orthogonal_, tensor, (gain,), source, "batched_orthogonal_")


def _traced(name: str, tensor: Tensor, numbers: tuple[float, ...], source: Any) -> None:
    """Take the key and fill with it, as two operators."""
    op = getattr(torch.ops.fastinit, name)
    _parts.prepare_to_compile()
    with torch.no_grad():
        if isinstance(source, Tensor):
            op.key(tensor, *numbers, key=source)
        elif tensor.numel() == 0:  # takes no key
            op(tensor, *numbers, generator=source)
        else:
            key = torch.ops.fastinit.take_key(tensor, generator=source)
            op.key(tensor, *numbers, key=key)


# ---- Keys that are given -----------------------------------------------------------------------------------


def source_of(tensor: Tensor, generator: Generator | None, key: AnyKey | None) -> Any:
    """The source that a function's arguments name. A key in it is where the fill can read it."""
    if key is None:
        return generator
    if generator is not None:
        raise ValueError("generator and key are both given, but a fill has one key")
    value = one_key(key)
    if value.device.type != "cpu" and value.device != tensor.device:
        value = value.to(tensor.device)
    return value if is_dynamo_compiling() else Key(value)


def one_key(key: AnyKey) -> Tensor:
    """What may be given as a key, as one int64.

    A key of ``torch.func._random`` is a seed and an offset, in two uint64. With the offset 0 it is the seed.
    """
    if not isinstance(key, Tensor):
        if isinstance(key, bool) or not hasattr(key, "__index__"):
            raise TypeError(f"key must be an int or a tensor, not {type(key).__name__}")
        key = operator.index(key)
        if not -(2**63) <= key < 2**64:
            raise ValueError(f"key must lie in [-2^63, 2^64), but is {key}")
        return torch.tensor(key - 2**64 if key >= 2**63 else key, device="cpu")
    if key.dtype == torch.int64 and key.dim() == 0:
        return key
    if key.dtype == torch.uint64 and key.shape == (2,):
        seed, offset = key.view(torch.int64).unbind()
        mixed = torch.ops.fastinit.member_keys(offset, 1)[0] ^ (FIRST_OF_ZERO - 2**64)
        first: Tensor = seed ^ mixed
        return first
    raise ValueError(
        "key must be one int64 or a key of torch.func._random, but has "
        f"dtype {key.dtype} and shape {tuple(key.shape)}"
    )


FIRST_OF_ZERO = 0xE220A8397B1DCDAF  # the first number of SplitMix64 from the state 0


def split_key(key: AnyKey, count: int) -> Tensor:
    keys: Tensor = torch.ops.fastinit.member_keys(one_key(key), count)
    return keys


def take_key(tensor: Tensor, source: Source, caller: str) -> Any:
    """Take one key for several fills, as a fill of this tensor would take it."""
    taken: list[Any] = []

    def take(tensor: Tensor, source: Source, caller: str) -> None:
        if not is_dynamo_compiling():
            _parts.prepare(tensor)
        if isinstance(source, Key | Tensor):
            taken.append(source)
        else:
            key = torch.ops.fastinit.take_key(tensor, generator=source)
            taken.append(key if is_dynamo_compiling() else Key(key))

    if named is None or is_dynamo_compiling():
        take(tensor, source, caller)
    else:
        named(take, tensor, (), source, caller)
    return taken[0]


def fill_piece(
    function: Callable[..., Any],
    tensor: Tensor,
    piece: tuple[int, int, int],
    numbers: tuple[float, ...],
    key: Any,
) -> None:
    """Fill a piece of a tensor, from an index on along a dimension, as a part of the whole. The key has been taken."""
    transformed = is_compiling() or is_functorch_wrapped_tensor(tensor)
    if not transformed or _parts.is_part(tensor):
        function(_parts.piece(tensor, *piece), *numbers, key)
        return
    # torch's transforms cannot look into such a part, but know the operator.
    local, place = _parts.placed_piece(tensor, *piece)
    value = key.value if isinstance(key, Key) else key
    with torch.no_grad():
        if is_dynamo_compiling():
            _parts.prepare_to_compile()
            op = getattr(torch.ops.fastinit, function.__name__).part
        else:
            op = _vmap.filling(function.__name__, "part")
        op(local, *numbers, **place.arguments, key=value)


def fill_(tensor: Tensor, value: float, caller: str) -> None:
    if is_dynamo_compiling():
        with torch.no_grad():
            tensor.fill_(value)
    elif type(value) is float or (type(value) is int and -(2**63) <= value < 2**63):
        _C.fill_(tensor, value, caller)
    else:  # torch knows what else a scalar can be
        if isinstance(tensor, Tensor):
            _C.check_writable(caller, tensor, one_value=True)
        with torch.no_grad():
            tensor.fill_(value)


def zero_(tensor: Tensor, caller: str) -> None:
    if is_dynamo_compiling():
        with torch.no_grad():
            tensor.zero_()
    else:
        _C.zero_(tensor, caller)


def require_writable(caller: str, tensor: Tensor) -> None:
    """Raise an error if elements of the tensor share memory, or if it must not be written to here."""
    if not is_dynamo_compiling():
        _C.check_writable(caller, tensor)


# ---- Parts -------------------------------------------------------------------------------------------------

ROWS = 4096  # at a time, so that their indices take no more than a few hundred KiB


def pass_on(tensor: Tensor, groups: int, caller: str) -> None:
    """Fill a part with zeros, and with ones where output i of each group meets input i at the middle of the kernel."""
    local, place = _parts.here(tensor)
    assert place is not None
    require_writable(caller, local)
    fill_(local, 0, caller)
    outputs, inputs, *kernel = tensor.shape
    per_group = outputs // groups
    with torch.no_grad():
        matrix, place = place.centre(local, [size // 2 for size in kernel])
        [(begin, length)] = place.runs[0] if place.flat else [(0, 0)]
        end = begin + length
        # A row writes once, at a place of its own: its one, or a zero.
        if matrix.numel() == 0 or local.is_meta:
            pass
        elif place.flat:
            for row in rows(begin // inputs, -(-end // inputs), local):
                index = row * inputs + row % per_group
                held = (row % per_group < inputs) & (begin <= index) & (index < end)
                index = torch.where(held, index, (row * inputs).clamp(min=begin)) - begin
                matrix.scatter_(0, index, held.to(local.dtype))
        else:
            for first, length in place.runs[0]:
                for row in rows(first, first + length, local):
                    piece, matrix = matrix.tensor_split([row.numel()])
                    column = place.along(1, row % per_group)[:, None]
                    piece.scatter_(1, column.clamp(min=0), (column >= 0).to(local.dtype))
    torch.autograd.graph.increment_version(tensor)  # which has a counter of its own


def rows(first: int, end: int, like: Tensor) -> Iterator[Tensor]:
    for start in range(first, end, ROWS):
        yield torch.arange(start, min(start + ROWS, end), device=like.device)


@_parts.operator_of_parts("eye_(Tensor(a!) self) -> ()")
def eye_part_(tensor: Tensor) -> None:
    pass_on(tensor, 1, "eye_")


@_parts.operator_of_parts("dirac_(Tensor(a!) self, int groups) -> ()")
def dirac_part_(tensor: Tensor, groups: int) -> None:
    pass_on(tensor, groups, "dirac_")


@_parts.operator_of_parts("delta_orthogonal_(Tensor(a!) self, int[] position, float gain, Tensor key) -> ()")
def delta_orthogonal_part_(
    tensor: Tensor, position: Sequence[int], gain: float, source: Source | Tensor
) -> None:
    caller = "delta_orthogonal_"
    local, place = _parts.here(tensor)
    assert place is not None
    require_writable(caller, local)
    with torch.no_grad():
        centre, of_matrix = place.centre(local, position)
        matrix = torch.empty(centre.shape, dtype=tensor.dtype, device=tensor.device)
        if isinstance(source, Tensor):
            torch.ops.fastinit.orthogonal_.part(matrix, gain, **of_matrix.arguments, key=source)
        else:
            orthogonal_(_parts.Part(matrix, of_matrix), gain, source, caller)
        zero_(local, caller)
        centre.copy_(matrix)
    torch.autograd.graph.increment_version(tensor)


def source_of_part(tensor: Tensor, source: Any) -> Any:
    """For a compiler the key itself: taking it is an operator of its own."""
    if isinstance(source, Tensor) or not is_dynamo_compiling():
        return source
    _parts.prepare_to_compile()
    key: Tensor = torch.ops.fastinit.take_key(tensor, generator=source)
    return key
