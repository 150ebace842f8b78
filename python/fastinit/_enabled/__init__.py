"""fastinit in the place of torch's initialisation, for programs that nobody wants to edit.

``patch`` says what is exchanged, ``fill`` what happens to one fill, ``report`` and ``memory`` what is remembered of it, and
``strict`` who looks for random values that torch draws itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from fastinit._enabled import equivalents as _equivalents
from fastinit._enabled import factories as _factories
from fastinit._enabled import patch
from fastinit._enabled.fill import blocks, open_reports, thread
from fastinit._enabled.report import Report
from fastinit._enabled.strict import watch

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@contextmanager
def enabled(
    *,
    strict: bool = False,
    call_sites: bool = False,
    check_ranks: ProcessGroup | None = None,
    equivalents: bool = True,
    factories: bool = False,
) -> Iterator[Report]:
    """Let torch's initialisation run on fastinit's kernels, in this thread until the end of the block.

    This covers every function of ``torch.nn.init``, however it is called, and the methods ``uniform_`` and ``normal_`` of
    tensors. torch still does what fastinit has no kernels for: other dtypes and devices, sparse and quantised tensors,
    subclasses with overrides of their own, and what ``torch.compile`` and ``torch.jit.script`` have compiled. The
    values are fastinit's, from one key of the generator for each fill (see docs/contract.md).

    Blocks nest, and each has its own report. Other threads, and other tasks of asyncio, are not affected.

    Args:
        strict: warn of random values that torch draws itself, once for each line of the program. torch may draw them by
            these functions, by other methods (``bernoulli_``) or by factories (``torch.randn``). This looks at every
            operation of the block, which takes time.
        call_sites: remember where in the program each fill was called, and what else was done to memory, for
            ``Report.check``. This also looks at every operation of the block.
        check_ranks: a process group of ``torch.distributed``. At the end of the block, its ranks compare what they drew
            (function, key, shape), by one all-reduce. Every rank of the group must get there.
        equivalents: whether known functions of other libraries are exchanged too, such as timm's ``trunc_normal_``; see
            ``fastinit.equivalents``. With ``call_sites=True`` they are not, so that ``Report.check`` sees what they do.
        factories: whether ``torch.rand``, ``randn``, ``rand_like``, ``randn_like`` and ``normal`` draw fastinit's values too,
            where they are called as attributes of ``torch``.

    Raises:
        RuntimeError: at the end of the block, if the ranks of ``check_ranks`` did not draw the same. The error names the
            first fill that differs.

    Returns:
        A context manager that gives a ``Report`` of what was filled in the block.

    Example:
        >>> import fastinit, torch
        >>> with fastinit.enabled() as report:
        ...     model = torch.nn.Linear(30, 20)
        >>> report.parameters(model)["weight"].function
        'kaiming_uniform_'
    """
    trace = None
    if call_sites:
        from fastinit._check.trace import Trace

        trace = Trace()
    report = Report(strict, trace)
    report._with_equivalents, report._with_factories = equivalents and not call_sites, factories
    if trace is not None:
        report._log.simple = False
    if check_ranks is not None:
        report._draws = []
        report._log.simple = False
    with ExitStack() as stack:
        patch.install()
        stack.callback(patch.uninstall)
        if factories:
            _factories.install()
            stack.callback(_factories.uninstall)
        blocks.set((*open_reports(), report))
        stack.callback(_close, report)
        if trace is not None:
            stack.enter_context(trace.watching(lambda: thread.busy))
        if strict:
            stack.callback(watch(open_reports, lambda: thread.busy))
        yield report
    if check_ranks is not None and report._draws is not None:
        from fastinit._enabled import ranks  # loads torch.distributed

        ranks.check(report._draws, check_ranks)


def _close(report: Report) -> None:
    """End a block, in whatever context: the generator that holds one may be closed in another."""
    report._open = False
    blocks.set(tuple(other for other in blocks.get() if other is not report))


def enable(*, equivalents: bool = True) -> None:
    """Do what ``enabled`` does for the whole program: in all threads, until ``disable`` is called.

    A second call has no further effect. There is no report, unless a block of ``enabled`` is opened as well.

    Args:
        equivalents: as for ``enabled``.

    Example:
        >>> import fastinit
        >>> fastinit.enable()
        >>> fastinit.disable()
    """
    _equivalents.program_wide = equivalents
    patch.set_program_wide(True)


def disable() -> None:
    """End what ``enable`` began. Open blocks of ``enabled`` stay open."""
    patch.set_program_wide(False)
