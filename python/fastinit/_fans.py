"""Fan-in, fan-out and the standard deviation that keeps a layer's variance: the one place that knows them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
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


Mode = Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]


@dataclass(frozen=True)
class Layout:
    """What the dimensions of a weight are, where they are not those of ``torch.nn.Linear`` and ``torch.nn.Conv2d``.

    ``extra.variance_scaling_`` says what the arguments mean. All dimensions that are neither inputs, outputs nor a batch are
    the receptive field. The groups of a convolution are stacked along dimension 0, as in ``torch.nn``: the inputs' one of a
    transposed convolution, else the outputs'; or along the outputs' one, where dimension 0 is neither.
    """

    fan_in: float | None = None
    fan_out: float | None = None
    in_dim: int | Sequence[int] | None = None
    out_dim: int | Sequence[int] | None = None
    batch_dims: int | Sequence[int] = ()
    groups: int = 1
    splits: int | Sequence[int] = 1

    def fans(self, shape: Sequence[int], mode: Mode) -> list[float]:
        """The fan that counts for a weight of this shape: of each of its splits, or one if they are equal.

        Raises:
            ValueError: if the layout does not fit the shape, or ``mode`` is unknown.
        """
        if mode not in ("fan_in", "fan_out", "fan_avg", "fan_geo_avg"):
            raise ValueError(f"mode must be fan_in, fan_out, fan_avg or fan_geo_avg, but is {mode!r}")
        found = []
        for ins, outs in self._both(shape):
            fan_in = ins if self.fan_in is None else self.fan_in
            fan_out = outs if self.fan_out is None else self.fan_out
            if fan_in < 0 or fan_out < 0:
                raise ValueError(f"fans are not negative, but {fan_in} and {fan_out} are given")
            average, product = (fan_in + fan_out) / 2, math.sqrt(fan_in * fan_out)
            found.append({"fan_in": fan_in, "fan_out": fan_out, "fan_avg": average}.get(mode, product))
        return found

    def pieces(self, shape: Sequence[int]) -> list[tuple[int, int]]:
        """The dimension along which the splits stand, and the size of each."""
        _, outputs, _ = self._dimensions(shape)
        if len(outputs) > 1:
            raise ValueError("splits of different sizes take a single out_dim")
        return [(outputs[0], size) for size in self._sizes(shape[outputs[0]])]

    def _both(self, shape: Sequence[int]) -> list[tuple[float, float]]:
        if self.fan_in is not None and self.fan_out is not None and self.splits == 1:
            return [(self.fan_in, self.fan_out)]
        inputs, outputs, batch = self._dimensions(shape)
        size_in, size_out = [math.prod([shape[d] for d in dims]) for dims in (inputs, outputs)]
        field = math.prod([shape[d] for d in range(len(shape)) if d not in (*inputs, *outputs, *batch)])
        transposed = 0 in inputs
        stacked = size_in if transposed else size_out
        if self.groups < 1 or stacked % self.groups:
            raise ValueError(f"groups={self.groups} does not divide {stacked} channels")
        in_groups, out_groups = (self.groups, 1) if transposed else (1, self.groups)
        sizes = self._sizes(size_out)
        sizes = sizes[:1] if len({*sizes}) == 1 else sizes
        return [(size_in * field / in_groups, size * field / out_groups) for size in sizes]

    def _dimensions(self, shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Those of the inputs, of the outputs and of the batch."""
        inputs = _within("in_dim", self.in_dim, len(shape))
        outputs = _within("out_dim", self.out_dim, len(shape))
        batch = _within("batch_dims", self.batch_dims, len(shape))
        outputs = outputs or tuple(d for d in range(len(shape)) if d not in (*batch, *inputs))[:1]
        inputs = inputs or tuple(d for d in range(len(shape)) if d not in (*batch, *outputs))[:1]
        if not inputs or not outputs:
            raise ValueError(f"a weight of shape {tuple(shape)} has no fans: they take inputs and outputs")
        if len({*inputs, *outputs, *batch}) < len(inputs) + len(outputs) + len(batch):
            raise ValueError(f"in_dim, out_dim and batch_dims overlap: {inputs}, {outputs} and {batch}")
        return inputs, outputs, batch

    def _sizes(self, outputs: int) -> list[int]:
        if isinstance(self.splits, int):
            if self.splits < 1 or outputs % self.splits:
                raise ValueError(f"splits={self.splits} does not divide {outputs} outputs")
            return [outputs // self.splits] * self.splits
        sizes = [int(size) for size in self.splits]
        if sum(sizes) != outputs or min(sizes, default=0) < 1:
            raise ValueError(f"splits={sizes} do not add up to {outputs} outputs")
        return sizes


def _within(name: str, given: int | Sequence[int] | None, dims: int) -> tuple[int, ...]:
    """Dimensions counted from the beginning."""
    found = () if given is None else (given,) if isinstance(given, int) else tuple(given)
    if any(not -dims <= d < dims for d in found):
        raise ValueError(f"{name}={given} is out of range for {dims} dimensions")
    return tuple(d % dims for d in found)


def _scale(gain: float, fan: float) -> float:
    """Scale a weight so that a sum over ``fan`` terms of unit variance has the variance ``gain`` squared."""
    return gain / math.sqrt(fan)
