"""Findings on whether parameters were filled: not at all, in part, more than once, with the same values twice."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from fastinit._check.finding import Finding, Severity
from fastinit._check.sites import Site
from fastinit._check.structure import whole_shape
from fastinit._check.subject import Done, Subject, Weight, theory_of_constant
from fastinit._enabled.memory import storage_of
from fastinit._parts import local_of


def finding(
    kind: str,
    severity: Severity,
    weight: Weight | tuple[Weight, ...],
    problem: str,
    remedy: str,
    done: Done | None = None,
    site: Site | None = None,
    measure: float | None = None,
) -> Finding:
    """A finding; the measure stands for {} in the problem, and what differs only by it is merged."""
    weights = (weight,) if isinstance(weight, Weight) else weight
    where = site or (done.site if done is not None else None)
    return Finding(
        kind,
        severity,
        tuple(each.name for each in weights),
        "" if done is None else weights[0].chain(done),
        problem,
        remedy,
        None if where is None else where.file,
        None if where is None else where.line,
        None if where is None else where.caller,
        measure,
    )


def never_filled(subject: Subject) -> Iterator[Finding]:
    for weight in subject.weights:
        if weight.unwritten == 1.0 and weight.numel:
            yield finding(
                "never-filled",
                "error",
                weight,
                "It was allocated without values, and nothing was written to it: it holds what was in that memory.",
                "Fill it where it is made, or in the function that initialises its module.",
                site=weight.allocated,
            )


def partly_filled(subject: Subject) -> Iterator[Finding]:
    for weight in subject.weights:
        if weight.unwritten is not None and 0.0 < weight.unwritten < 1.0:
            yield finding(
                "partly-filled",
                "error",
                weight,
                f"Nothing was written to {weight.unwritten:.3g} of its elements: they hold what was in that memory.",
                "Fill all of it first, and its parts after that.",
                weight.steps[-1] if weight.steps else None,
                weight.allocated if not weight.steps else None,
            )


def not_seen(subject: Subject) -> Iterator[Finding]:
    for weight in subject.weights:
        there = weight.tensor is not None and not local_of(weight.tensor).is_meta
        whole = any(done.whole for done in weight.steps or ())
        if whole or weight.unwritten is not None or weight.origin or not there or not weight.numel:
            continue
        if subject.traced:
            why = (
                "it was made outside of the block, or converted since, or written to too often to keep count"
            )
            remedy = "Check the model before it is converted to another dtype or device."
        else:
            why = "a function such as torch.zeros may have made it, or nothing may have filled it"
            remedy = "Use enabled(call_sites=True), which knows the difference."
        what = (
            "Nobody knows where its values come from"
            if not weight.steps
            else "Only parts of it were seen to be filled"
        )
        yield finding("not-seen", "note", weight, f"{what}: {why}.", remedy)


def drawn_again(subject: Subject) -> Iterator[Finding]:
    elements, size, seconds = subject.redrawn
    if elements == 0:
        return
    names = tuple(weight for weight in subject.weights if weight.wasted)
    total = sum(weight.numel for weight in subject.weights)
    time = f" and {seconds:.3g} s" if seconds >= 0.001 else ""
    yield finding(
        "drawn-again",
        "note",
        names,
        f"{elements:,} random values were drawn and overwritten, for {total:,} elements of parameters: "
        f"{size / 2**20:,.1f} MiB of traffic{time} for nothing.",
        "Build the model in fastinit.deferred() and draw it once, or construct its layers by torch.nn.utils.skip_init.",
    )


def padding_row(subject: Subject) -> Iterator[Finding]:
    for weight in subject.weights:
        module = weight.module
        row = getattr(module, "padding_idx", None)
        if not isinstance(module, (nn.Embedding, nn.EmbeddingBag)) or not isinstance(row, int):
            continue
        last = next((done for done in reversed(weight.steps or ()) if done.random and done.whole), None)
        if last is None:
            continue
        position = (weight.steps or ()).index(last)
        later = (weight.steps or ())[position + 1 :]
        if any(not done.whole or done.is_operator for done in later):
            continue  # the row may have been put back
        values = weight.values()
        if (
            values is not None
            and whole_shape(weight) is None
            and not bool((values[row].detach().float() != 0).any())
        ):
            continue
        yield finding(
            "padding-row",
            "warning",
            weight,
            f"The fill overwrote the row of padding_idx={row}, which the constructor had set to 0; "
            "the row gets no gradient, so it stays as it is.",
            "Set the row to 0 after the fill, under torch.no_grad().",
            last,
        )


# Modules that are copies of others, meant to start from the same values.
TWINS = re.compile(
    r"(^|[._])(ema|momentum|target|teacher|student|shadow|averaged|key_encoder|encoder_k|online|frozen|old|ref)(\w*)([._]|$)",
    re.I,
)


def identical(subject: Subject) -> Iterator[Finding]:
    """By keys, which say so for certain; by values, where random ones have no key."""
    groups: dict[Any, list[Weight]] = {}
    for weight in subject.weights:
        if not weight.random or whole_shape(weight) is not None:
            continue
        keys = tuple(done.key for done in weight.steps or () if done.random)
        if keys and all(key is not None for key in keys):
            steps = tuple((str(done), done.view and done.view[2]) for done in weight.steps or ())
            groups.setdefault((keys, steps), []).append(weight)
        elif weight.stats is not None and not weight.stats.constant and weight.numel > 1:
            groups.setdefault(weight.stats.fingerprint, []).append(weight)
    for alike in groups.values():
        weights = apart(weight for weight in alike if weight is alike[0] or equal(weight, alike[0]))
        if len(weights) < 2 or any(TWINS.search(weight.name) for weight in weights):
            continue
        done = next((done for done in weights[0].steps or () if done.random), None)
        same = len({weight.shape for weight in weights}) == 1
        yield finding(
            "identical",
            "warning",
            tuple(weights),
            "They are not tied, and hold the same random values: "
            + (
                "a seed or a key was used twice, or one is a copy of the other."
                if same
                else "the larger ones begin with those of the smaller, as a seed or a key was used twice."
            ),
            "Draw each from its own key: seed once, or fill copied layers again.",
            done,
        )


def apart(weights: Iterable[Weight]) -> list[Weight]:
    """One parameter of each memory: those that share it are tied, or are parts of one fill."""
    found: dict[Any, Weight] = {}
    for weight in weights:
        found.setdefault(id(weight) if weight.tensor is None else storage_of(weight.tensor), weight)
    return list(found.values())


def equal(weight: Weight, other: Weight) -> bool:
    """Whether two parameters with the same keys, or the same fingerprint, have the same values."""
    if all(done.key is not None for done in weight.steps or () if done.random):
        return True
    values, others = weight.values(), other.values()
    return values is not None and others is not None and torch.equal(local_of(values), local_of(others))


def seeded_again(subject: Subject) -> Iterator[Finding]:
    """The same key in fills that are not the same: their values are functions of the same random numbers."""
    groups: dict[int, list[tuple[Weight, Done]]] = {}
    for weight in subject.weights:
        if whole_shape(weight) is not None:
            continue
        for done in weight.steps or ():
            if done.random and done.key is not None:
                groups.setdefault(done.key, []).append((weight, done))
    for entries in groups.values():
        weights = apart(dict.fromkeys(weight for weight, _ in entries))
        fills = {str(done) for _, done in entries}
        if len(weights) < 2 or len(fills) < 2 or any(TWINS.search(weight.name) for weight in weights):
            continue
        yield finding(
            "same-key",
            "warning",
            tuple(weights),
            "They were drawn from the same key by different fills: their values are correlated.",
            "Seed once, at the beginning, and not before each layer.",
            entries[0][1],
        )


def by_ranks(subject: Subject) -> Iterator[Finding]:
    for weight in subject.weights:
        whole = whole_shape(weight)
        done = next((done for done in reversed(weight.steps or ()) if done.random), None)
        if whole is None or done is None or done.part or tuple(done.shape) == whole:
            continue
        yield finding(
            "ranks",
            "warning",
            weight,
            f"It is one rank's part of a tensor of shape {whole}, and was filled as a tensor of its own: "
            "the values of the whole depend on the number of ranks.",
            "Fill the DTensor instead of its local tensor, or use fastinit.part_of(tensor, shape, offset).",
            done,
        )


def constant_of(weight: Weight) -> float | None:
    """The value of a parameter, if all of its elements have the same."""
    steps = weight.steps or ()
    if steps and weight.complete and weight.theory is not None:
        whole = all(done.whole for done in steps)
        if whole and weight.theory.family == "constant":
            return weight.theory.mean
        if whole:
            return None
    if len(steps) == 1 and weight.trusted and steps[0].whole:
        return theory_of_constant(steps[0])
    if weight.random and weight.theory is not None:
        return None
    stats = weight.stats
    return stats.low if stats is not None and stats.constant else None


CHECKS = (
    never_filled,
    partly_filled,
    not_seen,
    drawn_again,
    padding_row,
    identical,
    seeded_again,
    by_ranks,
)
