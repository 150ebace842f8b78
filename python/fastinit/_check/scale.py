"""Findings on deviations: truncation, gains, what the dtype can hold, and growth with depth."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from fastinit._check import structure
from fastinit._check.filled import finding
from fastinit._check.finding import Finding
from fastinit._check.subject import Done, Subject, Weight
from fastinit._check.theory import TRUNCATED_AT_TWO, Theory, fans

FAR = 5.0  # sigma, beyond which a bound cuts nothing: one value in 1.7 million


def truncated(subject: Subject) -> Iterator[tuple[Weight, Done, Theory, tuple[float, float]]]:
    """The parameters that were given a truncated normal, with the bounds in units of sigma."""
    for weight in subject.weights:
        theory = weight.theory
        if theory is None or theory.family != "truncated" or theory.sigma <= 0:
            continue
        done = next((done for done in weight.steps or () if done.random), None)
        if done is not None:
            yield (
                weight,
                done,
                theory,
                tuple((end - theory.centre) / theory.sigma for end in (theory.low, theory.high)),
            )  # type: ignore[misc]


def round_fan(std: float, weight: Weight) -> bool:
    """Whether a deviation is √(1/fan) or √(2/fan) to six digits, of any of the fans."""
    both = fans(weight.shape)
    if both is None or std <= 0:
        return False
    choices = (*both, sum(both) / 2)
    return any(
        abs(std * std * fan / scale - 1) < 1e-5
        for fan in choices
        if fan
        for scale in (0.1, 1 / 3, 0.5, 1.0, 2.0)
    )


def without_effect(subject: Subject) -> Iterator[Finding]:
    for weight, done, theory, (low, high) in truncated(subject):
        reach = min(-low, high)
        if not FAR < reach < math.inf or theory.open_end:  # ``values.open_end`` has the latter
            continue
        if round_fan(theory.sigma * TRUNCATED_AT_TWO, weight):
            yield finding(
                "truncation-corrected",
                "warning",
                weight,
                f"Its std was divided by {TRUNCATED_AT_TWO:.4f}, to make up for a truncation at two sigma, but the bounds are "
                f"{{}} sigma away and cut nothing: the std is {1 / TRUNCATED_AT_TWO:.3f} times what was meant.",
                "Give bounds in units of sigma (a=-2*std, b=2*std), as fastinit.extra.lecun_normal_ does.",
                done,
                measure=reach,
            )
        else:
            yield finding(
                "truncation-without-effect",
                "warning",
                weight,
                f"The bounds {theory.low:.6g} and {theory.high:.6g} are {{}} sigma away and cut nothing: "
                "the values are those of normal_, at a higher price.",
                "Give bounds in units of sigma, as fastinit.extra.trunc_normal_ does, or use normal_.",
                done,
                measure=reach,
            )


def changed_std(subject: Subject) -> Iterator[Finding]:
    for weight, done, theory, (low, high) in truncated(subject):
        ratio = theory.std / theory.sigma
        if ratio > 0.98 or round_fan(theory.std, weight) or is_round(theory.std):
            continue
        yield finding(
            "truncation-std",
            "note",
            weight,
            f"The truncation at {low:.3g} and {high:.3g} sigma leaves a std of {theory.std:.6g} "
            f"where {theory.sigma:.6g} was given: {ratio:.3f} times that.",
            "Divide the std by that factor if it is meant to be the values'; fastinit.extra.truncated_std knows it.",
            done,
        )


def is_round(value: float) -> bool:
    """Whether a number has two digits, as people write them."""
    return value > 0 and abs(float(f"{value:.2g}") / value - 1) < 1e-5


def gain(subject: Subject) -> Iterator[Finding]:
    for _, members in structure.sequences(subject):
        for position, (name, module) in enumerate(members):
            weight = subject.by_name.get(f"{name}.weight")
            done = None if weight is None else weight.only
            if weight is None or done is None or not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
                continue
            given = gain_of(done)
            following = structure.next_activation(members, position)
            if given is None or following is None or following[0] == "linear":
                continue
            wanted = following[1]
            if max(given / wanted, wanted / given) > 1.1:
                yield finding(
                    "gain",
                    "warning" if max(given / wanted, wanted / given) > 1.3 else "note",
                    weight,
                    f"Its gain is {given:.4g}, but {following[0]} comes next, whose gain is {wanted:.4g} "
                    "(torch.nn.init.calculate_gain).",
                    f"Pass nonlinearity={following[0]!r}, or that gain.",
                    done,
                )


def gain_of(done: Done) -> float | None:
    """The gain that somebody chose; None for the defaults of torch's layers and functions."""
    if done.name.startswith("kaiming_"):
        a, nonlinearity = done.arguments.get("a", 0), done.arguments.get("nonlinearity", "leaky_relu")
        if nonlinearity == "leaky_relu" and a == math.sqrt(5):
            return None
        return float(nn.init.calculate_gain(nonlinearity, a)) or None
    if done.name.startswith("xavier_"):
        given = float(done.arguments.get("gain", 1.0))
        return given if given not in (0.0, 1.0) else None
    return None


def dtype(subject: Subject) -> Iterator[Finding]:
    for weight in subject.weights:
        theory = weight.theory
        if theory is None or not weight.dtype.is_floating_point:
            continue
        if theory.family == "constant" and theory.mean == 0.0:
            continue
        name = str(weight.dtype).removeprefix("torch.")
        lost = theory.share_within(structure.smallest(weight.dtype) / 2)
        if lost > 0.01:
            yield finding(
                "underflow",
                "error" if lost > 0.5 else "warning",
                weight,
                f"{lost:.1%} of its values are too small for {name} and become 0.",
                "Keep the parameter in a wider dtype, or scale it where it is used.",
                weight.fill,
            )
        low, high = theory.limits(weight.numel)
        if max(abs(low), abs(high)) > torch.finfo(weight.dtype).max and theory.family != "constant":
            yield finding(
                "overflow",
                "error",
                weight,
                f"Its values reach {max(abs(low), abs(high)):.3g}, and {name} ends at {torch.finfo(weight.dtype).max:.6g}.",
                "Keep the parameter in a wider dtype, or scale it where it is used.",
                weight.fill,
            )


def resolution(subject: Subject) -> Iterator[Finding]:
    for weight in subject.weights:
        theory = weight.theory
        if theory is None or theory.std <= 0 or theory.mean == 0 or not weight.dtype.is_floating_point:
            continue
        spacing = torch.finfo(weight.dtype).eps * 2.0 ** math.floor(math.log2(abs(theory.mean)))
        if theory.std < spacing / 2:
            yield finding(
                "resolution",
                "warning",
                weight,
                f"Its std of {theory.std:.3g} is below the distance of neighbouring {str(weight.dtype).removeprefix('torch.')} "
                f"numbers around {theory.mean:.3g}, which is {spacing:.3g}: few different values are left.",
                "Keep the deviation from the mean as the parameter, or use a wider dtype.",
                weight.fill,
            )


# ---- Depth ---------------------------------------------------------------------------------------------------

FEWEST = 6  # blocks, below which nothing is said of depth
LAST = re.compile(
    r"(\w*o_proj|\w*out_proj|c_proj|wo|w2|fc2|down_proj|dense_4h_to_h|ff_out|out_lin|lin2|linear2|proj|dense|output_proj)"
)
GATES = re.compile(r"gamma(_\d)?|layer_?scale\w*|ls_?\d?|alpha|gate|scale|lambda(_?\d)?|res_scale", re.I)
LEAST_GROWTH = (
    4.0  # in units of the variance of a normalised stream, and of the stream before the first block
)


@dataclass
class Branch:
    """The last weight of a residual branch, and the variance that the branch adds at most to a stream."""

    weight: Weight
    variance: float


def depth(subject: Subject) -> Iterator[Finding]:
    for name, stack in subject.modules.items():
        blocks = list(stack.children())
        if not isinstance(stack, (nn.ModuleList, nn.Sequential)) or len(blocks) < FEWEST:
            continue
        kind, count = Counter(type(block) for block in blocks).most_common(1)[0]
        if count < FEWEST or count < 0.8 * len(blocks) or not normalised_first(subject, name, stack):
            continue
        per_block = [
            branches(subject, name, key) for key, block in stack.named_children() if type(block) is kind
        ]
        if not all(per_block) or len({len(found) for found in per_block}) != 1:
            continue
        sums = [sum(branch.variance for branch in found) for found in per_block]
        fills = {str(branch.weight.only) for found in per_block for branch in found}
        if len(fills) > 2:  # they depend on the layer
            continue
        before = embedded(subject, name, per_block[0][0].weight.shape)
        total = sum(sums)
        if total < LEAST_GROWTH * max(before, 1.0) or total < LEAST_GROWTH * sums[0]:
            continue
        last = tuple(branch.weight for found in per_block for branch in found)
        yield finding(
            "depth",
            "note",
            last,
            f"The {count} blocks add to one residual stream, and their last weights are not scaled by depth: "
            f"its variance grows up to {before + total:.3g}, from {before:.3g}, block by block.",
            f"GPT-2 divides the std of these weights by √(2·{count}); fastinit.extra.residual_normal_ does that.",
            last[0].only,
        )


def normalised_first(subject: Subject, name: str, stack: nn.Module) -> bool:
    """Whether the blocks of a stack add to a stream that is normalised at its end only, and within their branches."""
    block = next(iter(stack.children()))
    if getattr(block, "norm_first", True) is False:
        return False
    if any(
        GATES.fullmatch(word) for key, p in block.named_parameters() if p.dim() < 2 for word in key.split(".")
    ):
        return False
    norms = [key for key, child in block.named_children() if structure.is_norm(child)]
    if not norms or len(norms) >= 4:  # four are one before and one after each branch
        return False
    parent = subject.modules.get(name.rpartition(".")[0])
    while parent is not None:
        children = list(parent.named_children())
        place = next((i for i, (_, child) in enumerate(children) if holds(child, stack)), len(children))
        later = [child for _, child in children[place + 1 :] if structure.is_norm(child)]
        if later:
            return True
        above = name.rpartition(".")[0]
        if above == name or not above:
            return False
        name = above
        parent = subject.modules.get(name.rpartition(".")[0])
    return False


def holds(module: nn.Module, other: nn.Module) -> bool:
    return any(each is other for each in module.modules())


def branches(subject: Subject, stack: str, key: str) -> list[Branch]:
    """The branches of a block whose last weight was filled as the one before it was."""
    prefix = f"{stack}.{key}."
    mine = [
        weight
        for weight in subject.weights
        if weight.name.startswith(prefix) and weight.name.endswith(".weight") and len(weight.shape) == 2
    ]
    found = []
    for weight in mine:
        if not LAST.fullmatch(structure.last_word(weight)) or weight.only is None or weight.theory is None:
            continue
        flipped = structure.inputs_first(weight)
        inner, width = weight.shape if flipped else weight.shape[::-1]
        near = weight.name.rsplit(".", 3)[0] if len(weight.name.split(".")) > 3 else prefix
        firsts = [
            other
            for other in mine
            if other is not weight
            and other.name.startswith(near.rstrip(".") + ".")
            and not LAST.fullmatch(structure.last_word(other))
            and other.theory is not None
            and width in other.shape
        ]
        if not firsts or any(str(first.only) != str(weight.only) for first in firsts):
            return []
        first = max(firsts, key=lambda other: other.theory.std if other.theory else 0.0)
        assert first.theory is not None
        hidden = width * first.theory.std**2
        if not re.search(r"att", weight.name, re.I):
            hidden *= 0.5  # what a rectifier leaves; others leave about as much
        found.append(Branch(weight, inner * weight.theory.std**2 * hidden))
    return found


def embedded(subject: Subject, stack: str, shape: tuple[int, ...]) -> float:
    """The variance of the stream before the first block, from the embeddings beside the stack; 1 if nobody knows."""
    width, prefix = min(shape), stack.rpartition(".")[0]
    found = 0.0
    for weight in subject.weights:
        if (
            isinstance(weight.module, nn.Embedding)
            and weight.name.startswith(prefix)
            and weight.shape[-1] == width
        ):
            if weight.theory is None or weight.theory.family == "constant":
                return 1.0
            found += weight.theory.std**2
    return found or 1.0


CHECKS = (without_effect, changed_std, gain, dtype, resolution, depth)
