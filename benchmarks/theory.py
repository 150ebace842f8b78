"""What each initialiser should draw, and whether a tensor looks like it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

SAMPLE = 2**17  # at most so many values of each tensor, at equal distances, enter the moments
TOLERANCE = 5.0  # standard errors that a mean or a standard deviation may be off
BEYOND = (1e-7, 20.0)  # where n * P(beyond the outermost of n values) lies, but for one time in 10^7
ORTHOGONALITY = 16.0  # machine epsilons that an entry of Q'Q may be off
CONSTANTS = {"ones_": 1.0, "zeros_": 0.0}


@dataclass(frozen=True)
class Law:
    """A distribution: its moments, its bounds, its density, and the probabilities below and above x."""

    mean: float
    std: float
    low: float
    high: float
    density: Callable[[float], float]
    below: Callable[[float], float]
    above: Callable[[float], float]


def uniform(low: float, high: float) -> Law:
    width = high - low
    return Law(
        mean=(low + high) / 2,
        std=width / math.sqrt(12),
        low=low,
        high=high,
        density=lambda x: float(low <= x <= high) / width,
        below=lambda x: (x - low) / width,
        above=lambda x: (high - x) / width,
    )


def normal(mean: float, std: float, low: float = -math.inf, high: float = math.inf) -> Law:
    """The normal distribution, truncated to [low, high]."""

    def pdf(z: float) -> float:
        return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    def tail(z: float) -> float:
        return math.erfc(z / math.sqrt(2)) / 2

    a, b = (low - mean) / std, (high - mean) / std
    mass = tail(a) - tail(b)
    shift = (pdf(a) - pdf(b)) / mass
    edges = (a * pdf(a) if math.isfinite(a) else 0.0) - (b * pdf(b) if math.isfinite(b) else 0.0)
    return Law(
        mean=mean + std * shift,
        std=std * math.sqrt(1 + edges / mass - shift**2),
        low=low,
        high=high,
        density=lambda x: float(low <= x <= high) * pdf((x - mean) / std) / (std * mass),
        below=lambda x: (tail(-(x - mean) / std) - tail(-a)) / mass,
        above=lambda x: (tail((x - mean) / std) - tail(b)) / mass,
    )


def arguments_of(name: str, tensor: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments of a call of `torch.nn.init.name` by name, defaults filled in."""
    call = inspect.signature(getattr(torch.nn.init, name)).bind(tensor, *args, **kwargs)
    call.apply_defaults()
    return call.arguments


def law_of(name: str, given: dict[str, Any]) -> Law:
    """The law of one element after the initialiser `name` with these arguments."""
    tensor = given["tensor"]
    match name:
        case "uniform_":
            return uniform(given["a"], given["b"])
        case "normal_":
            return normal(given["mean"], given["std"])
        case "trunc_normal_":
            return normal(given["mean"], given["std"], given["a"], given["b"])
        case "sparse_":  # of the elements that are not zero
            return normal(0, given["std"])
        case "orthogonal_":  # of an entry of a large matrix; the exact law differs by O(1/n)
            return normal(0, given["gain"] / math.sqrt(max(tensor.shape[0], tensor[0].numel())))
    fan_in, fan_out = torch.nn.init._calculate_fan_in_and_fan_out(tensor)
    if name.startswith("xavier"):
        std = given["gain"] * math.sqrt(2 / (fan_in + fan_out))
    else:
        gain = torch.nn.init.calculate_gain(given["nonlinearity"], given["a"])
        std = gain / math.sqrt(fan_in if given["mode"] == "fan_in" else fan_out)
    bound = math.sqrt(3) * std
    return normal(0, std) if name.endswith("normal_") else uniform(-bound, bound)


def sample(values: Tensor) -> Tensor:
    """At most SAMPLE values at equal, odd distances, so that the sample runs through all columns."""
    flat = values.detach().flatten()
    step = -(-flat.numel() // SAMPLE) | 1
    return flat[::step].double().cpu()


@dataclass
class Tally:
    """What one initialiser drew over all its calls, each in units of its own law: z = (x - mean) / std."""

    sampled: int = 0
    sums: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))  # z, z^2, z^4
    low: float = math.inf
    high: float = -math.inf
    wrong: list[str] = field(default_factory=list)

    def add(self, name: str, given: dict[str, Any]) -> None:
        """Look at a tensor just filled by `name`: a sample for the moments, all values for the bounds."""
        tensor = given["tensor"].detach()
        values = tensor.flatten()
        if name == "sparse_":
            self.wrong += wrong_zeros(tensor, given["sparsity"])
            values = values[values != 0]
            if not values.numel():
                return
        low, high = (x.item() for x in values.aminmax())
        if name in CONSTANTS:
            self.low, self.high = min(self.low, low), max(self.high, high)
            self.wrong += [] if low == high == CONSTANTS[name] else [f"not all {CONSTANTS[name]}"]
            return
        if name == "orthogonal_":
            self.wrong += wrong_products(tensor, given["gain"])
        law = law_of(name, given)
        z = (sample(values) - law.mean) / law.std
        self.sampled += z.numel()
        self.sums += torch.stack([z.sum(), z.square().sum(), z.pow(4).sum()])
        self.low = min(self.low, (low - law.mean) / law.std)
        self.high = max(self.high, (high - law.mean) / law.std)
        self.wrong += wrong_extremes(values, low, high, law)

    def verdict(self) -> dict[str, Any]:
        """Mean and standard deviation in standard errors from theory, the extremes, and what is wrong."""
        mean_error = std_error = None
        wrong = list(dict.fromkeys(self.wrong))
        if self.sampled:
            mean, square, fourth = (self.sums / self.sampled).tolist()
            mean_error = in_errors(mean, square, self.sampled)
            std_error = in_errors(square - 1, fourth - square**2, self.sampled)
            for what, error in (("mean", mean_error), ("standard deviation", std_error)):
                if error is None or abs(error) > TOLERANCE:
                    wrong.append(f"the {what} is not as it should be")
        return {
            "sampled": self.sampled,
            "mean_error": mean_error,
            "std_error": std_error,
            "min": self.low if math.isfinite(self.low) else None,
            "max": self.high if math.isfinite(self.high) else None,
            "wrong": wrong,
            "ok": not wrong,
        }


def in_errors(off: float, variance: float, n: int) -> float | None:
    """A mean over n values in standard errors; None if the values do not vary, or are not finite."""
    return off / math.sqrt(variance / n) if 0 < variance < math.inf else None


def wrong_extremes(values: Tensor, low: float, high: float, law: Law) -> list[str]:
    """Are the outermost values within the law's bounds, and about as far out as so many draws reach?"""
    in_dtype = torch.tensor([law.low, law.high], dtype=values.dtype).tolist()
    if not in_dtype[0] <= low <= high <= in_dtype[1]:
        return [f"[{low}, {high}] is not within [{law.low}, {law.high}]"]
    slack = torch.finfo(values.dtype).eps * max(-low, high)  # of rounding to the dtype
    n = values.numel()
    wrong = []
    for what, beyond, bound in (("min", law.below, law.low), ("max", law.above, law.high)):
        x, outwards = (low, -slack) if what == "min" else (high, slack)
        if n * beyond(x + outwards) > BEYOND[1]:
            wrong.append(f"{what} is too near the mean: {x}")
        if math.isinf(bound) and n * beyond(x - outwards) < BEYOND[0]:
            wrong.append(f"{what} is too far from the mean: {x}")
    return wrong


def wrong_zeros(matrix: Tensor, sparsity: float) -> list[str]:
    """Does each column hold the right number of zeros, or up to two more, as a drawn value may be zero too?"""
    wanted = math.ceil(sparsity * matrix.shape[0])
    zeros = (matrix == 0).sum(dim=0)
    if zeros.min() == wanted and zeros.max() <= wanted + 2:
        return []
    return [f"{zeros.min()} to {zeros.max()} zeros in a column, not {wanted}"]


def wrong_products(tensor: Tensor, gain: float) -> list[str]:
    """Are the shorter of rows and columns orthonormal (times the gain)? Takes up to 64 against all."""
    rows = tensor.flatten(start_dim=1)
    rows = (rows if rows.shape[0] <= rows.shape[1] else rows.T).double() / gain
    some = torch.arange(0, rows.shape[0], -(-rows.shape[0] // 64), device=rows.device)
    products = rows[some] @ rows.T
    products[torch.arange(len(some)), some] -= 1
    error, allowed = products.abs().max().item(), ORTHOGONALITY * torch.finfo(tensor.dtype).eps
    return [] if error <= allowed else [f"max |Q'Q - I| = {error:.1e}, more than {allowed:.1e}"]
