"""Fan-in, fan-out and the standard deviation that keeps a layer's variance: the one place that knows them."""

import math
from typing import Literal

from torch import Tensor
from torch.compiler import is_dynamo_compiling
from torch.nn.init import calculate_gain

FanMode = Literal["fan_in", "fan_out"]
Nonlinearity = Literal[
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "sigmoid",
    "tanh",
    "relu",
    "leaky_relu",
    "selu",
]


def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """Return how many inputs feed one output of this weight, and how many outputs one input feeds.

    A weight has the shape (outputs, inputs, *receptive field), as in ``torch.nn.Linear`` and
    ``torch.nn.Conv2d``; every position of the receptive field counts.

    Args:
        tensor: the weight, of two or more dimensions.

    Raises:
        ValueError: if ``tensor`` has fewer than two dimensions.

    Returns:
        ``(fan_in, fan_out)``, both counted in elements.

    Example:
        >>> import torch
        >>> _calculate_fan_in_and_fan_out(torch.empty(8, 3, 5, 5))
        (75, 200)
    """
    if tensor.dim() < 2:
        raise ValueError("Fan in and fan out can not be computed for tensor with fewer than 2 dimensions")
    outputs, inputs, *field = tensor.shape
    positions = math.prod(field)
    return inputs * positions, outputs * positions


def _calculate_correct_fan(tensor: Tensor, mode: FanMode) -> int:
    """Return the one of the two fans that ``mode`` names.

    Args:
        tensor: the weight, of two or more dimensions.
        mode: ``"fan_in"`` or ``"fan_out"``, in any case.

    Raises:
        ValueError: if ``mode`` is neither, or ``tensor`` has fewer than two dimensions.

    Returns:
        The fan, in elements.

    Example:
        >>> import torch
        >>> _calculate_correct_fan(torch.empty(8, 3, 5, 5), "fan_out")
        200
    """
    chosen = mode.lower()
    if chosen not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {chosen} not supported, please use one of ['fan_in', 'fan_out']")
    fan_in, fan_out = _calculate_fan_in_and_fan_out(tensor)
    return fan_in if chosen == "fan_in" else fan_out


def xavier_std(tensor: Tensor, gain: float) -> float:
    """The standard deviation after Glorot and Bengio (2010): the mean of both fans, and any gain."""
    fan_in, fan_out = _calculate_fan_in_and_fan_out(tensor)
    try:
        std = _scale(gain, (fan_in + fan_out) / 2)
    except TypeError:
        raise TypeError(f"gain must be a number, not {type(gain).__name__}") from None
    # Arrays are refused with torch's error where the tensor is filled.
    comparable = is_dynamo_compiling() or getattr(gain, "ndim", 0) == 0
    if comparable and not 0.0 <= gain < math.inf:
        raise RuntimeError(f"gain must be finite and at least 0, but got {gain}")
    return std


def kaiming_std(tensor: Tensor, a: float, mode: FanMode, nonlinearity: Nonlinearity) -> float:
    """The standard deviation after He et al. (2015): one of the fans, and the nonlinearity's gain."""
    fan = _calculate_correct_fan(tensor, mode)
    gain = calculate_gain(nonlinearity, a)
    if not gain > 0.0:  # NaN from a NaN, 0 from an infinity
        raise RuntimeError(f"a must be finite, but got {a}")
    return _scale(gain, fan)


def _scale(gain: float, fan: float) -> float:
    """Scale a weight so that a sum over ``fan`` terms of unit variance has the variance ``gain`` squared."""
    return gain / math.sqrt(fan)
