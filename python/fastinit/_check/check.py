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
    merged: dict[Finding, list[str]] = {}
    for function in CHECKS:
        for finding in function(subject):
            merged.setdefault(replace(finding, names=()), []).extend(finding.names)
    found = (replace(finding, names=tuple(dict.fromkeys(names))) for finding, names in merged.items())
    return Findings(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))
