"""The distribution that a chain of fills and operators gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch.nn.init import calculate_gain

Family = Literal["normal", "truncated", "uniform", "constant", "sparse", "other"]
TRUNCATED_AT_TWO = 0.87962566103423978  # the standard deviation of a standard normal that is cut at ±2


@dataclass(frozen=True, slots=True)
class Theory:
    """The distribution of a parameter's values.

    Attributes:
        family: its shape.
        mean, std: its moments.
        low, high: what no value is beyond; infinite for a normal.
        sigma: for a truncated normal, the deviation of the normal that is cut, and ``centre`` its mean.
        open_end: whether it is the inverse error function of a uniform value that may be exactly -1, which gives an infinity.
    """

    family: Family
    mean: float
    std: float
    low: float = -math.inf
    high: float = math.inf
    sigma: float = 0.0
    centre: float = 0.0
    open_end: bool = False

    def limits(self, count: int) -> tuple[float, float]:
        """What none of this many values is beyond, but for one time in 10⁹."""
        if self.family in ("normal", "truncated", "sparse"):
            reach = math.sqrt(2 * math.log(2 * max(count, 1) / 1e-9)) * (self.sigma or self.std)
            return max(self.low, self.centre - reach), min(self.high, self.centre + reach)
        return self.low, self.high

    def density(self, x: float) -> float | None:
        """The density at x, if the family has one that is known."""
        if self.family == "uniform":
            return 1 / (self.high - self.low) if self.low <= x <= self.high and self.high > self.low else 0.0
        if self.family in ("normal", "truncated") and self.sigma > 0:
            if not self.low <= x <= self.high:
                return 0.0
            mass = cdf((self.high - self.centre) / self.sigma) - cdf((self.low - self.centre) / self.sigma)
            z = (x - self.centre) / self.sigma
            return math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / self.sigma / max(mass, 1e-300)
        return None

    def share_within(self, radius: float) -> float:
        """Which share of the values is nearer to 0 than ``radius``."""
        if self.family == "constant":
            return float(abs(self.mean) < radius)
        if self.family == "uniform" and self.high > self.low:
            return max(0.0, min(self.high, radius) - max(self.low, -radius)) / (self.high - self.low)
        if self.family in ("normal", "truncated") and self.sigma > 0:
            low, high = (self.low - self.centre) / self.sigma, (self.high - self.centre) / self.sigma
            a, b = (-radius - self.centre) / self.sigma, (radius - self.centre) / self.sigma
            return max(0.0, cdf(min(b, high)) - cdf(max(a, low))) / max(cdf(high) - cdf(low), 1e-300)
        return 0.0

    def affine(self, factor: float, shift: float) -> Theory:
        ends = sorted((scaled(self.low, factor, shift), scaled(self.high, factor, shift)))
        return replace(
            self,
            mean=self.mean * factor + shift,
            std=self.std * abs(factor),
            low=ends[0],
            high=ends[1],
            sigma=self.sigma * abs(factor),
            centre=self.centre * factor + shift,
        )


def scaled(end: float, factor: float, shift: float) -> float:
    return shift if factor == 0 else end * factor + shift


def cdf(z: float) -> float:
    return math.erfc(-z / math.sqrt(2)) / 2


def normal(mean: float, std: float) -> Theory:
    return Theory("normal", mean, std, sigma=std, centre=mean)


def uniform(low: float, high: float) -> Theory:
    return Theory("uniform", (low + high) / 2, (high - low) / math.sqrt(12), low, high)


def constant(value: float) -> Theory:
    return Theory("constant", value, 0.0, value, value)


def truncated(mean: float, std: float, low: float, high: float) -> Theory | None:
    """N(mean, std²) within [low, high] (Johnson, Kotz and Balakrishnan, 1994, section 13.10.1)."""
    if not (std > 0 and low < high):
        return None
    a, b = (low - mean) / std, (high - mean) / std
    mass = cdf(b) - cdf(a)
    if mass < 1e-9:  # a far tail
        return None

    def density(z: float) -> float:
        return 0.0 if math.isinf(z) else math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    def moment(z: float) -> float:
        return 0.0 if math.isinf(z) else z * density(z)

    shift = (density(a) - density(b)) / mass
    variance = 1 + (moment(a) - moment(b)) / mass - shift * shift
    if variance <= 1e-6:  # it cancels; the interval is all but flat
        return Theory("other", (low + high) / 2, (high - low) / math.sqrt(12), low, high)
    return Theory("truncated", mean + std * shift, std * math.sqrt(variance), low, high, std, mean)


def fans(shape: Sequence[int]) -> tuple[int, int] | None:
    """The fan-in and the fan-out that torch gives a weight of this shape."""
    if len(shape) < 2:
        return None
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def of_fill(function: str, arguments: Mapping[str, Any], shape: Sequence[int]) -> Theory | None:
    """The distribution of one fill of a tensor of this shape; None if nobody knows it."""
    name = function.removeprefix("Tensor.")
    try:
        found: Theory | None = FILLS[name](arguments, shape)
        return known(found)
    except (ArithmeticError, KeyError, TypeError, ValueError):
        return None


def known(theory: Theory | None) -> Theory | None:
    """A distribution with moments; None for others."""
    if theory is None or theory.family == "constant" or math.isfinite(theory.mean + theory.std):
        return theory
    return None


def _kaiming(arguments: Mapping[str, Any], shape: Sequence[int]) -> float:
    both = fans(shape)
    if both is None:
        raise ValueError("no fans")
    fan = both[0] if arguments.get("mode", "fan_in") == "fan_in" else both[1]
    gain = calculate_gain(arguments.get("nonlinearity", "leaky_relu"), arguments.get("a", 0))
    return gain / math.sqrt(fan)


def _xavier(arguments: Mapping[str, Any], shape: Sequence[int]) -> float:
    both = fans(shape)
    if both is None:
        raise ValueError("no fans")
    return float(arguments.get("gain", 1.0)) * math.sqrt(2 / sum(both))


def _flat(std: float) -> Theory:
    return uniform(-std * math.sqrt(3), std * math.sqrt(3))


def _orthogonal(arguments: Mapping[str, Any], shape: Sequence[int]) -> Theory:
    rows, columns = shape[0], math.prod(shape[1:])
    gain = abs(float(arguments.get("gain", 1)))
    return Theory("other", 0.0, gain / math.sqrt(max(rows, columns)), -gain, gain)


def _trunc(arguments: Mapping[str, Any], shape: Sequence[int]) -> Theory | None:
    return truncated(*(float(arguments[name]) for name in ("mean", "std", "a", "b")))


def _sparse(arguments: Mapping[str, Any], shape: Sequence[int]) -> Theory:
    std = float(arguments.get("std", 0.01))
    return Theory("sparse", 0.0, std * math.sqrt(max(0.0, 1 - float(arguments["sparsity"]))), sigma=std)


FILLS: dict[str, Any] = {
    "normal_": lambda a, s: normal(float(a["mean"]), float(a["std"])),
    "uniform_": lambda a, s: uniform(float(a["a"]), float(a["b"])),
    "trunc_normal_": _trunc,
    "xavier_normal_": lambda a, s: normal(0.0, _xavier(a, s)),
    "xavier_uniform_": lambda a, s: _flat(_xavier(a, s)),
    "kaiming_normal_": lambda a, s: normal(0.0, _kaiming(a, s)),
    "kaiming_uniform_": lambda a, s: _flat(_kaiming(a, s)),
    "orthogonal_": _orthogonal,
    "sparse_": _sparse,
    "constant_": lambda a, s: constant(float(a["val"])),
    "ones_": lambda a, s: constant(1.0),
    "zeros_": lambda a, s: constant(0.0),
    "zero_": lambda a, s: constant(0.0),
    "fill_": lambda a, s: constant(float(a["value"])),
}


def after(theory: Theory | None, operator: str, numbers: Sequence[Any]) -> Theory | None:
    """The distribution after an operator with these arguments was applied in place; None if nobody knows it."""
    name = operator.removeprefix("aten.").partition(".")[0]
    if name in ("fill_", "zero_", "zeros", "ones", "full", "zeros_like", "ones_like"):
        return created(name, numbers)
    if name in ("rand", "randn", "rand_like", "randn_like"):
        return uniform(0.0, 1.0) if "randn" not in name else normal(0.0, 1.0)
    if theory is None:
        return None
    values = [float(value) for value in numbers if isinstance(value, (int, float))]
    if len(values) < len(numbers) and name not in ("clamp_", "clamp"):
        return theory if name in SAME else None
    if name in SAME:
        return theory
    if name in ("mul_", "mul") and len(values) == 1:
        return known(theory.affine(values[0], 0.0))
    if name in ("div_", "div") and len(values) == 1 and values[0]:
        return known(theory.affine(1 / values[0], 0.0))
    if name in ("add_", "add", "sub_", "sub") and values:
        sign = 1 if name.startswith("add") else -1
        return known(theory.affine(1.0, sign * math.prod(values[:2])))
    if name in ("erfinv_", "erfinv") and theory.family == "uniform":
        return inverse_error_function(theory)
    if name in ("clamp_", "clamp"):
        return clamped(theory, *(numbers[i] if len(numbers) > i else None for i in (0, 1)))
    return None


SAME = ("clone", "_to_copy", "copy_", "contiguous", "detach", "requires_grad_", "view", "alias", "transpose")


def created(name: str, numbers: Sequence[Any]) -> Theory | None:
    if name.startswith("zero"):
        return constant(0.0)
    if name.startswith("ones"):
        return constant(1.0)
    value = next((number for number in reversed(numbers) if isinstance(number, (int, float))), None)
    return None if value is None else constant(float(value))


def inverse_error_function(theory: Theory) -> Theory | None:
    """Of a uniform value: a normal of deviation 1/√2 within the ends' images."""
    ends = torch.tensor([theory.low, theory.high], dtype=torch.float64).clamp(-1, 1).erfinv()
    low, high = (float(end) for end in ends)
    # At -1 itself the image is infinite. What is drawn lies in [low, high), so 1 is never drawn.
    found = truncated(0.0, math.sqrt(0.5), low, high)
    return None if found is None else replace(found, open_end=theory.low <= -1.0)


def clamped(theory: Theory, low: Any, high: Any) -> Theory | None:
    """Between bounds that hold nearly all of the values."""
    low = -math.inf if low is None else float(low)
    high = math.inf if high is None else float(high)
    inside = max(theory.low, low), min(theory.high, high)
    if theory.family in ("normal", "truncated") and theory.sigma > 0:
        beyond = cdf((inside[0] - theory.centre) / theory.sigma) + cdf(
            (theory.centre - inside[1]) / theory.sigma
        )
        there = cdf((theory.low - theory.centre) / theory.sigma) + cdf(
            (theory.centre - theory.high) / theory.sigma
        )
        if beyond - there > 1e-3:
            return None
        return replace(theory, low=inside[0], high=inside[1])
    if inside == (theory.low, theory.high):
        return theory
    return None
