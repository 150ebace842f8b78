"""What each initialiser should draw, and whether it did."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

SAMPLE = 2**17  # at most so many values of each tensor, at equal distances, enter the moments
TOLERANCE = 5.0  # standard errors that a mean or a standard deviation may be off
FAR = 7.5  # standard deviations that no unbounded value reaches
CONSTANTS = {"ones_": 1.0, "zeros_": 0.0}


class Law(NamedTuple):
    mean: float
    std: float
    low: float = -math.inf
    high: float = math.inf


def uniform(low: float, high: float) -> Law:
    return Law((low + high) / 2, (high - low) / math.sqrt(12), low, high)


def truncated(mean: float, std: float, low: float, high: float) -> Law:
    """The moments of a normal distribution within bounds."""
    a, b = (low - mean) / std, (high - mean) / std
    densities = [math.exp(-z * z / 2) / math.sqrt(2 * math.pi) for z in (a, b)]
    mass = (math.erf(b / math.sqrt(2)) - math.erf(a / math.sqrt(2))) / 2
    shift = (densities[0] - densities[1]) / mass
    variance = 1 + (a * densities[0] - b * densities[1]) / mass - shift**2
    return Law(mean + std * shift, std * math.sqrt(variance), low, high)


def law_of(name: str, tensor: Tensor, given: dict[str, Any]) -> Law:
    """The law of one element after the initialiser `name` with these arguments."""
    match name:
        case "uniform_":
            return uniform(given["a"], given["b"])
        case "normal_":
            return Law(given["mean"], given["std"])
        case "trunc_normal_":
            return truncated(given["mean"], given["std"], given["a"], given["b"])
        case "sparse_":  # of the elements that are not zero
            return Law(0.0, given["std"])
        case "orthogonal_":  # of an entry of a large matrix; the exact law differs by O(1/n)
            return Law(0.0, given["gain"] / math.sqrt(max(tensor.shape)))
    inputs, outputs = torch.nn.init._calculate_fan_in_and_fan_out(tensor)
    if "kaiming" in name:
        scale = torch.nn.init.calculate_gain(given["nonlinearity"], given["a"])
        std = scale * (inputs if given["mode"] == "fan_in" else outputs) ** -0.5
    else:
        std = given["gain"] * (2 / (inputs + outputs)) ** 0.5
    return uniform(-math.sqrt(3) * std, math.sqrt(3) * std) if "uniform" in name else Law(0.0, std)


@dataclass
class Verdict:
    """What one initialiser drew over all its calls, in units of each call's law: z = (x - mean) / std."""

    sampled: int = 0
    sum: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    wrong: dict[str, None] = field(default_factory=dict)  # in order, each reason once
    shown: Tensor | None = None  # a sample of the first call, for the picture

    def look(self, name: str, tensor: Tensor, *args: Any, **kwargs: Any) -> None:
        """Look at a tensor that was just filled."""
        call = inspect.signature(getattr(torch.nn.init, name)).bind(tensor, *args, **kwargs)
        call.apply_defaults()
        values = tensor.detach().flatten()
        if name in CONSTANTS:
            self.expect(bool((values == CONSTANTS[name]).all()), f"not all values are {CONSTANTS[name]:g}")
            return
        if name == "sparse_":
            zeros = (tensor == 0).sum(dim=0)
            wanted = math.ceil(call.arguments["sparsity"] * tensor.shape[0])  # a drawn value may be zero too
            self.expect(bool((zeros >= wanted).all() and (zeros <= wanted + 2).all()), "zeros in a column")
            values = values[values != 0]
        if name == "orthogonal_":
            rows = (tensor if tensor.shape[0] <= tensor.shape[1] else tensor.T).double()[:64]
            error = rows @ rows.T / call.arguments["gain"] ** 2 - torch.eye(len(rows), device=rows.device)
            self.expect(bool(error.abs().max() < 16 * torch.finfo(tensor.dtype).eps), "not orthonormal")
        law = law_of(name, tensor, call.arguments)
        low, high = (x.item() for x in values.aminmax()) if values.numel() else (math.nan, math.nan)
        bounds = torch.tensor([law.low, law.high], dtype=values.dtype).tolist()
        self.expect(bounds[0] <= low <= high <= bounds[1], "values beyond the bounds")
        self.low, self.high = (
            min(self.low, (low - law.mean) / law.std),
            max(self.high, (high - law.mean) / law.std),
        )
        if math.isinf(law.high):
            self.expect(self.low > -FAR and self.high < FAR, "values too far from the mean")
        sample = values[:: -(-values.numel() // SAMPLE) | 1].double().cpu()  # odd steps: through all columns
        z = (sample - law.mean) / law.std
        self.sampled += z.numel()
        self.sum += z.sum().item()
        self.squares += z.square().sum().item()
        self.shown = sample if self.shown is None else self.shown

    def expect(self, right: bool, otherwise: str) -> None:
        if not right:
            self.wrong[otherwise] = None

    def errors(self) -> tuple[float, float]:
        """How far mean and variance are from the law, in standard errors (of a normal distribution)."""
        n = max(self.sampled, 1)
        return self.sum / math.sqrt(n), (self.squares - n) / math.sqrt(2 * n) if self.sampled else 0.0

    def reasons(self) -> list[str]:
        off = [
            f"the {what} is not as it should be"
            for what, error in zip(("mean", "standard deviation"), self.errors(), strict=True)
            if not abs(error) <= TOLERANCE
        ]
        return [*self.wrong, *off]
