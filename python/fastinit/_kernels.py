"""The one door to the native kernels: nothing else in the package calls ``fastinit._C`` to fill a tensor.

There are two ways in. ``fastinit._C`` costs the least per call; ``torch.compile`` cannot look into it, and gets
the same kernels as ``torch.ops.fastinit``. Both go through torch's dispatcher, and neither tracks gradients.

In the place of a generator, every fill takes a key as well: one int64 in a tensor. Fills are repeated by that.
"""

import torch
from torch import Generator, Tensor
from torch.compiler import is_dynamo_compiling

from fastinit import _C

Source = Generator | Tensor | None


def uniform_(tensor: Tensor, a: float, b: float, generator: Source) -> None:
    if is_dynamo_compiling():
        with torch.no_grad():
            torch.ops.fastinit.uniform_(tensor, a, b, generator=generator)
    elif isinstance(generator, Tensor):
        torch.ops.fastinit.uniform_.key(tensor, a, b, key=generator)
    else:
        _C.uniform_(tensor, a, b, generator)


def normal_(tensor: Tensor, mean: float, std: float, generator: Source) -> None:
    if is_dynamo_compiling():
        with torch.no_grad():
            torch.ops.fastinit.normal_(tensor, mean, std, generator=generator)
    elif isinstance(generator, Tensor):
        torch.ops.fastinit.normal_.key(tensor, mean, std, key=generator)
    else:
        _C.normal_(tensor, mean, std, generator)


def trunc_normal_(tensor: Tensor, mean: float, std: float, a: float, b: float, generator: Source) -> None:
    if is_dynamo_compiling():
        with torch.no_grad():
            torch.ops.fastinit.trunc_normal_(tensor, mean, std, a, b, generator=generator)
    elif isinstance(generator, Tensor):
        torch.ops.fastinit.trunc_normal_.key(tensor, mean, std, a, b, key=generator)
    else:
        _C.trunc_normal_(tensor, mean, std, a, b, generator)


def sparse_(tensor: Tensor, sparsity: float, std: float, generator: Source) -> None:
    if is_dynamo_compiling():
        with torch.no_grad():
            torch.ops.fastinit.sparse_(tensor, sparsity, std, generator=generator)
    elif isinstance(generator, Tensor):
        torch.ops.fastinit.sparse_.key(tensor, sparsity, std, key=generator)
    else:
        _C.sparse_(tensor, sparsity, std, generator)


def orthogonal_(tensor: Tensor, gain: float, generator: Source) -> None:
    if is_dynamo_compiling():
        with torch.no_grad():
            torch.ops.fastinit.orthogonal_(tensor, gain, generator=generator)
    elif isinstance(generator, Tensor):
        torch.ops.fastinit.orthogonal_.key(tensor, gain, key=generator)
    else:
        _C.orthogonal_(tensor, gain, generator)


def fill_(tensor: Tensor, val: float) -> None:
    if is_dynamo_compiling():
        with torch.no_grad():
            tensor.fill_(val)
    elif type(val) is float or (type(val) is int and -(2**63) <= val < 2**63):
        _C.fill_(tensor, val)
    else:  # torch knows what else a scalar can be
        _require_inference_mode("fill_", tensor)
        with torch.no_grad():
            tensor.fill_(val)


def _require_inference_mode(name: str, tensor: Tensor) -> None:
    """Raise a RuntimeError for an inference tensor outside of inference mode. torch may do so after it has written."""
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError(
            f"fastinit.{name}: tensor is an inference tensor, which can be updated in inference mode only; clone() it"
        )


def zero_(tensor: Tensor) -> None:
    if is_dynamo_compiling():
        with torch.no_grad():
            tensor.zero_()
    else:
        _C.zero_(tensor)


def require_writable(name: str, tensor: Tensor) -> None:
    """Raise a RuntimeError if elements of the tensor share memory, or if it must not be written to here."""
    if not is_dynamo_compiling():
        _C.check_writable(name, tensor)
