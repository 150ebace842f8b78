"""Initialisers that ``torch.nn.init`` lacks. JAX, Keras and timm have them, and people write them by hand.

The functions that scale a weight by its fans take its layout: experts stacked in front, fused projections, grouped and
transposed convolutions, (inputs, outputs) matrices. ``docs/formulas.md`` has all formulas in one table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

import torch
from torch import Tensor
from torch.nn.init import calculate_gain

from fastinit import _kernels, _parts, init
from fastinit._fans import FanMode, Layout, Mode, Nonlinearity
from fastinit._overridable import overridable

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fastinit._kernels import AnyKey, Source

Distribution = Literal["truncated_normal", "normal", "uniform"]
Dims = int | Sequence[int]

__all__ = [
    "batched_orthogonal_",
    "deepnet_scales",
    "delta_orthogonal_",
    "identity_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "lecun_normal_",
    "lecun_uniform_",
    "mup_normal_",
    "residual_normal_",
    "siren_uniform_",
    "small_normal_",
    "split_key",
    "trunc_normal_",
    "truncated_std",
    "variance_scaling_",
    "wang_normal_",
    "xavier_normal_",
    "xavier_uniform_",
]


@overridable
def batched_orthogonal_(
    tensor: Tensor,
    gain: float = 1,
    generator: torch.Generator | None = None,
    key: AnyKey | None = None,
) -> Tensor:
    """Fill each matrix of a batch as ``orthogonal_`` does, all in one call: experts, an LSTM's gates, groups of a convolution.

    The matrices are independent and uniform (Haar). The initialisation is that of Saxe et al. (2013), "Exact solutions to
    the nonlinear dynamics of learning in deep linear neural networks". Each matrix is a product of random reflectors, after
    Stewart (1980), "The efficient generation of random orthogonal matrices". Each thread makes small matrices on its own.

    All matrices come from one key. The values of a matrix depend on the key, its shape and its place in the batch. They
    depend neither on the other matrices nor on how many there are. The first matrix is that of ``orthogonal_``.

    Args:
        tensor: the tensor to fill, of the shape ``(batch, rows, *columns)``, in three or more dimensions.
        gain: the factor by which the matrices are multiplied, any finite number.
        generator: where the key comes from.
        key: the key itself, as for ``variance_scaling_``.

    Raises:
        ValueError: if ``tensor`` has fewer than three dimensions.
        RuntimeError: if ``gain`` is not finite or exceeds the tensor's dtype, or if elements of the tensor share memory.
        NotImplementedError: if the tensor's dtype is neither floating-point nor complex.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> lstm = torch.nn.LSTM(input_size=10, hidden_size=20)
        >>> gates = fastinit.batched_orthogonal_(lstm.weight_hh_l0.detach().view(4, 20, 20))
        >>> torch.allclose(gates @ gates.mT, torch.eye(20), atol=1e-6)
        True
    """
    if tensor.dim() < 3:
        raise ValueError("Only tensors with 3 or more dimensions are supported")
    if tensor.numel() == 0 or tensor.is_meta:
        return tensor
    _kernels.batched_orthogonal_(tensor, gain, _source(tensor, generator, key))
    return tensor


@overridable
def delta_orthogonal_(
    tensor: Tensor,
    gain: float = 1,
    generator: torch.Generator | None = None,
    key: AnyKey | None = None,
) -> Tensor:
    """Fill a convolution kernel so that it is an orthogonal map of the channels at its centre and zero elsewhere.

    With stride 1 and padding that keeps the size, the convolution then preserves the norm of its input, times
    ``gain``. The source is Xiao et al. (2018), "Dynamical isometry and a mean field theory of CNNs: how to train
    10,000-layer vanilla convolutional neural networks". ``orthogonal_`` draws the matrix at the centre.

    Args:
        tensor: the kernel to fill, of the shape ``(outputs, inputs, *field)``, where the field has one to three dimensions.
            The centre of an even dimension is the one that ``padding="same"`` leaves in place.
        gain: the factor by which the matrix is multiplied, any finite number.
        generator: where the key comes from.
        key: the key itself, as for ``variance_scaling_``.

    Raises:
        ValueError: if ``tensor`` does not have three to five dimensions, or has more inputs than outputs.
        RuntimeError: if ``gain`` is not finite or exceeds the tensor's dtype, or if elements of the tensor share memory.
        NotImplementedError: if the tensor's dtype is neither floating-point nor complex.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> w = fastinit.delta_orthogonal_(torch.empty(8, 4, 3, 3))
        >>> centre = w[:, :, 1, 1]
        >>> torch.allclose(centre.T @ centre, torch.eye(4), atol=1e-6), w.count_nonzero().item()
        (True, 32)
    """
    if not 3 <= tensor.dim() <= 5:
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    outputs, inputs, *field = tensor.shape
    if inputs > outputs:
        raise ValueError(
            f"There must be at least as many outputs as inputs, but the shape is {tuple(tensor.shape)}"
        )
    if tensor.numel() == 0 or tensor.is_meta:
        return tensor
    position = [(size - 1) // 2 for size in field]
    source = _source(tensor, generator, key)
    if _parts.is_part(tensor):
        source = _kernels.source_of_part(tensor, source)
        _kernels.delta_orthogonal_part_(tensor, position, gain, source)
        return tensor
    _kernels.require_writable("delta_orthogonal_", tensor)
    # The matrix first: should an argument be wrong, nothing has been written yet.
    with torch.no_grad():
        matrix = tensor.new_empty((outputs, inputs))
        _kernels.orthogonal_(matrix, gain, source, "delta_orthogonal_")
        _kernels.zero_(tensor, "delta_orthogonal_")
        centre = tensor
        for index in position:
            centre = centre.select(2, index)
        centre.copy_(matrix)
    return tensor


# ---- Scaled by the fans -------------------------------------------------------------------------------------


class LayoutArguments(TypedDict, total=False):
    """The layout of a weight, by keyword: ``variance_scaling_`` says what each means."""

    fan_in: float | None
    fan_out: float | None
    in_dim: Dims | None
    out_dim: Dims | None
    batch_dims: Dims
    groups: int
    splits: int | Sequence[int]


def variance_scaling_(
    tensor: Tensor,
    scale: float = 1.0,
    mode: Mode = "fan_in",
    distribution: Distribution = "truncated_normal",
    *,
    fan_in: float | None = None,
    fan_out: float | None = None,
    in_dim: Dims | None = None,
    out_dim: Dims | None = None,
    batch_dims: Dims = (),
    groups: int = 1,
    splits: int | Sequence[int] = 1,
    generator: torch.Generator | None = None,
    key: AnyKey | None = None,
) -> Tensor:
    """Fill a weight so that the variance of its values is ``scale / fan``, whatever its layout.

    A ``scale`` of 1 with ``"fan_in"`` is the rule of LeCun et al. (1998), "Efficient backprop". A ``scale`` of 2 with
    ``"fan_in"`` is that of He et al. (2015), and 1 with ``"fan_avg"`` is that of Glorot and Bengio (2010). The truncated
    normal distribution is cut at two standard deviations. It is widened first, so that its variance is ``scale / fan``, as
    in JAX and Keras. The names are those of JAX.

    Args:
        tensor: the weight, by default of the shape ``(outputs, inputs, *receptive field)``.
        scale: the variance times the fan, 0 or more.
        mode: the fan: ``"fan_in"``, ``"fan_out"``, their mean (``"fan_avg"``), or the root of their product
            (``"fan_geo_avg"``).
        distribution: ``"truncated_normal"``, ``"normal"`` or ``"uniform"``.
        fan_in: the fan-in. It replaces that of the layout.
        fan_out: the fan-out. It replaces that of the layout.
        in_dim: the dimension of the inputs, or several. By default it is the first one that is left. ``in_dim=0`` is all
            that a matrix (inputs, outputs) or a transposed convolution needs.
        out_dim: the dimension of the outputs, or several. By default it is the first one that is neither in ``batch_dims``
            nor ``in_dim``.
        batch_dims: dimensions that stack weights of their own (experts). They do not count for the fans.
        groups: the groups of a convolution.
        splits: how many projections a fused weight holds along ``out_dim`` (3 for queries, keys and values), or the size
            of each. Each projection has fans of its own.
        generator: where the key comes from. The call takes one key, whatever the splits.
        key: the key itself, instead of a generator: a number of 64 bits, an int64 tensor without dimensions on any device,
            or a key of ``torch.func._random``. Under ``torch.vmap`` there may be one for each sample (``split_key``).

    Raises:
        ValueError: if ``mode`` or ``distribution`` is unknown, if ``scale`` is negative or not finite, or if the layout does
            not fit the shape.
        RuntimeError: if elements of the tensor share memory.
        NotImplementedError: if the tensor's dtype is not floating-point. ``"normal"`` and ``"uniform"`` also fill complex ones.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> experts = torch.empty(4, 300, 200)  # four matrices (outputs, inputs)
        >>> w = fastinit.extra.variance_scaling_(experts, batch_dims=0)
        >>> abs(w.std().item() * 200**0.5 - 1) < 0.02
        True
    """
    layout = Layout(fan_in, fan_out, in_dim, out_dim, batch_dims, groups, splits)
    return _scaled(tensor, _root(scale), mode, distribution, layout, _source(tensor, generator, key))


def lecun_normal_(
    tensor: Tensor,
    *,
    generator: torch.Generator | None = None,
    key: AnyKey | None = None,
    **layout: Unpack[LayoutArguments],
) -> Tensor:
    """Fill a weight from the truncated normal distribution with the variance ``1 / fan_in``.

    The source is LeCun et al. (1998), "Efficient backprop". Self-normalising networks start from it (Klambauer et al., 2017).

    Args:
        tensor: the weight.
        generator: where the key comes from.
        key: the key itself, as for ``variance_scaling_``.
        layout: the weight's layout, as for ``variance_scaling_``.

    Raises:
        ValueError, RuntimeError, NotImplementedError: as ``variance_scaling_``.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> w = fastinit.extra.lecun_normal_(torch.empty(300, 400))
        >>> abs(w.std().item() - 0.05) < 0.001
        True
    """
    return _scaled(
        tensor, 1.0, "fan_in", "truncated_normal", Layout(**layout), _source(tensor, generator, key)
    )


def lecun_uniform_(
    tensor: Tensor,
    *,
    generator: torch.Generator | None = None,
    key: AnyKey | None = None,
    **layout: Unpack[LayoutArguments],
) -> Tensor:
    """Fill a weight from the uniform distribution on [-h, h) with ``h = sqrt(3 / fan_in)``, whose variance is ``1 / fan_in``.

    The source is LeCun et al. (1998), "Efficient backprop".

    Args:
        tensor: the weight.
        generator: where the key comes from.
        key: the key itself, as for ``variance_scaling_``.
        layout: the weight's layout, as for ``variance_scaling_``.

    Raises:
        ValueError, RuntimeError, NotImplementedError: as ``variance_scaling_``.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> w = fastinit.extra.lecun_uniform_(torch.empty(20, 30))
        >>> bool((w.abs() <= (3 / 30) ** 0.5).all())
        True
    """
    return _scaled(tensor, 1.0, "fan_in", "uniform", Layout(**layout), _source(tensor, generator, key))


def xavier_normal_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: AnyKey | None = None,
    **layout: Unpack[LayoutArguments],
) -> Tensor:
    """Do what ``fastinit.xavier_normal_`` does, for a weight of any layout.

    The distribution is N(0, std²) with ``std = gain * sqrt(2 / (fan_in + fan_out))`` (Glorot and Bengio, 2010).

    Args:
        tensor: the weight.
        gain: the factor for the nonlinearity, 0 or more.
        generator: where the key comes from.
        key: the key itself, as for ``variance_scaling_``.
        layout: the weight's layout, as for ``variance_scaling_``.

    Raises:
        ValueError, RuntimeError, NotImplementedError: as ``variance_scaling_``.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> qkv = torch.empty(3 * 256, 256)
        >>> w = fastinit.extra.xavier_normal_(qkv, splits=3)
        >>> abs(w.std().item() * 256**0.5 - 1) < 0.02
        True
    """
    return _scaled(tensor, gain, "fan_avg", "normal", Layout(**layout), _source(tensor, generator, key))


def xavier_uniform_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: AnyKey | None = None,
    **layout: Unpack[LayoutArguments],
) -> Tensor:
    """Do what ``fastinit.xavier_uniform_`` does, for a weight of any layout.

    The distribution is U(-h, h) with ``h = gain * sqrt(6 / (fan_in + fan_out))`` (Glorot and Bengio, 2010).

    Args:
        tensor: the weight.
        gain: the factor for the nonlinearity, 0 or more.
        generator: where the key comes from.
        key: the key itself, as for ``variance_scaling_``.
        layout: the weight's layout, as for ``variance_scaling_``.

    Raises:
        ValueError, RuntimeError, NotImplementedError: as ``variance_scaling_``.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> w = fastinit.extra.xavier_uniform_(torch.empty(30, 20), in_dim=0)  # (inputs, outputs)
        >>> bool((w.abs() <= (6 / 50) ** 0.5).all())
        True
    """
    return _scaled(tensor, gain, "fan_avg", "uniform", Layout(**layout), _source(tensor, generator, key))


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: FanMode = "fan_in",
    nonlinearity: Nonlinearity = "leaky_relu",
    generator: torch.Generator | None = None,
    *,
    key: AnyKey | None = None,
    **layout: Unpack[LayoutArguments],
) -> Tensor:
    """Do what ``fastinit.kaiming_normal_`` does, for a weight of any layout.

    The distribution is N(0, std²) with ``std = calculate_gain(nonlinearity, a) / sqrt(fan)`` (He et al., 2015).

    Args:
        tensor: the weight.
        a: the slope of the leaky rectifier below 0.
        mode: ``"fan_in"`` or ``"fan_out"``.
        nonlinearity: the function that follows the layer, by its name.
        generator: where the key comes from.
        key: the key itself, as for ``variance_scaling_``.
        layout: the weight's layout, as for ``variance_scaling_``.

    Raises:
        ValueError, RuntimeError, NotImplementedError: as ``variance_scaling_``.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> depthwise = torch.empty(512, 1, 7, 7)
        >>> w = fastinit.extra.kaiming_normal_(depthwise, mode="fan_out", nonlinearity="relu", groups=512)
        >>> abs(w.std().item() - (2 / 49) ** 0.5) < 0.01
        True
    """
    return _scaled(
        tensor,
        calculate_gain(nonlinearity, a),
        mode,
        "normal",
        Layout(**layout),
        _source(tensor, generator, key),
    )


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: FanMode = "fan_in",
    nonlinearity: Nonlinearity = "leaky_relu",
    generator: torch.Generator | None = None,
    *,
    key: AnyKey | None = None,
    **layout: Unpack[LayoutArguments],
) -> Tensor:
    """Do what ``fastinit.kaiming_uniform_`` does, for a weight of any layout.

    The distribution is U(-h, h) with ``h = calculate_gain(nonlinearity, a) * sqrt(3 / fan)`` (He et al., 2015).

    Args:
        tensor: the weight.
        a: the slope of the leaky rectifier below 0.
        mode: ``"fan_in"`` or ``"fan_out"``.
        nonlinearity: the function that follows the layer, by its name.
        generator: where the key comes from.
        key: the key itself, as for ``variance_scaling_``.
        layout: the weight's layout, as for ``variance_scaling_``.

    Raises:
        ValueError, RuntimeError, NotImplementedError: as ``variance_scaling_``.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> up = torch.nn.ConvTranspose2d(16, 32, 3)
        >>> w = fastinit.extra.kaiming_uniform_(up.weight, nonlinearity="relu", in_dim=0)
        >>> bool((w.abs() <= (6 / (16 * 9)) ** 0.5).all())
        True
    """
    return _scaled(
        tensor,
        calculate_gain(nonlinearity, a),
        mode,
        "uniform",
        Layout(**layout),
        _source(tensor, generator, key),
    )


def _scaled(
    tensor: Tensor,
    gain: float,
    mode: Mode,
    distribution: Distribution,
    layout: Layout,
    source: Source,
) -> Tensor:
    """Fill a weight, or each of its splits, with the standard deviation ``gain / sqrt(fan)``."""
    if not 0.0 <= gain < math.inf:
        raise RuntimeError(f"gain must be finite and at least 0, but got {gain}")
    if distribution not in _FILLS:
        raise ValueError(f"distribution must be one of {list(_FILLS)}, but is {distribution!r}")
    stds = [gain / math.sqrt(fan) if fan else 0.0 for fan in layout.fans(tensor.shape, mode)]
    if tensor.numel() == 0:
        return tensor
    if len(stds) == 1:
        name, numbers = _FILLS[distribution](stds[0])
        getattr(init, name)(tensor, *numbers, source)
        return tensor
    pieces = layout.pieces(tensor.shape)
    key = _kernels.take_key(tensor, source, "variance_scaling_")
    first = 0
    for std, (dim, size) in zip(stds, pieces, strict=True):
        name, numbers = _FILLS[distribution](std)
        _kernels.fill_piece(getattr(init, name), tensor, (dim, first, size), numbers, key)
        first += size
    return tensor


# A function of init and its numbers, for a standard deviation.


def _uniform(std: float) -> tuple[str, tuple[float, ...]]:
    bound = init.SQRT_3 * std
    return "uniform_", (-bound, bound)


def _normal(std: float) -> tuple[str, tuple[float, ...]]:
    return "normal_", (0.0, std)


def _truncated_normal(std: float) -> tuple[str, tuple[float, ...]]:
    if std == 0.0:
        return _normal(std)
    wide = std / truncated_std(2.0)
    return "trunc_normal_", (0.0, wide, -2 * wide, 2 * wide)


_FILLS = {"truncated_normal": _truncated_normal, "normal": _normal, "uniform": _uniform}


# ---- Truncated in units of the standard deviation -----------------------------------------------------------


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    truncate: float = 2.0,
    *,
    corrected: bool = False,
    generator: torch.Generator | None = None,
    key: AnyKey | None = None,
) -> Tensor:
    """Fill a tensor from a normal distribution that is cut ``truncate`` standard deviations away from its mean.

    ``torch.nn.init.trunc_normal_`` takes its bounds in the units of the values. With ``std=0.02``, its default bounds of ±2
    are 100 standard deviations away and cut nothing. This function does what Flax, mlx and timm's ``trunc_normal_tf_`` do.

    Args:
        tensor: the tensor to fill, of any shape.
        mean: the mean.
        std: the standard deviation of the distribution before it is cut, above 0.
        truncate: the distance of the bounds from the mean, in standard deviations, above 0. It may be infinite.
        corrected: widen the distribution before it is cut, so that the values have the standard deviation ``std``.
        generator: where the key comes from.
        key: the key itself, as for ``variance_scaling_``.

    Raises:
        ValueError: if ``truncate`` is not above 0.
        RuntimeError, ZeroDivisionError, NotImplementedError: as ``fastinit.trunc_normal_``.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> w = fastinit.extra.trunc_normal_(torch.empty(300, 400), std=0.02)
        >>> bool((w.abs() <= 0.04).all())
        True
    """
    if not truncate > 0:
        raise ValueError(f"truncate must be above 0, but is {truncate}")
    if corrected:
        std = std / truncated_std(truncate)
    reach = truncate * std
    return init.trunc_normal_(tensor, mean, std, mean - reach, mean + reach, _source(tensor, generator, key))


def truncated_std(truncate: float) -> float:
    """Return the standard deviation of a standard normal distribution that is cut at ±``truncate``.

    It is the root of ``1 - 2 t φ(t) / (2 Φ(t) - 1)`` (Johnson, Kotz and Balakrishnan, 1994, section 13.10.1).

    Args:
        truncate: where it is cut, above 0.

    Example:
        >>> import fastinit
        >>> round(fastinit.extra.truncated_std(2.0), 9)
        0.879625661
    """
    t = truncate
    if t > 1.0:
        if math.isinf(t):
            return 1.0
        density = math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
        return math.sqrt(1.0 - 2 * t * density / math.erf(t / math.sqrt(2)))
    # The difference above cancels. Both integrals as series: of x² exp(-x²/2) and of exp(-x²/2), from 0 to t.
    squares = mass = 0.0
    term = 1.0  # (-t²/2)^k / k!
    for k in range(20):
        squares += term / (2 * k + 3)
        mass += term / (2 * k + 1)
        term *= -t * t / (2 * (k + 1))
    return t * math.sqrt(squares / mass)


# ---- Scaled by depth and width ------------------------------------------------------------------------------


def residual_normal_(
    tensor: Tensor,
    layers: int,
    std: float = 0.02,
    generator: torch.Generator | None = None,
    *,
    key: AnyKey | None = None,
) -> Tensor:
    """Fill the last weight of a residual branch from N(0, std² / (2 layers)).

    Each block of a transformer adds two branches to the residual stream. With this scale, the variance of their sum does
    not grow with the depth. The source is Radford et al. (2019), "Language models are unsupervised multitask learners"
    (GPT-2).

    Args:
        tensor: the weight, of any shape.
        layers: the number of blocks.
        std: the standard deviation of the other weights.
        generator: where the key comes from.
        key: the key itself, as for ``variance_scaling_``.

    Raises:
        ValueError: if ``layers`` is below 1.
        RuntimeError, NotImplementedError: as ``fastinit.normal_``.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> w = fastinit.extra.residual_normal_(torch.empty(300, 400), layers=50)
        >>> abs(w.std().item() - 0.002) < 0.0001
        True
    """
    return init.normal_(
        tensor, 0.0, std / math.sqrt(2 * _count("layers", layers)), _source(tensor, generator, key)
    )


def small_normal_(
    tensor: Tensor,
    dim: int | None = None,
    generator: torch.Generator | None = None,
    *,
    key: AnyKey | None = None,
) -> Tensor:
    """Fill a transformer's weight from N(0, 2 / (5 dim)).

    Xavier's rule gives this variance to a feed-forward layer that is four times as wide as the model. Here all weights get it.
    The source is Nguyen and Salazar (2019), "Transformers without tears". GPT-NeoX calls it small init.

    Args:
        tensor: the weight, of any shape.
        dim: the width of the model; by default the size of the last dimension.
        generator: where the key comes from.
        key: the key itself, as for ``variance_scaling_``.

    Raises:
        ValueError: if ``dim`` is below 1.
        RuntimeError, NotImplementedError: as ``fastinit.normal_``.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> w = fastinit.extra.small_normal_(torch.empty(300, 1000))
        >>> abs(w.std().item() - 0.02) < 0.001
        True
    """
    return init.normal_(
        tensor, 0.0, math.sqrt(2 / (5 * _width(tensor, dim))), _source(tensor, generator, key)
    )


def wang_normal_(
    tensor: Tensor,
    layers: int,
    dim: int | None = None,
    generator: torch.Generator | None = None,
    *,
    key: AnyKey | None = None,
) -> Tensor:
    """Fill the last weight of a residual branch from N(0, (2 / (layers sqrt(dim)))²).

    The source is Wang and Komatsuzaki (2021), "GPT-J-6B". GPT-NeoX calls it Wang init.

    Args:
        tensor: the weight, of any shape.
        layers: the number of blocks.
        dim: the width of the model; by default the size of the last dimension.
        generator: where the key comes from.
        key: the key itself, as for ``variance_scaling_``.

    Raises:
        ValueError: if ``layers`` or ``dim`` is below 1.
        RuntimeError, NotImplementedError: as ``fastinit.normal_``.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> w = fastinit.extra.wang_normal_(torch.empty(300, 400), layers=10)
        >>> abs(w.std().item() - 0.01) < 0.001
        True
    """
    std = 2 / (_count("layers", layers) * math.sqrt(_width(tensor, dim)))
    return init.normal_(tensor, 0.0, std, _source(tensor, generator, key))


def mup_normal_(
    tensor: Tensor,
    role: Literal["input", "hidden", "output"] = "hidden",
    scale: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: AnyKey | None = None,
    **layout: Unpack[LayoutArguments],
) -> Tensor:
    """Fill a weight with the variance of the maximal update parametrisation (muP).

    The variance is ``scale / fan_in`` for input and hidden weights, and ``scale / fan_in²`` for output weights. The source is
    Yang et al. (2022), "Tensor programs V", table 3. The parametrisation also changes learning rates, which is up to the
    optimiser.

    Args:
        tensor: the weight.
        role: which dimensions grow with the width: only the outputs (``"input"``), both (``"hidden"``), or only the inputs
            (``"output"``).
        scale: a factor that does not depend on the width.
        generator: where the key comes from.
        key: the key itself, as for ``variance_scaling_``.
        layout: the weight's layout, as for ``variance_scaling_``.

    Raises:
        ValueError: if ``role`` is unknown, ``scale`` is negative or not finite, or the layout does not fit the shape.
        RuntimeError, NotImplementedError: as ``fastinit.normal_``.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> head = fastinit.extra.mup_normal_(torch.empty(1000, 100), "output")
        >>> abs(head.std().item() - 0.01) < 0.001
        True
    """
    if role not in ("input", "hidden", "output"):
        raise ValueError(f"role must be input, hidden or output, but is {role!r}")
    where = Layout(**layout)
    if role == "output":
        fans = {*where.fans(tensor.shape, "fan_in")}
        scale = scale / max(*fans, 1.0)
    return _scaled(tensor, _root(scale), "fan_in", "normal", where, _source(tensor, generator, key))


def siren_uniform_(
    tensor: Tensor,
    omega: float = 30.0,
    first: bool = False,
    generator: torch.Generator | None = None,
    *,
    key: AnyKey | None = None,
    **layout: Unpack[LayoutArguments],
) -> Tensor:
    """Fill a weight of a network with sine activations.

    The distribution is U(-h, h) with ``h = 1 / fan_in`` in the first layer and ``sqrt(6 / fan_in) / omega`` in all others.
    The source is Sitzmann et al. (2020), "Implicit neural representations with periodic activation functions".

    Args:
        tensor: the weight.
        omega: the factor within the sines.
        first: whether this is the first layer.
        generator: where the key comes from.
        key: the key itself, as for ``variance_scaling_``.
        layout: the weight's layout, as for ``variance_scaling_``.

    Raises:
        ValueError: if ``omega`` is not above 0, or the layout does not fit the shape.
        RuntimeError, NotImplementedError: as ``fastinit.uniform_``.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> w = fastinit.extra.siren_uniform_(torch.empty(256, 2), first=True)
        >>> bool((w.abs() <= 0.5).all())
        True
    """
    if not 0 < omega < math.inf:
        raise ValueError(f"omega must be finite and above 0, but is {omega}")
    where = Layout(**layout)
    fan = where.fans(tensor.shape, "fan_in")[0]
    bound = (1 / fan if first else math.sqrt(6 / fan) / omega) if fan else 0.0
    return init.uniform_(tensor, -bound, bound, _source(tensor, generator, key))


def identity_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Fill a weight so that its layer passes on its inputs: with ``eye_`` for a matrix, with ``dirac_`` for a convolution.

    Args:
        tensor: the weight, of two to five dimensions.
        groups: the groups of a convolution.

    Raises:
        ValueError: if ``tensor`` has another number of dimensions, or ``groups`` does not divide its outputs.

    Returns:
        ``tensor``.

    Example:
        >>> import fastinit, torch
        >>> fastinit.extra.identity_(torch.empty(2, 2))
        tensor([[1., 0.],
                [0., 1.]])
    """
    return init.eye_(tensor) if tensor.dim() == 2 else init.dirac_(tensor, groups)


class DeepNetScales(NamedTuple):
    """DeepNet's factors: ``alpha`` for the residual stream, ``beta`` for the weights of the branches (a gain)."""

    alpha: float
    beta: float


def deepnet_scales(
    encoder_layers: int = 0, decoder_layers: int = 0, part: Literal["encoder", "decoder"] | None = None
) -> DeepNetScales:
    """Return DeepNet's factors for a transformer of this depth.

    The feed-forward, value and output weights take ``xavier_normal_`` with ``gain=beta``. Queries and keys take it with
    gain 1. Each normalisation sees ``alpha * x + branch(x)``. The source is Wang et al. (2022), "DeepNet: scaling
    transformers to 1,000 layers", figure 2.

    Args:
        encoder_layers: the number of encoder blocks, or 0 without an encoder.
        decoder_layers: the number of decoder blocks, or 0 without a decoder.
        part: ``"encoder"`` or ``"decoder"``, if there are both.

    Raises:
        ValueError: if there are no layers, or the model does not have ``part``.

    Example:
        >>> import fastinit
        >>> scales = fastinit.extra.deepnet_scales(decoder_layers=32)
        >>> round(scales.alpha, 4), scales.beta
        (2.8284, 0.25)
    """
    if min(encoder_layers, decoder_layers) < 0 or max(encoder_layers, decoder_layers) == 0:
        raise ValueError(f"there are {encoder_layers} encoder and {decoder_layers} decoder layers")
    if encoder_layers and decoder_layers:
        if part == "encoder":
            depth = (encoder_layers**4 * decoder_layers) ** (1 / 16)
            return DeepNetScales(0.81 * depth, 0.87 / depth)
        if part == "decoder":
            return DeepNetScales((3 * decoder_layers) ** 0.25, (12 * decoder_layers) ** -0.25)
        raise ValueError(f"part must be encoder or decoder, but is {part!r}")
    if part is not None and not {"encoder": encoder_layers, "decoder": decoder_layers}.get(part):
        raise ValueError(f"there is no {part}")
    layers = encoder_layers + decoder_layers
    return DeepNetScales((2 * layers) ** 0.25, (8 * layers) ** -0.25)


def split_key(key: AnyKey, count: int) -> Tensor:
    """Make several keys of one: for the members of an ensemble under ``torch.vmap``, or for the parameters of a model.

    SplitMix64 draws them, with the key as its state: Steele, Lea and Flood (2014), "Fast splittable pseudorandom number
    generators". A fill of a batch under ``torch.vmap(..., randomness="different")`` makes the same keys of the one that it
    takes.

    Args:
        key: the key, as for ``variance_scaling_``.
        count: how many.

    Raises:
        ValueError, TypeError: if ``key`` is no key, or ``count`` is below 1.

    Returns:
        A tensor of int64, of the shape (count,).

    Example:
        >>> import fastinit, torch
        >>> keys = fastinit.extra.split_key(0, 64)
        >>> weights = torch.empty(64, 30, 20)  # of 64 models
        >>> w = torch.vmap(lambda w, key: fastinit.extra.xavier_uniform_(w, key=key))(weights, keys)
        >>> torch.equal(w[5], fastinit.extra.xavier_uniform_(torch.empty(30, 20), key=keys[5]))
        True
    """
    return _kernels.split_key(key, _count("count", count))


def _source(tensor: Tensor, generator: torch.Generator | None, key: AnyKey | None) -> Any:
    return _kernels.source_of(tensor, generator, key)


def _count(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, but is {value}")
    return value


def _width(tensor: Tensor, dim: int | None) -> int:
    if dim is None and tensor.dim() == 0:
        raise ValueError("a tensor without dimensions has no width")
    return max(tensor.shape[-1], 1) if dim is None else _count("dim", dim)


def _root(scale: float) -> float:
    if not 0.0 <= scale < math.inf:
        raise ValueError(f"scale must be finite and at least 0, but is {scale}")
    return math.sqrt(scale)
