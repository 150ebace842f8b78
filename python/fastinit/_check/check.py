"""All findings of a subject."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from fastinit._check import fans, filled, scale, values
from fastinit._check.finding import SEVERITIES, Finding, Findings
from fastinit._check.subject import Subject

Check = Callable[[Subject], Iterable[Finding]]
CHECKS: tuple[Check, ...] = (*filled.CHECKS, *values.CHECKS, *fans.CHECKS, *scale.CHECKS)


def check(subject: Subject) -> Findings:
    """Every finding, the worst first; what is the same of several parameters is one finding."""
    merged: dict[Finding, list[Finding]] = {}
    for function in CHECKS:
        for finding in function(subject):
            merged.setdefault(replace(finding, names=(), fill=""), []).append(finding)
    return Findings(sorted(map(merge, merged.values()), key=lambda found: SEVERITIES.index(found.severity)))


def merge(found: list[Finding]) -> Finding:
    """One finding of several, which differ by the names, the measure, and the numbers of the fill."""
    names = tuple(dict.fromkeys(name for finding in found for name in finding.names))
    problem = found[0].problem
    measures = sorted(finding.measure for finding in found if finding.measure is not None)
    if measures:
        low, high = f"{measures[0]:.3g}", f"{measures[-1]:.3g}"
        problem = problem.format(low if low == high else f"{low} to {high}")
    fills = dict.fromkeys(finding.fill for finding in found)
    fill = found[0].fill if len(fills) == 1 else f"{found[0].fill} and {len(fills) - 1} more"
    return replace(found[0], names=names, fill=fill, problem=problem, measure=None)
