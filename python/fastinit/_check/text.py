"""Findings and reports as text: for a terminal of 100 columns, as Markdown, as JSON."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from fastinit._check.finding import Finding, Findings
from fastinit._check.sites import shortened
from fastinit._check.subject import Subject, Weight, number

if TYPE_CHECKING:
    from torch import nn

    from fastinit._enabled.report import Report

WIDTH = 100
MOST_NAMES = 4


def findings(found: Findings) -> str:
    """Findings for a terminal."""
    lines = []
    for finding in found:
        names = named(finding.names)
        head = f"{finding.severity}: {finding.kind}"
        lines += textwrap.wrap(f"{head}: {names}", WIDTH, subsequent_indent="    ", break_on_hyphens=False)
        for text in (" ".join(filter(None, (finding.fill, place(finding)))), finding.problem, finding.remedy):
            if text:
                lines += textwrap.wrap(
                    text, WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
                )
    lines.append(summary(found))
    return "\n".join(lines)


def summary(found: Findings) -> str:
    return ", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in found.counts.items())


def place(finding: Finding) -> str:
    if finding.file is None:
        return ""
    where = f"at {shortened(finding.file)}:{finding.line}"
    return (
        where
        if finding.caller is None
        else f"{where}, called from {shortened(finding.caller[0])}:{finding.caller[1]}"
    )


def named(names: tuple[str, ...]) -> str:
    """The first names, and how many there are more."""
    shown = ", ".join(names[:MOST_NAMES])
    return shown if len(names) <= MOST_NAMES else f"{shown} and {len(names) - MOST_NAMES} more"


# ---- The fills of a model -----------------------------------------------------------------------------------

HEADER = ("fill", "tensors", "elements", "std", "least", "greatest")


def how(weight: Weight) -> str:
    """What gave a parameter its values, in a few words."""
    if weight.unwritten == 1.0:
        return "nothing"
    steps = weight.steps
    if not steps:
        return weight.origin or "unknown"
    text = weight.chain(steps[0])
    partial = sum(not done.whole for done in steps[1:])
    if len(steps) > 6:
        return f"{steps[0]} and {len(steps) - 1} more steps"
    return text + (f" and {partial} part{'s' * (partial > 1)} of it" if partial else "")


def fills(subject: Subject) -> Iterator[tuple[str, ...]]:
    """A row for each kind of fill: how often, how many elements, and the distribution."""
    groups: dict[str, list[Weight]] = {}
    for weight in subject.weights:
        groups.setdefault(how(weight), []).append(weight)
    for name, weights in sorted(groups.items(), key=lambda item: -sum(w.numel for w in item[1])):
        stds, lows, highs = zip(*map(distribution, weights), strict=True)
        yield (
            name,
            f"{len(weights):,}",
            f"{sum(weight.numel for weight in weights):,}",
            span(stds),
            shown(min((low for low in lows if low is not None), default=None)),
            shown(max((high for high in highs if high is not None), default=None)),
        )


def distribution(weight: Weight) -> tuple[float | None, float | None, float | None]:
    """The deviation and the range of a parameter's values, or what is known of them in theory."""
    if weight.unwritten:
        return None, None, None
    stats = weight.stats
    if stats is not None:
        return stats.std, stats.low, stats.high
    theory = weight.theory
    if theory is None:
        return None, None, None
    low, high = (end if math.isfinite(end) else None for end in (theory.low, theory.high))
    return theory.std, low, high


def span(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = shown(min(known)), shown(max(known))
    return low if low == high else f"{low}–{high}"


def shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def fills_table(subject: Subject) -> str:
    """The same for a terminal."""
    rows = [HEADER, *fills(subject)]
    widths = [max(len(row[i]) for row in rows) for i in range(1, len(HEADER))]
    first = min(max(len(row[0]) for row in rows), WIDTH - sum(widths) - 2 * len(widths))
    lines = []
    for row in rows:
        name = row[0] if len(row[0]) <= first else row[0][: first - 1] + "…"
        cells = "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths, strict=True))
        lines.append(f"{name:{first}}{cells}")
    return "\n".join(lines)


# ---- Markdown and JSON --------------------------------------------------------------------------------------


def markdown_table(rows: Iterable[Iterable[str]], left: int = 1) -> str:
    head, *body = [list(row) for row in rows]
    marks = [":---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (head, marks, *body)
    )


def findings_markdown(found: Findings) -> str:
    rows = [("severity", "finding", "parameters", "fill", "where", "problem", "remedy")]
    rows += [
        (f.severity, f.kind, named(f.names), f.fill, place(f).removeprefix("at "), f.problem, f.remedy)
        for f in found
    ]
    return markdown_table(rows, len(rows[0]))


def report_markdown(report: Report, module: nn.Module | None) -> str:
    rows = [("function", "calls", "elements", "drawn again", "MiB", "seconds")]
    ordered = sorted(report.functions.items(), key=lambda item: -item[1].seconds)
    for name, row in (*ordered, ("total", report.total)):
        size = f"{row.bytes / 2**20:,.1f}"
        rows.append(
            (name, f"{row.calls:,}", f"{row.elements:,}", f"{row.redrawn:,}", size, f"{row.seconds:.4f}")
        )
    parts = [markdown_table(rows)]
    if module is not None:
        from fastinit._check import check, sources

        looked_at = sources.from_report(report, module)
        parts.append(markdown_table([HEADER, *fills(looked_at)]))
        parts.append(findings_markdown(check.check(looked_at)))
    return "\n\n".join(parts) + "\n"


def report_json(report: Report, module: nn.Module | None) -> str:
    data: dict[str, Any] = {
        "functions": {
            name: {key: getattr(row, key) for key in ("calls", "elements", "bytes", "seconds", "redrawn")}
            for name, row in report.functions.items()
        },
        "fallthrough": [
            {key: getattr(fell, key) for key in ("function", "filename", "line", "reason", "calls")}
            for fell in report.fallthrough
        ],
    }
    if module is not None:
        from fastinit._check import check, sources

        looked_at = sources.from_report(report, module)
        data |= subject_data(looked_at, check.check(looked_at))
    return dumps(data)


def subject_data(subject: Subject, found: Findings) -> dict[str, Any]:
    """The parameters and the findings as plain data."""
    return {
        "parameters": {weight.name: weight_data(weight) for weight in subject.weights},
        "findings": [finding.as_dict() for finding in found],
    }


def weight_data(weight: Weight) -> dict[str, Any]:
    std, low, high = distribution(weight)
    site = next((done.site for done in weight.steps or () if done.site is not None), None)
    return {
        "names": list(weight.names),
        "shape": list(weight.shape),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "fills": [str(done) for done in weight.steps or ()],
        "std": None if weight.theory is None else weight.theory.std,
        "measured": None
        if weight.unwritten or weight.stats is None
        else {"std": std, "low": low, "high": high},
        "file": None if site is None else site.file,
        "line": None if site is None else site.line,
    }


def dumps(data: Any) -> str:
    """JSON; what it has no numbers for becomes text."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(each) for each in value]
        if isinstance(value, float) and not math.isfinite(value):
            return number(value)
        return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)

    return json.dumps(plain(data), indent=1, allow_nan=False)
