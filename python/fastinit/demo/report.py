"""The demo's results as text, as a markdown table and as a picture."""

from __future__ import annotations

from typing import Any

from fastinit.demo.theory import SAMPLE, TOLERANCE, Picture

LIBRARIES = ("torch", "fastinit")
HEADER = (
    "initialiser",
    "parameters",
    "torch s",
    "fastinit s",
    "ratio",
    "of fill_ speed",
    "torch extra MB",
    "fastinit extra MB",
)
LEGEND = """\
Seconds: the sum over all calls, in memory that was written before. Of fill_ speed: against a plain fill_ of
the same tensors. Extra: the peak of memory in use during the largest call, beyond the tensor itself."""


def heading(results: dict[str, Any]) -> str:
    """What was initialised, where, and by what."""
    model, versions = results["model"], results["info"]["versions"]
    return (
        f"{model['preset']}: {count(model['parameters'])} parameters, {model['dtype']}. "
        f"{results['where']}; torch {versions['torch']}, fastinit {versions['fastinit']} "
        f"({results['info']['active']['instruction_set']})."
    )


def text(results: dict[str, Any]) -> str:
    picture = [f"Histograms: {results['plot']}"] if results["plot"] else []
    verdict = "All checks of fastinit passed." if results["ok"] else "FAIL: a check of fastinit did not pass."
    return "\n".join(["", table(results), "", LEGEND, "", checks(results), "", *picture, verdict])


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    def show(key: str, pattern: str, unit: float = 1) -> str:
        return "–" if row[key] is None else pattern.format(row[key] / unit)

    return (
        row["initialiser"],
        count(row["parameters"]),
        show("torch_s", "{:.4f}"),
        show("fastinit_s", "{:.4f}"),
        show("ratio", "{:.1f}"),
        show("fill_share", "{:.0%}"),
        show("torch_extra_bytes", "{:.0f}", unit=1e6),
        show("fastinit_extra_bytes", "{:.0f}", unit=1e6),
    )


def count(n: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return str(n)


def table(results: dict[str, Any]) -> str:
    rows = [HEADER, *map(cells, results["rows"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def markdown(results: dict[str, Any]) -> str:
    """The table and the machine, for the README."""
    rows = [HEADER, (":---",) + ("---:",) * (len(HEADER) - 1), *map(cells, results["rows"])]
    return "\n".join(["| " + " | ".join(row) + " |" for row in rows] + ["", heading(results), LEGEND])


def checks(results: dict[str, Any]) -> str:
    width = max(len(row["initialiser"]) for row in results["checks"])
    lines = [
        f"Checks. mean, std: how far from theory, in standard errors (at most {TOLERANCE:g}), by a sample of",
        f"up to {SAMPLE:,} values of each tensor. min, max: of all values, in standard deviations from the mean.",
        " " * width + "".join(f"  {library:^33}" for library in LIBRARIES),
        " " * width + f"  {'mean':>6} {'std':>6} {'min':>6} {'max':>6}      " * len(LIBRARIES),
    ]
    for row in results["checks"]:
        sides = "".join(f"  {check(row[library])}" for library in LIBRARIES)
        lines.append(f"{row['initialiser']:{width}}{sides}")
    for row in results["checks"]:
        for library in LIBRARIES:
            lines += [f"FAIL {library} {row['initialiser']}: {wrong}" for wrong in row[library]["wrong"]]
    return "\n".join(line.rstrip() for line in lines)


def check(verdict: dict[str, Any]) -> str:
    def show(key: str, pattern: str) -> str:
        return "–" if verdict[key] is None else pattern.format(verdict[key])

    numbers = (
        show("mean_error", "{:+.1f}"),
        show("std_error", "{:+.1f}"),
        show("min", "{:.2f}"),
        show("max", "{:.2f}"),
    )
    return " ".join([*(f"{number:>6}" for number in numbers), f" {'ok' if verdict['ok'] else 'FAIL':4}"])


def draw(pyplot: Any, torch: dict[str, Picture], fastinit: dict[str, Picture], path: str) -> None:
    """Histograms of the first tensor of each initialiser, fastinit beside torch, under the theoretical density."""
    figure = pyplot.figure(figsize=(15, 7.5), layout="constrained")
    panels = figure.subfigures(3, 3, hspace=0.04, wspace=0.04).flat
    for (name, picture), panel in zip(fastinit.items(), panels, strict=False):
        law = picture.law
        low = max(law.low, law.mean - 4.5 * law.std)
        high = min(law.high, law.mean + 4.5 * law.std)
        margin = (high - low) / 20
        grid = [low - margin + i * (high - low + 2 * margin) / 500 for i in range(501)]
        panel.suptitle(f"{name}   {' × '.join(map(str, picture.shape))}", fontsize=10)
        sides = (("torch", torch.get(name), "C0"), ("fastinit", picture, "C1"))
        for axis, (library, side, color) in zip(
            panel.subplots(1, 2, sharex=True, sharey=True), sides, strict=True
        ):
            if side is not None:
                axis.hist(
                    side.values.numpy(), bins=50, range=(low, high), density=True, color=color, alpha=0.6
                )
            axis.plot(grid, [law.density(x) for x in grid], color="black", linewidth=1)
            axis.set_title(library if side else f"{library}: not supported", fontsize=9)
            axis.tick_params(labelsize=7)
            axis.set_yticks([])
            axis.locator_params(axis="x", nbins=5)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
