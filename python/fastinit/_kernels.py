"""The one door to the native kernels: nothing else in the package calls ``fastinit._C`` to fill a tensor.

There are two ways in. ``fastinit._C`` costs the least per call. ``torch.compile`` cannot look into it and gets the same
kernels as ``torch.ops.fastinit``. Both go through torch's dispatcher, and neither tracks gradients.

A fill takes its key from a source: a generator, the default generator of the tensor's device (None), or a ``Key``, which
is the key itself. ``caller`` is the function that error messages name.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor
from torch._library.effects import EffectType
from torch.compiler import is_dynamo_compiling

from fastinit import _C, _parts
from fastinit._C import Key as Key
from fastinit._C import Record as Record

Source = Generator | Key | None

# A compiler may drop a fill that nobody reads, but not the key that it takes: every later fill depends on that.
torch.library._register_effectful_op("fastinit::take_key", EffectType.ORDERED)


def uniform_(tensor: Tensor, a: float, b: float, source: Source, caller: str = "uniform_") -> None:
    if is_dynamo_compiling():
        _traced("uniform_", tensor, (a, b), source)
    else:
        _C.uniform_(tensor, a, b, source, caller)


def normal_(tensor: Tensor, mean: float, std: float, source: Source, caller: str = "normal_") -> None:
    if is_dynamo_compiling():
        _traced("normal_", tensor, (mean, std), source)
    else:
        _C.normal_(tensor, mean, std, source, caller)


def trunc_normal_(tensor: Tensor, mean: float, std: float, a: float, b: float, source: Source) -> None:
    if is_dynamo_compiling():
        _traced("trunc_normal_", tensor, (mean, std, a, b), source)
    else:
        _C.trunc_normal_(tensor, mean, std, a, b, source)


def sparse_(tensor: Tensor, sparsity: float, std: float, source: Source) -> None:
    if is_dynamo_compiling():
        _traced("sparse_", tensor, (sparsity, std), source)
    else:
        _C.sparse_(tensor, sparsity, std, source)


def orthogonal_(tensor: Tensor, gain: float, source: Source, caller: str = "orthogonal_") -> None:
    if is_dynamo_compiling():
        _traced("orthogonal_", tensor, (gain,), source)
    else:
        _C.orthogonal_(tensor, gain, source, caller)


def _traced(name: str, tensor: Tensor, numbers: tuple[float, ...], generator: Source) -> None:
    """Take the key and fill with it, as two operators."""
    op = getattr(torch.ops.fastinit, name)
    _parts.prepare_to_compile()
    with torch.no_grad():
        if tensor.numel() == 0:  # takes no key
            op(tensor, *numbers, generator=generator)
        else:
            key = torch.ops.fastinit.take_key(tensor, generator=generator)
            op.key(tensor, *numbers, key=key)


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


COORDINATES = 4096  # at a time, so that they take no more than a few hundred KiB


def fill_part_with_ones(
    tensor: Tensor, count: int, coordinates: Callable[[Tensor], Sequence[Tensor]], caller: str
) -> None:
    """Fill a part with zeros, and with ones at ``count`` elements of the whole: ``coordinates`` has them by number."""
    local, place = _parts.here(tensor)
    assert place is not None
    require_writable(caller, local)
    fill_(local, 0, caller)
    with torch.no_grad():
        for start in range(0, 0 if local.is_meta else count, COORDINATES):
            numbers = torch.arange(start, min(start + COORDINATES, count))
            local[place.within(coordinates(numbers))] = 1
