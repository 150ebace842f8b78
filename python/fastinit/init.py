"""The functions of ``torch.nn.init``, with its names, signatures, errors and warnings, on fastinit's kernels.

Every function fills the tensor it is given, in place and without recording gradients, and returns that tensor. So
each works on a parameter as it is, on any view, and with any strides. A random function takes one key from
its generator. The value of an element depends only on that key, the element's row-major index and the
function's parameters: see docs/contract.md.

``generator=None`` stands for the default generator of the tensor's device. A CPU generator may be given for a
tensor on any device. It gives the same values on all of them.
"""

import math
import operator

import torch
from torch import Tensor
from torch.nn.init import calculate_gain

from fastinit import _kernels, _parts
from fastinit._deprecated import deprecated_alias
from fastinit._fans import (
    FanMode,
    Nonlinearity,
    _calculate_correct_fan,
    _calculate_fan_in_and_fan_out,
    kaiming_std,
    xavier_std,
)
from fastinit._overridable import overridable
from fastinit._warn import warn

__all__ = [
    "_calculate_correct_fan",
    "_calculate_fan_in_and_fan_out",
    "calculate_gain",
    "constant",
    "constant_",
    "dirac",
    "dirac_",
    "eye",
    "eye_",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "sparse",
    "sparse_",
    "trunc_normal_",
    "uniform",
    "uniform_",
    "xavier_normal",
    "xavier_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zeros_",
]

SQRT_3 = math.sqrt(3.0)  # a uniform distribution on [-h, h] has the standard deviation h / sqrt(3)


@overridable
def uniform_(
    tensor: Tensor,
    a: float = 0.0,
    b: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a tensor from the uniform distribution on the half-open interval [a, b).

    Args:
        tensor: the tensor to fill, of any shape. The two parts of a complex number are drawn independently.
        a: the lower bound, which can occur.
        b: the upper bound, which cannot occur unless it equals ``a``.
        generator: where the key comes from.

    Raises:
        RuntimeError: if a bound is not finite or exceeds the tensor's dtype, if ``a > b``, if the dtype has no number in
            [a, b), or if elements of the tensor share memory.
        NotImplementedError: if the tensor's dtype is neither floating-point nor complex.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> w = fastinit.uniform_(torch.empty(3, 5), -0.1, 0.1)
        >>> bool(((w >= -0.1) & (w < 0.1)).all())
        True
    """
    _kernels.uniform_(tensor, a, b, generator)
    return tensor


@overridable
def normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a tensor from the normal distribution N(mean, std²).

    Args:
        tensor: the tensor to fill, of any shape. The two parts of a complex number share its variance.
        mean: the mean.
        std: the standard deviation, 0 or more. With 0, every value is the mean.
        generator: where the key comes from.

    Raises:
        RuntimeError: if a parameter is not finite, if ``std`` is negative, if a value may be too large for the tensor's
            dtype (the mean plus 6.77 ``std``; 9.5 for float64), or if elements of the tensor share memory.
        NotImplementedError: if the tensor's dtype is neither floating-point nor complex.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> w = fastinit.normal_(torch.empty(100, 100), std=0.02)
        >>> 0.019 < w.std().item() < 0.021
        True
    """
    _kernels.normal_(tensor, mean, std, generator)
    return tensor


@overridable
def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a tensor from the normal distribution N(mean, std²) restricted to the closed interval [a, b].

    The distribution is right for every ``a < b``, including infinite bounds and intervals far from the mean. Values
    come from inversion or from rejection sampling; the tails follow Robert (1995), "Simulation of truncated normal
    variables". torch's warning about such intervals is issued all the same, so that programs which expect
    it or silence it see no difference.

    Args:
        tensor: the tensor to fill, of any shape.
        mean: the mean of the normal distribution before it is restricted.
        std: its standard deviation, above 0.
        a: the lower bound, in the units of the values (not in standard deviations). It may be ``-inf``. Values too
            large for the tensor's dtype are then infinite.
        b: the upper bound, in the same units. It may be ``inf``.
        generator: where the key comes from.

    Raises:
        RuntimeError: if ``mean`` or ``std`` is not finite, if ``std`` is negative, if a bound is NaN,
            if ``a > b``, if the dtype has no number in [a, b], or if elements of the tensor share memory.
        ZeroDivisionError: if ``std`` is 0.
        NotImplementedError: if the tensor's dtype is not floating-point.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> w = fastinit.trunc_normal_(torch.empty(3, 5), std=0.02, a=-0.04, b=0.04)
        >>> bool((w.abs() <= 0.04).all())
        True
    """
    if tensor.is_meta:
        return tensor
    try:
        far = mean < a - 2 * std or mean > b + 2 * std
    except TypeError:  # the kernel says which of them is no number
        far = False
    if far:
        warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
            "The distribution of values may be incorrect."
        )
    if std == 0:
        raise ZeroDivisionError(f"std must be above 0, but got {std}")
    _kernels.trunc_normal_(tensor, mean, std, a, b, generator)
    return tensor


@overridable
def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill a tensor with one value.

    Args:
        tensor: the tensor to fill, of any shape and dtype.
        val: the value, a number or a tensor without dimensions.

    Raises:
        RuntimeError: if the tensor's dtype cannot hold ``val``.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> fastinit.constant_(torch.empty(3), 0.5)
        tensor([0.5000, 0.5000, 0.5000])
    """
    _kernels.fill_(tensor, val, "constant_")
    return tensor


@overridable
def ones_(tensor: Tensor) -> Tensor:
    """Fill a tensor with ones.

    Args:
        tensor: the tensor to fill, of any shape and dtype.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> fastinit.ones_(torch.empty(3))
        tensor([1., 1., 1.])
    """
    _kernels.fill_(tensor, 1.0, "ones_")
    return tensor


@overridable
def zeros_(tensor: Tensor) -> Tensor:
    """Fill a tensor with zeros.

    Args:
        tensor: the tensor, of any shape and dtype.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> fastinit.zeros_(torch.empty(3))
        tensor([0., 0., 0.])
    """
    _kernels.zero_(tensor, "zeros_")
    return tensor


@overridable
def eye_(tensor: Tensor) -> Tensor:
    """Fill a matrix with ones on its main diagonal and zeros elsewhere.

    A linear layer with this weight passes on as many of its inputs as it has outputs.

    Args:
        tensor: the tensor to fill, of two dimensions and any dtype.

    Raises:
        ValueError: if ``tensor`` does not have two dimensions.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> fastinit.eye_(torch.empty(2, 3))
        tensor([[1., 0., 0.],
                [0., 1., 0.]])
    """
    if tensor.dim() != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    if _parts.is_part(tensor):
        _kernels.eye_part_(tensor)
        return tensor
    _kernels.require_writable("eye_", tensor)
    _kernels.fill_(tensor, 0, "eye_")  # zero_ takes dtypes whose diagonal could not be filled then
    _kernels.fill_(tensor.diagonal(), 1, "eye_")
    return tensor


@overridable
def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Fill a convolution's weight so that it passes on its input channels unchanged.

    Output channel ``i`` of each group has a one at the centre of the kernel of input channel ``i``, and zeros
    elsewhere. Output channels beyond the inputs are all zero. If a kernel size is even, the centre is the later of the
    two middle positions.

    Args:
        tensor: the weight, of the shape ``(output channels, input channels per group, *kernel)`` with one,
            two or three kernel dimensions, and any dtype.
        groups: how many groups the convolution splits its channels into.

    Raises:
        ValueError: if ``tensor`` does not have 3, 4 or 5 dimensions, or ``groups`` does not divide the output
            channels.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> conv = torch.nn.Conv2d(3, 3, kernel_size=3, padding=1, bias=False)
        >>> _ = fastinit.dirac_(conv.weight)
        >>> image = torch.rand(1, 3, 8, 8)
        >>> torch.equal(conv(image), image)
        True
    """
    if tensor.dim() not in (3, 4, 5):
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    outputs, inputs, *kernel = tensor.shape
    if outputs % groups != 0:
        raise ValueError("dim 0 must be divisible by groups")
    if tensor.is_meta:
        return tensor
    groups = operator.index(groups)
    per_group = outputs // groups
    if min(groups, per_group, inputs) <= 0:
        _kernels.require_writable("dirac_", tensor)
        _kernels.zero_(tensor, "dirac_")
        return tensor
    if _parts.is_part(tensor):
        _kernels.dirac_part_(tensor, groups)
        return tensor
    _kernels.require_writable("dirac_", tensor)
    centre = tensor
    for size in kernel:
        centre = centre.select(2, size // 2)
    ones = centre.view(-1, per_group, inputs).diagonal(dim1=1, dim2=2)
    _kernels.fill_(tensor, 0, "dirac_")  # zero_ takes dtypes whose centre could not be filled then
    _kernels.fill_(ones, 1, "dirac_")
    return tensor


@overridable
def xavier_uniform_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a weight from the uniform distribution that balances the variances of the forward and the backward pass.

    The distribution is U(-h, h) with ``h = gain * sqrt(6 / (fan_in + fan_out))``, after Glorot and Bengio (2010),
    "Understanding the difficulty of training deep feedforward neural networks".

    Args:
        tensor: the weight, of the shape ``(outputs, inputs, *receptive field)``.
        gain: the factor for the nonlinearity, as ``calculate_gain`` gives it, 0 or more.
        generator: where the key comes from.

    Raises:
        ValueError: if ``tensor`` has fewer than two dimensions.
        RuntimeError: if ``gain`` is negative or not finite, or if elements of the tensor share memory.
        NotImplementedError: if the tensor's dtype is neither floating-point nor complex.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> w = fastinit.xavier_uniform_(torch.empty(20, 30), gain=fastinit.calculate_gain("tanh"))
        >>> bool((w.abs() <= 5 / 3 * (6 / 50) ** 0.5).all())
        True
    """
    bound = SQRT_3 * xavier_std(tensor, gain)
    _kernels.uniform_(tensor, -bound, bound, generator, "xavier_uniform_")
    return tensor


@overridable
def xavier_normal_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a weight from the normal distribution that balances the variances of the forward and the backward pass.

    The distribution is N(0, std²) with ``std = gain * sqrt(2 / (fan_in + fan_out))``, after Glorot and Bengio (2010),
    "Understanding the difficulty of training deep feedforward neural networks".

    Args:
        tensor: the weight, of the shape ``(outputs, inputs, *receptive field)``.
        gain: the factor for the nonlinearity, as ``calculate_gain`` gives it, 0 or more.
        generator: where the key comes from.

    Raises:
        RuntimeError: if ``gain`` is negative, or values may be too large for the tensor's dtype.
        ValueError, NotImplementedError: as ``xavier_uniform_``.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> w = fastinit.xavier_normal_(torch.empty(300, 500))
        >>> 0.049 < w.std().item() < 0.051
        True
    """
    _kernels.normal_(tensor, 0.0, xavier_std(tensor, gain), generator, "xavier_normal_")
    return tensor


@overridable
def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: FanMode = "fan_in",
    nonlinearity: Nonlinearity = "leaky_relu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a weight from the uniform distribution that keeps the variance through a rectifier.

    The distribution is U(-h, h) with ``h = gain * sqrt(3 / fan)`` and ``gain = calculate_gain(nonlinearity, a)``, after
    He et al. (2015), "Delving deep into rectifiers".

    Args:
        tensor: the weight, of the shape ``(outputs, inputs, *receptive field)``. If a weight is stored as
            (inputs, outputs), pass its transpose.
        a: the slope of the leaky rectifier below 0. Other nonlinearities ignore it.
        mode: ``"fan_in"`` keeps the variance of the forward pass, ``"fan_out"`` that of the backward pass.
        nonlinearity: the function that follows the layer, by its name in ``torch.nn.functional``.
        generator: where the key comes from.

    Raises:
        ValueError: if ``tensor`` has fewer than two dimensions, or ``mode`` or ``nonlinearity`` is unknown.
        RuntimeError: if ``a`` is not finite, or if elements of the tensor share memory.
        NotImplementedError: if the tensor's dtype is neither floating-point nor complex.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> w = fastinit.kaiming_uniform_(torch.empty(20, 30), nonlinearity="relu")
        >>> bool((w.abs() <= (6 / 30) ** 0.5).all())
        True
    """
    if 0 in tensor.shape:
        warn("Initializing zero-element tensors is a no-op")
        return tensor
    bound = SQRT_3 * kaiming_std(tensor, a, mode, nonlinearity)
    _kernels.uniform_(tensor, -bound, bound, generator, "kaiming_uniform_")
    return tensor


@overridable
def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: FanMode = "fan_in",
    nonlinearity: Nonlinearity = "leaky_relu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a weight from the normal distribution that keeps the variance through a rectifier.

    The distribution is N(0, std²) with ``std = gain / sqrt(fan)`` and ``gain = calculate_gain(nonlinearity, a)``, after
    He et al. (2015), "Delving deep into rectifiers".

    Args:
        tensor: the weight, of the shape ``(outputs, inputs, *receptive field)``.
        a: the slope of the leaky rectifier below 0. Other nonlinearities ignore it.
        mode: ``"fan_in"`` keeps the variance of the forward pass, ``"fan_out"`` that of the backward pass.
        nonlinearity: the function that follows the layer, by its name in ``torch.nn.functional``.
        generator: where the key comes from.

    Raises:
        RuntimeError: if ``a`` is not finite, or values may be too large for the tensor's dtype.
        ValueError, NotImplementedError: as ``kaiming_uniform_``.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> w = fastinit.kaiming_normal_(torch.empty(500, 200), mode="fan_out", nonlinearity="relu")
        >>> 0.062 < w.std().item() < 0.064
        True
    """
    if 0 in tensor.shape:
        warn("Initializing zero-element tensors is a no-op")
        return tensor
    _kernels.normal_(tensor, 0.0, kaiming_std(tensor, a, mode, nonlinearity), generator, "kaiming_normal_")
    return tensor


@overridable
def orthogonal_(
    tensor: Tensor,
    gain: float = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a tensor with a random matrix whose rows or columns, whichever are fewer, are orthonormal.

    The matrix is uniform (Haar) over all such matrices. The initialisation is that of Saxe et al. (2013), "Exact
    solutions to the nonlinear dynamics of learning in deep linear neural networks". The matrix is a product of random
    reflectors, after Stewart (1980), "The efficient generation of random orthogonal matrices".

    Args:
        tensor: the tensor to fill, of two or more dimensions. All dimensions after the first count as columns.
        gain: the factor by which the matrix is multiplied, any finite number.
        generator: where the key comes from.

    Raises:
        ValueError: if ``tensor`` has fewer than two dimensions.
        RuntimeError: if ``gain`` is not finite or exceeds the tensor's dtype, or if elements of the tensor share memory.
        NotImplementedError: if the tensor's dtype is neither floating-point nor complex.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> w = fastinit.orthogonal_(torch.empty(3, 5))
        >>> torch.allclose(w @ w.T, torch.eye(3), atol=1e-6)
        True
    """
    if tensor.dim() < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    if tensor.numel() == 0 or tensor.is_meta:
        return tensor
    _kernels.orthogonal_(tensor, gain, generator)
    return tensor


@overridable
def sparse_(
    tensor: Tensor,
    sparsity: float,
    std: float = 0.01,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a matrix from a normal distribution, with the same number of zeros in each column.

    Each column has exactly ``ceil(sparsity * rows)`` zeros, at positions of its own. The other values are drawn
    from N(0, std²). The source is Martens (2010), "Deep learning via Hessian-free optimization". Positions and values
    depend on the same generator.

    Args:
        tensor: the matrix to fill.
        sparsity: the fraction of zeros in each column, from 0 to 1.
        std: the standard deviation of the other values, 0 or more.
        generator: where the key comes from.

    Raises:
        ValueError: if ``tensor`` does not have two dimensions, or ``sparsity`` is NaN or outside [0, 1].
        OverflowError: if ``sparsity`` is infinite.
        RuntimeError: if ``std`` is negative or not finite, or if elements of the tensor share memory.
        NotImplementedError: if the tensor's dtype is neither floating-point nor complex.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> w = fastinit.sparse_(torch.empty(10, 4), sparsity=0.25)
        >>> (w == 0).sum(dim=0)
        tensor([3, 3, 3, 3])
    """
    if tensor.dim() != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    if tensor.is_meta:
        return tensor
    if type(sparsity) not in (int, float):
        try:
            math.ceil(sparsity * tensor.shape[0])  # torch's errors for what is no number
        except TypeError:
            raise TypeError(
                f"sparse_(): argument 'sparsity' must be float, not {type(sparsity).__name__}"
            ) from None
        sparsity = float(sparsity)
    if not 0.0 <= sparsity <= 1.0:
        error = OverflowError if abs(sparsity) == math.inf else ValueError
        raise error(f"sparsity must be between 0 and 1, but got {sparsity}")
    _kernels.sparse_(tensor, sparsity, std, generator)
    return tensor


uniform = deprecated_alias(uniform_)
normal = deprecated_alias(normal_)
constant = deprecated_alias(constant_)
eye = deprecated_alias(eye_)
dirac = deprecated_alias(dirac_)
xavier_uniform = deprecated_alias(xavier_uniform_)
xavier_normal = deprecated_alias(xavier_normal_)
kaiming_uniform = deprecated_alias(kaiming_uniform_)
kaiming_normal = deprecated_alias(kaiming_normal_)
orthogonal = deprecated_alias(orthogonal_)
sparse = deprecated_alias(sparse_)
