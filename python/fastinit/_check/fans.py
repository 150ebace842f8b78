"""Findings on fans: fills whose deviation comes from a shape that is not what the function takes it for."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch.nn.modules.conv import _ConvNd

from fastinit._check import structure, theory
from fastinit._check.filled import finding
from fastinit._check.finding import Finding, Severity
from fastinit._check.subject import Done, Subject, Weight

LAYOUT = "fastinit.extra has the same functions with the weight's layout: "


def scaled_by(done: Done, fan_in: float, fan_out: float) -> float:
    """The fan that a fill scales by, of these two."""
    if done.name.startswith("xavier"):
        return (fan_in + fan_out) / 2
    return fan_in if done.arguments.get("mode", "fan_in") == "fan_in" else fan_out


def with_fans(subject: Subject) -> Iterator[tuple[Weight, Done, tuple[int, int]]]:
    """The parameters whose last fill is one of those that scale by the fans, with the fans that it took."""
    for weight in subject.weights:
        done = weight.only
        if done is None or not done.name.startswith(("xavier_", "kaiming_")):
            continue
        taken = theory.fans(done.shape)
        if taken is not None and min(taken) > 0:
            yield weight, done, taken


def factor(done: Done, taken: tuple[float, float], meant: tuple[float, float]) -> float:
    """How many times too large the deviation is."""
    return math.sqrt(scaled_by(done, *meant) / scaled_by(done, *taken))


def differs(times: float) -> bool:
    return abs(times - 1) > 0.02


def fused(subject: Subject) -> Iterator[Finding]:
    for weight in subject.weights:
        held = structure.fused(weight)
        done = weight.only
        if held is None or done is None:
            continue
        what, sizes, inputs, outputs = held
        if done.name == "orthogonal_":
            if outputs > inputs:
                yield finding(
                    "fused-orthogonal",
                    "note",
                    weight,
                    f"The fused {what} are one orthogonal matrix together: none of the {len(sizes)} is, and each is "
                    f"{math.sqrt(sizes[0] / outputs):.3g} times as large as an orthogonal one of its own.",
                    "Fill each of them by itself, or use fastinit.batched_orthogonal_ on a view of the weight.",
                    done,
                )
            continue
        if not done.name.startswith(("xavier_", "kaiming_")):
            continue
        taken = theory.fans(done.shape)
        if taken is None:
            continue
        flipped = structure.inputs_first(weight)
        times = factor(done, taken, (sizes[0], inputs) if flipped else (inputs, sizes[0]))
        if differs(times):
            yield finding(
                "fans-fused",
                "warning",
                weight,
                f"It holds {what} and was scaled by the fans of them all: its std is {{}} times "
                "that of a projection by itself.",
                LAYOUT + f"{done.name}(weight, splits={sizes if len({*sizes}) > 1 else len(sizes)}).",
                done,
                measure=times,
            )


def shard(subject: Subject) -> Iterator[Finding]:
    for weight, done, taken in with_fans(subject):
        whole = structure.whole_shape(weight)
        if whole is None or done.part or tuple(done.shape) == whole:
            continue
        meant = theory.fans(whole)
        if meant is None:
            continue
        times = factor(done, taken, meant)
        if differs(times):
            yield finding(
                "fans-shard",
                "warning",
                weight,
                f"It is one rank's part of a weight of shape {whole}, and was scaled by its own fans: "
                f"its std is {times:.3f} times that of the whole.",
                "Fill the DTensor instead of its local tensor, or use fastinit.part_of(tensor, shape, offset).",
                done,
            )


def convolution(subject: Subject) -> Iterator[Finding]:
    for weight, done, taken in with_fans(subject):
        module = weight.module
        if not isinstance(module, _ConvNd) or weight.attribute != "weight" or done.shape != weight.shape:
            continue
        meant = structure.convolution_fans(module, weight.shape)
        times = factor(done, taken, meant)
        if not differs(times):
            continue
        turned = structure.transposed(module)
        default = done.name == "kaiming_uniform_" and done.arguments.get("a") == math.sqrt(5)
        severity: Severity = "note" if default else "warning"
        groups = "groups=module.groups" if module.groups > 1 else ""
        if turned:
            kind, why = "fans-transposed", "a transposed convolution, whose first dimension is the inputs"
        elif module.groups == module.in_channels:
            kind, why = (
                "fans-depthwise",
                "a depthwise convolution, where an input feeds the outputs of its channel only",
            )
        else:
            kind, why = (
                "fans-grouped",
                "a grouped convolution, where an input feeds the outputs of its group only",
            )
        yield finding(
            kind,
            severity,
            weight,
            f"It is the weight of {why}: its std is {{}} times that of the fans of its layer.",
            LAYOUT
            + f"{done.name}(weight, {', '.join(filter(None, ('in_dim=0' * turned, groups)))})."
            + (" This one is the default of torch's layer." if default else ""),
            done,
            measure=times,
        )


def inputs_first(subject: Subject) -> Iterator[Finding]:
    for weight, done, taken in with_fans(subject):
        if (
            len(weight.shape) != 2
            or structure.fused(weight) is not None
            or not structure.inputs_first(weight)
        ):
            continue
        times = factor(done, taken, taken[::-1])
        if differs(times):
            yield finding(
                "fans-inputs-first",
                "warning",
                weight,
                "Its module multiplies by it from the right (x @ weight), so that its first dimension is the inputs, "
                f"and the fill took it for the outputs: its std is {times:.3f} times what its mode asks for.",
                LAYOUT + f"{done.name}(weight, in_dim=0).",
                done,
            )


def stacked(subject: Subject) -> Iterator[Finding]:
    for weight, done, _ in with_fans(subject):
        count = structure.experts(weight)
        if count is None or done.shape != weight.shape:
            continue
        (first, second), taken = weight.shape[1:], theory.fans(weight.shape)
        assert taken is not None
        pairs = ((first, second), (second, first))
        both = dict.fromkeys(f"{times:.3g}" for fans in pairs if differs(times := factor(done, taken, fans)))
        if not both:
            continue
        yield finding(
            "fans-stacked",
            "warning",
            weight,
            f"It is a stack of {count} matrices of {first} × {second}, and the fill took it for the kernel of a convolution: "
            f"its std is {' or '.join(both)} times that of one matrix.",
            LAYOUT + f"{done.name}(weight, batch_dims=0).",
            done,
        )


CHECKS = (fused, shard, convolution, inputs_first, stacked)
