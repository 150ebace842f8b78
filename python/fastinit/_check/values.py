"""Findings on values: those that are no numbers, far out, or the same throughout."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from fastinit._check import structure
from fastinit._check.filled import constant_of, finding
from fastinit._check.finding import Finding
from fastinit._check.subject import Stats, Subject, Weight
from fastinit._parts import here

LAYERS = (nn.Linear, _ConvNd)
# What gives 0 for 0, and holds no parameters.
QUIET = (*structure.SILENT, nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Identity)
FAR = 30.0  # deviations, by which no value of a sane distribution is away
RARE = 1e-4  # a share of values that is too small to be meant


def not_finite(subject: Subject) -> Iterator[Finding]:
    for weight in subject.weights:
        if weight.unwritten:
            continue
        stats = weight.stats
        if stats is None or not (stats.nan or stats.infinite):
            continue
        if stats.infinite == stats.count and weight.theory is not None and weight.theory.family == "constant":
            continue  # a mask
        counts = [f"{n:,} {what}" for n, what in ((stats.nan, "NaN"), (stats.infinite, "infinite")) if n]
        yield finding(
            "not-finite",
            "error",
            weight,
            f"Of its {stats.count:,} values are {' and '.join(counts)}.",
            "Look at what was done after the fill, and at the fill's arguments.",
            weight.fill,
        )


def outliers(subject: Subject) -> Iterator[Finding]:
    for weight in subject.weights:
        stats = weight.stats
        if stats is None or weight.unwritten or stats.constant or not weight.random:
            continue
        theory = weight.theory
        if theory is not None and theory.family != "other" and theory.std > 0:
            low, high = theory.limits(stats.count)
            slack = 4 * torch.finfo(weight.dtype).eps * max(abs(stats.low), abs(stats.high)) + 1e-12
            # Zeros that were put in later, such as a padding row, are no outliers.
            if (low - slack <= stats.low and stats.high <= high + slack) or not low <= 0.0 <= high:
                continue
            scale, centre = theory.sigma or theory.std, theory.centre if theory.sigma else theory.mean
        elif theory is None and stats.count >= 4096:
            scale, centre = robust(stats)
            if scale <= 0 or max(stats.high - centre, centre - stats.low) < FAR * scale:
                continue
        else:
            continue
        count = beyond(weight, centre, scale, max(abs(stats.high - centre), abs(stats.low - centre)))
        if count > RARE * stats.count + 1:
            continue
        worst = max((stats.low, stats.high), key=lambda value: abs(value - centre))
        open_end = theory is not None and theory.open_end
        yield finding(
            "outlier",
            "warning",
            weight,
            f"The value {worst:.6g} is {abs(worst - centre) / scale:.0f} standard deviations away from the mean.",
            "torch.nn.init.trunc_normal_ cuts where this fill clamps an infinity."
            if open_end
            else "Look at what was done after the fill.",
            weight.fill,
        )


def robust(stats: Stats) -> tuple[float, float]:
    """A deviation that single values do not move, and the median."""
    values = stats.sample[torch.isfinite(stats.sample)]
    if values.numel() == 0:
        return 0.0, 0.0
    median = values.median()
    return float((values - median).abs().median()) / 0.6745, float(median)


def beyond(weight: Weight, centre: float, scale: float, most: float) -> int:
    """How many values are about as far away as the farthest one: at least half of that, and well outside of the rest."""
    values = weight.values()
    if values is None:
        return 0
    local = here(values)[0].detach()
    local = local if local.dtype == torch.float64 else local.float()
    return int(((local - centre).abs() > max(most / 2, 10 * scale)).sum())


def open_end(subject: Subject) -> Iterator[Finding]:
    for weight in subject.weights:
        theory = weight.theory
        if theory is None or not theory.open_end or theory.sigma == 0:
            continue
        reach = (theory.centre - theory.low) / theory.sigma
        if reach < 8:
            continue
        yield finding(
            "inverted-uniform",
            "warning",
            weight,
            "It is the inverse error function of uniform values, which may be exactly -1 and then give -inf: "
            + ("one value in 2²⁴ is clamped {} sigma out." if math.isfinite(reach) else "one value in 2²⁴.")
            + " The bounds cut nothing else.",
            "Use torch.nn.init.trunc_normal_ with bounds in units of sigma, or normal_.",
            next((done for done in weight.steps or () if done.random), None),
            measure=reach if math.isfinite(reach) else None,
        )


def constant_matrix(subject: Subject) -> Iterator[Finding]:
    for weight in subject.weights:
        if weight.unwritten or not structure.multiplies(weight) or structure.is_norm(weight.module):
            continue
        if re.search(r"lora_(B|up|embedding_B)", weight.name):
            continue  # zero by design; ``zero_product`` looks at its partner
        value = constant_of(weight)
        if value is None or not math.isfinite(value):
            continue
        if value != 0.0:
            yield finding(
                "constant-matrix",
                "warning",
                weight,
                f"All of its values are {value:.6g}: its outputs are all the same, and so are their gradients, for ever.",
                "Draw it at random, or use eye_ or dirac_ for an identity.",
                weight.fill,
            )
        else:
            yield finding(
                "zero-matrix",
                "note",
                weight,
                "All of its values are 0: nothing passes, and no gradient reaches what is before it in the first step.",
                "That is meant for the last layer of a residual branch, an adapter or a head; else draw it at random.",
                weight.fill,
            )


PARTNERS = (("lora_A", "lora_B"), ("lora_down", "lora_up"), ("lora_embedding_A", "lora_embedding_B"))


def zero_product(subject: Subject) -> Iterator[Finding]:
    for first, second in pairs(subject):
        if constant_of(first) == 0.0 and constant_of(second) == 0.0:
            yield finding(
                "zero-product",
                "error",
                (first, second),
                "Both factors of a product are 0, so that the gradients of both are 0: neither will ever change.",
                "Draw one of them at random.",
                second.fill or first.fill,
            )


def pairs(subject: Subject) -> Iterator[tuple[Weight, Weight]]:
    """Parameters whose product a branch consists of: adapters, a layer behind a layer, a convolution and its norm."""
    for weight in subject.weights:
        for a, b in PARTNERS:
            other = subject.by_name.get(weight.name.replace(a, b)) if a in weight.name else None
            if other is not None:
                yield weight, other
    for _, members in structure.sequences(subject):
        held = [(name, module) for name, module in members if not isinstance(module, QUIET)]
        for (name, module), (next_name, following) in pairwise(held):
            norm = structure.is_norm(following)
            if isinstance(module, LAYERS) and (norm or isinstance(following, LAYERS)):
                yield from pair(subject, name, next_name, through_norm=norm)
    for prefix, module in subject.modules.items():
        for key, child in module.named_children():
            norm_key = re.sub(r"conv(\d+)$", r"bn\1", key)
            if norm_key != key and isinstance(child, _ConvNd) and hasattr(module, norm_key):
                base = f"{prefix}." if prefix else ""
                yield from pair(subject, base + key, base + norm_key, through_norm=True)


def pair(subject: Subject, first: str, second: str, through_norm: bool) -> Iterator[tuple[Weight, Weight]]:
    """The weights of two layers, if what the first one gives is 0 where its weight is."""
    a, b = (subject.by_name.get(f"{name}.weight") for name in (first, second))
    bias = subject.by_name.get(f"{first}.bias")
    if a is not None and b is not None and (bias is None or through_norm or constant_of(bias) == 0.0):
        yield a, b


CHECKS = (not_finite, outliers, open_end, constant_matrix, zero_product)
