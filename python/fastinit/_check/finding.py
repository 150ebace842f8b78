"""A finding, and a list of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with a model's initialisation, or may be.

    Attributes:
        kind: what it is, as in ``docs/check.md``: ``"never-filled"``.
        severity: ``"error"``: the model is not initialised as anybody would want; ``"warning"``: not as its author meant;
            ``"note"``: worth knowing, and perhaps meant.
        names: the parameters' names.
        fill: what gave them their values, such as ``normal_(mean=0.0, std=0.02)``; empty if nothing did.
        problem: what is wrong, in a sentence.
        remedy: what helps, in a sentence.
        file: the file of the call that chose the fill; None if it is not known.
        line: the line in that file.
        caller: the file and line of the innermost call outside of installed packages, if that is another one.
    """

    kind: str
    severity: Severity
    names: tuple[str, ...]
    fill: str
    problem: str
    remedy: str
    file: str | None = None
    line: int | None = None
    caller: tuple[str, int] | None = None

    measure: float | None = field(
        default=None, compare=False, repr=False
    )  # stands for {} in the problem, while it is merged

    def as_dict(self) -> dict[str, Any]:
        """The finding as plain data."""
        data = asdict(self)
        del data["measure"]
        return data


class Findings(list[Finding]):
    """A list of findings, the worst first. ``print`` shows it as text of at most 100 columns."""

    def of(self, severity: Severity) -> Findings:
        """Those of one severity."""
        return Findings(finding for finding in self if finding.severity == severity)

    @property
    def counts(self) -> dict[Severity, int]:
        """How many there are of each severity."""
        found = Counter(finding.severity for finding in self)
        return {severity: found[severity] for severity in SEVERITIES}

    def __str__(self) -> str:
        from fastinit._check import text

        return text.findings(self)
