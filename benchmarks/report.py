"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Row = dict[str, Any]

RATES = ("sizes", "threads", "layouts", "initialisers")  # the others show times
TITLES = {
    "must": "Must reach",
    "orthogonal": "Orthogonal matrices",
    "orthogonal batches": "Batches of orthogonal matrices",
    "orthogonal parts": "Parts of orthogonal matrices",
    "model": "A whole model",
    "sizes": "Sizes, in warm memory",
    "threads": "Threads",
    "layouts": "Layouts",
    "initialisers": "Other initialisers",
    "small": "Small calls",
    "cuda": "On a GPU",
}
ABOUT = {
    "must": "Median times. The instruction set avx2 has to reach 60% of what is required of the best one, and 55% of its speed.",
    "orthogonal": "Median times. `product` is one matrix product of the same size: m × n by n × n for n ≤ m.",
    "cuda": "Median times on the device. *: it waited for the host, whose time is in them.",
    "orthogonal batches": "Median times for all matrices: torch one after the other, fastinit in one call.",
    "orthogonal parts": "Median times of the whole, and of the last of 2 to 32 ranks. That one has most to do where its part\n"
    "is columns, of a matrix with no fewer rows than columns; or rows, of one with no fewer columns than rows. All\n"
    "rows of the others, or columns, cost the same.",
    "small": "Medians for a whole call from Python, float32: torch → fastinit (ratio).",
}


def markdown(data: dict[str, Any], pictures: Iterable[str] = ()) -> str:
    tables = [title for title in TITLES if any(row["table"] == title for row in data["rows"])]
    parts = [
        f"# Benchmark: {data['suite']}",
        machine(data),
        values(data["rows"]),
        *(section(data, t) for t in tables),
    ]
    parts += [size_fits(data["fits"]["sizes"])] if data["fits"]["sizes"] else []
    parts += [thread_fits(data["fits"]["threads"])] if data["fits"]["threads"] else []
    parts += [f"![{name}]({name})" for name in pictures]
    parts += [missed] if (missed := skipped(data["rows"])) else []
    return "\n\n".join(parts) + "\n"


def section(data: dict[str, Any], name: str) -> str:
    """One table, with its title."""
    rows = [row for row in data["rows"] if row["table"] == name]
    body = {"must": must, "small": small}.get(name, general)(rows)
    about = ABOUT.get(name, "Values per second." if name in RATES else "Median times.")
    return f"## {TITLES[name]}\n\n{about}\n\n{body}"


# ---- Tables ------------------------------------------------------------------------------------------------


def must(rows: list[Row]) -> str:
    """A line for each instruction set."""
    lines = []
    for row in rows:
        for side in dict.fromkeys(wanted["side"] for wanted in row["requirements"]):
            first, *rest = (wanted for wanted in row["requirements"] if wanted["side"] == side)
            lines.append(
                [
                    row["case"],
                    row["dtype"],
                    shape(row),
                    gigabytes(row["sides"]["fill_"]),
                    time(row["sides"]["torch"]),
                    side,
                    time(row["sides"][side]),
                    number(quotient(row, "fill_", side)),
                    required(first),
                    "; ".join(required(wanted) for wanted in rest),
                    reached([first, *rest]),
                ]
            )
    header = [
        "initialiser",
        "dtype",
        "shape",
        "fill_",
        "torch",
        "by",
        "time",
        "of fill_'s speed",
        "torch ÷ time",
        "and",
    ]
    header.append("reached")
    done = [line[-1] for line in lines]
    return f"{table(header, lines)}\n\nReached: {done.count('yes')} of {len(done)}."


def small(rows: list[Row]) -> str:
    """A line for each function, a column for each size."""
    sizes = sorted({row["elements"] for row in rows})
    cells: dict[str, dict[int, str]] = {}
    for row in rows:
        torch, ours = row["sides"]["torch"], row["sides"]["fastinit"]
        ratio = row["requirements"][0]
        text = f"{time(torch)} → {time(ours)} ({number(ratio['value'])})"
        cells.setdefault(row["case"], {})[row["elements"]] = text if ratio["reached"] else f"**{text}**"
    header = ["initialiser", *(f"{n} element{'s' * (n > 1)}" for n in sizes)]
    body = table(header, [[case, *(line.get(n, "") for n in sizes)] for case, line in cells.items()])
    return f"{body}\n\nBold: slower than torch."


def general(rows: list[Row]) -> str:
    """A line for each row, a column for each side; columns in which all is alike are left out."""
    sides = list(dict.fromkeys(side for row in rows for side, its in timed(row) if its))
    show: Callable[[dict[str, Any]], str] = rate if rows[0]["table"] in RATES else time
    columns: dict[str, Callable[[Row], str]] = {
        "initialiser": lambda row: row["case"],
        "dtype": lambda row: row["dtype"],
        "shape": shape,
        "layout": lambda row: row["layout"],
        "threads": lambda row: str(row["threads"]),
    }
    columns |= {side: lambda row, side=side: show(row["sides"].get(side, {})) for side in sides}  # type: ignore
    columns["torch ÷ fastinit"] = lambda row: number(quotient(row, "torch", "fastinit"))
    if "fill_" in sides:
        columns["of fill_'s speed"] = lambda row: number(quotient(row, "fill_", "fastinit"))
    if any("host_seconds" in its for row in rows for _, its in timed(row)):
        columns["host, a call: torch, fastinit"] = host_times
    if any("orthogonality" in its for row in rows for _, its in timed(row)):
        columns["max abs(QᵀQ − I): torch, fastinit"] = orthogonality
    if any(row["requirements"] for row in rows):
        columns["required"] = lambda row: "; ".join(map(required, row["requirements"]))
        columns["reached"] = lambda row: reached(row["requirements"])
    cells = {name: [column(row) for row in rows] for name, column in columns.items()}
    kept = {
        name: column
        for name, column in cells.items()
        if name not in ("dtype", "layout", "threads") or len(set(column)) > 1
    }
    return table(list(kept), [list(line) for line in zip(*kept.values(), strict=True)])


def size_fits(fits: list[dict[str, Any]]) -> str:
    lines = [
        [
            *(fit[key] for key in ("case", "dtype", "memory")),
            str(fit["threads"]),
            fit["side"],
            seconds(fit["overhead_seconds"]),
            count(fit["values_per_second"]) if fit["values_per_second"] else "–",
            number(fit["slope"]),
            f"{fit['worst_error']:.0%}",
        ]
        for fit in fits
    ]
    header = [
        "initialiser",
        "dtype",
        "memory",
        "threads",
        "side",
        "overhead",
        "values/s",
        "log-log slope",
        "worst error",
    ]
    about = (
        "t = overhead + n / rate, by the least squares of the relative errors; the worst of these errors; and the "
        "slope of log t over log n from 65,536 elements on (1: time grows as the size does)."
    )
    return f"## Growth with the size\n\n{about}\n\n{table(header, lines)}"


def thread_fits(fits: list[dict[str, Any]]) -> str:
    counts = sorted({int(n) for fit in fits for n in fit["speed_up"]})
    lines = [
        [
            fit["case"],
            fit["side"],
            *(number(fit["speed_up"].get(str(n))) for n in counts),
            f"{fit['serial_fraction']:.1%}",
        ]
        for fit in fits
    ]
    header = ["initialiser", "side", *(f"{n} thread{'s' * (n > 1)}" for n in counts), "serial fraction"]
    about = (
        f"Speed-up over one thread at {fits[0]['elements']:,} elements, and the serial fraction s of Amdahl's "
        "law, t(p) = t(1) (s + (1 − s) / p). Below 0: more than p times as fast."
    )
    return f"## Growth with the threads\n\n{about}\n\n{table(header, lines)}"


def machine(data: dict[str, Any]) -> str:
    where, versions, ours = data["machine"], data["versions"], data["fastinit"]
    caches = ", ".join(f"{name} {size}" for name, size in where["caches"].items())
    lines = [
        f"{where['cpu']}, {where['cores']} cores ({caches}), {where['memory_bytes'] / 2**30:.0f} GiB; "
        f"{where['system']}, huge pages: {where['huge_pages'] or 'unknown'}. Load before: {where['load_before']:.2f}.",
        ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        + f"; fastinit {ours['versions']['fastinit']} by {ours['built']['compiler']}, "
        f"{ours['active']['instruction_set']}. {data['threads']} threads where nothing else is said.",
        f"{data['date']}, commit {data['commit'][:12] or 'unknown'}{' with changes' if data['dirty'] else ''}. "
        + (
            f"Medians of at least {data['repeats']} repeats, in "
            if "repeats" in data
            else "One run each, in "
        )
        + f"{data['seconds'] / 60:.1f} minutes.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def values(rows: list[Row]) -> str:
    """What the checks of the values came to."""
    checks = [(row, side, verdict) for row in rows for side, verdict in row["checks"].items()]
    worst = max((verdict.get("standard_errors") or 0 for *_, verdict in checks), default=0)
    failed = sum(not verdict["ok"] for *_, verdict in checks)
    lines = [
        f"Values: {len(checks)} checks before the times were taken, {failed} not passed; "
        f"no moment is more than {worst:.1f} standard errors from theory."
    ]
    for row, side, verdict in checks:
        lines += [
            f"- {row['case']}, {row['dtype']}, {shape(row)}: {side}: {wrong}" for wrong in verdict["wrong"]
        ]
    return "\n".join(lines)


def skipped(rows: list[Row]) -> str:
    """What was not timed, and why; a library that is not installed is named once."""
    missing: dict[str, None] = {}
    lines = []
    for row in rows:
        for side, its in row["sides"].items():
            reason = its.get("skipped")
            if reason == "not installed":
                missing[side] = None
            elif reason:
                why = its.get("error", reason).splitlines()[0]
                lines.append(f"- {row['case']}, {row['dtype']}, {shape(row)}: {side}: {why}")
    if missing:
        lines.append(f"- not installed: {', '.join(missing)}")
    return "\n".join(["## Skipped\n", *lines]) if lines else ""


# ---- Cells -------------------------------------------------------------------------------------------------


def timed(row: Row) -> Iterable[tuple[str, dict[str, Any]]]:
    return ((side, its) for side, its in row["sides"].items() if "median" in its)


def quotient(row: Row, of: str, by: str) -> float | None:
    times = [row["sides"].get(side, {}).get("median") for side in (of, by)]
    return None if None in times else times[0] / times[1]


def shape(row: Row) -> str:
    return " × ".join(map(str, row["shape"]))


def time(its: dict[str, Any]) -> str:
    return seconds(its["median"]) if "median" in its else "skipped" if "skipped" in its else ""


def rate(its: dict[str, Any]) -> str:
    if "median" not in its:
        return "skipped" if its.get("skipped", "not installed") != "not installed" else ""
    return count(its["values_per_second"])


def gigabytes(its: dict[str, Any]) -> str:
    return f"{number(its['bytes_per_second'] / 1e9)} GB/s" if "median" in its else ""


def seconds(t: float) -> str:
    for unit, size in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if t >= size:
            return f"{number(t / size)} {unit}"
    return f"{t * 1e9:.0f} ns"


def count(x: float) -> str:
    for unit, size in ((" G", 1e9), (" M", 1e6), (" k", 1e3)):
        if x >= size:
            return f"{number(x / size)}{unit}"
    return number(x)


def number(x: float | None) -> str:
    """Three digits."""
    if x is None:
        return "–"
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def required(wanted: dict[str, Any]) -> str:
    """What was measured, and what is required."""
    value = wanted["value"]
    if "figure" in wanted:
        mib = wanted["figure"] == "extra_bytes"
        show: Callable[[float], str] = (lambda x: f"{x / 2**20:.1f} MiB") if mib else (lambda x: f"{x:.1e}")
        return f"{'–' if value is None else show(value)} (≤ {show(wanted['most'])})"
    of = "" if wanted["than"] == "torch" else f" of {wanted['than']}"
    return f"{number(value)}{of} ({wanted['note'] or '≥ ' + number(wanted['least'])})"


def reached(requirements: list[dict[str, Any]]) -> str:
    states = [wanted["reached"] for wanted in requirements if not wanted.get("note")]
    return "" if not states else "**no**" if False in states else "not measured" if None in states else "yes"


def host_times(row: Row) -> str:
    """Until the call returns; marked where the device waited for the host, so that the time is that of both."""
    sides = (row["sides"].get(side, {}) for side in ("torch", "fastinit"))
    return ", ".join(
        seconds(its["host_seconds"]) + ("" if its["without_the_host"] else "*")
        if "host_seconds" in its
        else "–"
        for its in sides
    )


def orthogonality(row: Row) -> str:
    errors = (row["sides"].get(side, {}).get("orthogonality") for side in ("torch", "fastinit"))
    return ", ".join("–" if error is None else f"{error:.1e}" for error in errors)


def table(header: list[str], lines: list[list[str]]) -> str:
    rule = [":---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))
