"""For tests of models: assert that a model is initialised as it should be."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from fastinit._check.finding import Finding, Findings, Severity
from fastinit._enabled.report import Report
from fastinit.recipe import Recipe

__all__ = ["Finding", "Findings", "assert_initialized"]


def assert_initialized(
    model: nn.Module,
    report: Report | Recipe,
    *,
    severity: Severity = "error",
    ignore: Collection[str] = (),
) -> None:
    """Assert that ``fastinit`` finds nothing wrong with the initialisation of a model.

    Args:
        model: the model.
        report: the report of the block of ``fastinit.enabled(call_sites=True)`` in which the model was built, or the recipe of
            a model that was built in ``fastinit.deferred()``.
        severity: the mildest severity that counts: ``"error"``, ``"warning"`` or ``"note"``.
        ignore: kinds of findings that do not count, such as ``"drawn-again"``.

    Raises:
        AssertionError: if there are such findings. The error lists them.
        ValueError: if the report comes from a block without ``call_sites=True``, which does not know what was never filled.

    Example:
        >>> import fastinit.testing, torch
        >>> with fastinit.enabled(call_sites=True) as report:
        ...     model = torch.nn.Linear(30, 20)
        >>> fastinit.testing.assert_initialized(model, report)
    """
    __tracebackhide__ = True
    if isinstance(report, Report) and report._trace is None:
        raise ValueError("the report must be one of fastinit.enabled(call_sites=True)")
    counted = ("error", "warning", "note")[: ("error", "warning", "note").index(severity) + 1]
    found = Findings(f for f in report.check(model) if f.severity in counted and f.kind not in ignore)
    if found:
        raise AssertionError(f"the model is not initialised as it should be:\n{found}")
