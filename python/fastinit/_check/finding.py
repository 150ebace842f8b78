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
        kind: the kind of finding, as in ``docs/check.md``, such as ``"never-filled"``.
        severity: ``"error"`` if nobody would want this initialisation, ``"warning"`` if its author probably did not mean it,
            ``"note"`` if it is worth knowing and may be deliberate.
        names: the parameters' names.
        fill: what gave them their values, such as ``normal_(mean=0.0, std=0.02)``. It is empty if nothing did.
        problem: what is wrong, in a sentence.
        remedy: what helps, in a sentence.
        file: the file of the call that chose the fill, or None if it is not known.
        line: the line in that file.
        caller: the file and line of the innermost call outside of installed packages, if that is a different call.
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
        """Return the finding as plain data."""
        data = asdict(self)
        del data["measure"]
        return data


class Findings(list[Finding]):
    """A list of findings, the worst first. ``print`` shows it as text of at most 100 columns."""

    def of(self, severity: Severity) -> Findings:
        """Return the findings of one severity."""
        return Findings(finding for finding in self if finding.severity == severity)

    @property
    def counts(self) -> dict[Severity, int]:
        """The number of findings of each severity."""
        found = Counter(finding.severity for finding in self)
        return {severity: found[severity] for severity in SEVERITIES}

    def __str__(self) -> str:
        from fastinit._check import text

        return text.findings(self)
