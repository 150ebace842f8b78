"""Whether the values are right; nothing is timed that is not."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark.utils.common import set_torch_threads

import fastinit
from benchmarks import theory
from benchmarks.cases import Case, ManyCase, ModelCase
from benchmarks.libraries import capabilities, capability

FIXED = ("constant_", "ones_", "zeros_", "eye_", "dirac_")
DRAWS = 512  # a small tensor is filled anew until so many values have been seen
MANY = 2**16  # elements from which the entries of an orthogonal matrix are as good as normal
SAME_BITS = (1023, 1025)  # the largest matrix on which instruction sets are compared


class Examiner:
    """A library that fills nothing: each function looks whether the tensor holds what it was to be filled with.

    So whatever initialises an operand with a library can be examined by calling it again with an Examiner.
    """

    def __init__(self, thorough: bool = True) -> None:
        self.thorough = thorough  # all of Q'Q, and not a part
        self.tallies: defaultdict[str, theory.Tally] = defaultdict(theory.Tally)
        self.orthogonality: float | None = None  # the largest |Q'Q - I| seen

    def __getattr__(self, name: str) -> Callable[..., Tensor]:
        return partial(self.look, name)

    def look(self, name: str, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        given = theory.arguments_of(name, tensor, *args, **kwargs)
        tally = self.tallies[name]
        if name in FIXED:
            wanted = getattr(torch.nn.init, name)(torch.empty_like(tensor), *args, **kwargs)
            tally.wrong += [] if torch.equal(tensor, wanted) else ["other values than torch's"]
            return tensor
        if name == "orthogonal_" and self.thorough:
            error = orthogonality(tensor, given["gain"])
            allowed = theory.ORTHOGONALITY * torch.finfo(tensor.dtype).eps
            tally.wrong += [] if error <= allowed else [f"max |Q'Q - I| = {error:.1e} > {allowed:.1e}"]
            self.orthogonality = max(error, self.orthogonality or 0)
        if name != "orthogonal_" or tensor.numel() >= MANY:
            tally.add(name, given)
        return tensor

    def verdict(self) -> dict[str, Any]:
        verdicts = {name: tally.verdict() for name, tally in self.tallies.items()}
        wrong = [
            f"{name}: {reason}"
            for name, tally in self.tallies.items()
            for reason in (verdicts[name]["wrong"] if tally.sampled else tally.wrong)
        ]
        numbers = [
            v[key] for v in verdicts.values() for key in ("mean_error", "std_error") if v[key] is not None
        ]
        return {
            "ok": not wrong,
            "wrong": wrong,
            "sampled": sum(tally.sampled for tally in self.tallies.values()),
            "standard_errors": max(map(abs, numbers), default=None),
            "orthogonality": self.orthogonality,
        }


def examine(case: Case, operand: Any, fill: Callable[[], Any]) -> dict[str, Any]:
    """Look at an operand that has been filled; `fill` fills it again, where it is too small to tell."""
    examiner = Examiner(thorough=not isinstance(case, ModelCase | ManyCase))
    look = case.call(examiner)
    look(operand)
    if isinstance(operand, Tensor) and case.function not in FIXED:
        for _ in range(DRAWS // operand.numel() - 1):
            fill()
            look(operand)
    return examiner.verdict()


def orthogonality(tensor: Tensor, gain: float) -> float:
    """max |Q'Q - I|, in float64, where Q is the tensor over the gain, with the shorter side for the columns."""
    q = tensor.detach().flatten(start_dim=1).double() / gain
    product = q @ q.T if q.shape[0] <= q.shape[1] else q.T @ q
    product.diagonal().sub_(1)
    return product.abs().max().item()


def same_bits(
    case: Case, shape: tuple[int, ...], dtype: torch.dtype, layout: str, device: str = "cpu"
) -> dict[str, Any] | None:
    """Whether all instruction sets and numbers of threads give the bits of one thread in contiguous memory, or the
    device gives those of the CPU.

    None where that is not promised: for `orthogonal_`, which multiplies matrices, and so for a model.
    """
    if isinstance(case, ModelCase | ManyCase) or case.function in ("orthogonal_", *FIXED):
        return None
    small = shape if math.prod(shape) <= math.prod(SAME_BITS) else SAME_BITS
    return _same_bits(case, small, dtype, layout, device)


@cache
def _same_bits(
    case: Case, shape: tuple[int, ...], dtype: torch.dtype, layout: str, device: str
) -> dict[str, Any]:
    def draw(layout: str, threads: int, name: str, device: str = "cpu") -> Tensor:
        tensor: Tensor = case.operand(shape, dtype, layout, device)
        with set_torch_threads(threads), capability(name):
            case.call(fastinit)(tensor, generator=torch.Generator().manual_seed(1))
        return tensor.cpu()

    if device != "cpu":
        same = torch.equal(draw(layout, 1, "", device), draw("contiguous", 1, ""))
        return {"ok": same, "wrong": [] if same else ["not the CPU's values"], "elements": math.prod(shape)}
    threads = sorted({1, 2, 3, torch.get_num_threads()})
    wanted = draw("contiguous", 1, "")
    differing = [
        f"{name}, {n} threads"
        for name in capabilities()
        for n in threads
        if not torch.equal(draw(layout, n, name), wanted)
    ]
    wrong = [f"other bits with {', '.join(differing)}"] if differing else []
    compared = {"capabilities": list(capabilities()), "threads": threads, "elements": math.prod(shape)}
    return {"ok": not wrong, "wrong": wrong, **compared}
