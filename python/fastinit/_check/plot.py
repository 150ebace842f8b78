"""One picture of a model's initialisation, for people who would rather look."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fastinit._check.subject import Subject, Weight
from fastinit._check.text import distribution, how
from fastinit._check.values import FAR, robust

MOST_KINDS = 10
HISTOGRAMS = 4
MOST_TICKS = 24
GREY, RED = "0.6", "tab:red"


def plot(path: str | Path, subject: Subject) -> None:
    """Draw deviations and ranges by depth, what was drawn twice, and histograms against theory."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(17, 12), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, HISTOGRAMS, height_ratios=(1.2, 1, 0.9))
    weights = [weight for weight in subject.weights if weight.numel]
    spread = [weight for weight in weights if (distribution(weight)[0] or 0.0) > 0 or weight.unwritten]
    blocks = {key: x for x, key in enumerate(dict.fromkeys(block(weight)[0] for weight in spread))}
    kinds = most_common(weights)
    colours = {kind: f"C{i}" for i, kind in enumerate(kinds)}

    deviations = figure.add_subplot(grid[0, : HISTOGRAMS - 1])
    ranges = figure.add_subplot(grid[1, : HISTOGRAMS - 1], sharex=deviations)
    for i, (kind, colour) in enumerate(colours.items()):
        aside = 0.5 * (i + 0.5) / len(colours) - 0.25  # so that equal ones are seen side by side
        mine = [weight for weight in spread if block(weight)[1] == kind and not weight.unwritten]
        for run in stacks(mine):
            places = [blocks[block(weight)[0]] + (aside if len(run) > 1 else 0.0) for weight in run]
            found = [distribution(weight) for weight in run]
            show_deviations(deviations, places, found, kind, colour)
            show_ranges(ranges, places, found, colour)
    for x, weight in unfilled(spread, blocks):
        for axes in (deviations, ranges):
            axes.axvline(x, color=RED, linewidth=1, linestyle=":")
        deviations.annotate(
            f"not filled: {shortened(weight.name)}",
            (x, 0.98),
            xycoords=("data", "axes fraction"),
            rotation=90,
            va="top",
            ha="right",
            fontsize=8,
            color=RED,
        )
    read = any(weight.stats is not None for weight in spread)
    title(
        deviations, "standard deviation by depth" + ("" if read else ", from the fills: no values were read")
    )
    logarithmic(deviations)
    title(
        ranges,
        "least and greatest value" if read else "bounds of the distributions; ±4 sigma of a normal one",
    )
    wide(ranges)
    for axes in (deviations, ranges):
        axes.grid(alpha=0.3)
    ticks(ranges, list(blocks))
    deviations.tick_params(labelbottom=False)
    legend = figure.add_subplot(grid[0, HISTOGRAMS - 1])
    legend.axis("off")
    more = len({block(weight)[1] for weight in spread if not weight.unwritten} - set(kinds))
    if more:
        legend.text(
            0.05, 0.02, f"Kinds with fewer elements that are not shown: {more}", fontsize=9, color="0.4"
        )
    handles = dict(zip(*deviations.get_legend_handles_labels()[::-1], strict=True))
    legend.legend(handles.values(), handles.keys(), fontsize=9, loc="upper left", frameon=False)
    show_drawn(figure.add_subplot(grid[1, HISTOGRAMS - 1]), weights, kinds)
    for i, weight in enumerate(chosen(weights)):
        show_histogram(figure.add_subplot(grid[2, i]), weight)
    figure.savefig(path, dpi=100)


def stacks(weights: list[Weight]) -> Iterable[list[Weight]]:
    """Parameters of one kind, those of each stack of blocks by themselves."""
    found: dict[str, list[Weight]] = {}
    for weight in weights:
        found.setdefault(block(weight)[0].rpartition(".")[0], []).append(weight)
    return found.values()


def logarithmic(axes: Any) -> None:
    """A logarithmic axis, with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    middle = math.sqrt(low * high)
    axes.set_ylim(min(low, middle / 2), max(high, middle * 2))
    wide = high / low > 1e3
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def wide(axes: Any) -> None:
    """An axis that is logarithmic away from 0, if some ranges are far wider than others."""
    ends = [
        abs(float(y)) for line in axes.get_lines() for y in line.get_ydata() if len(line.get_xdata()) and y
    ]
    ends = [end for end in ends if math.isfinite(end)]
    if ends and max(ends) > 15 * float(np.median(ends)):
        from matplotlib.ticker import FuncFormatter

        linear = float(np.median(ends))
        axes.set_yscale("symlog", linthresh=linear)
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda y, _: f"{y:g}" if y == 0 or abs(y) > linear else "")
        )


def title(axes: Any, text: str) -> None:
    axes.set_title(text, fontsize=10, loc="left")


def block(weight: Weight) -> tuple[str, str]:
    """Where in the model a parameter is, and what it is there: ``layers.3`` and ``mlp.fc1``."""
    words = weight.name.split(".")
    numbers = [i for i, word in enumerate(words) if word.isdigit() and not (i and "expert" in words[i - 1])]
    if len(numbers) > 1 and numbers[-1] == len(words) - 2:
        numbers.pop()  # a layer of a sequence within a block
    if not numbers:
        last = max(len(words) - 1, 1)
        kind = words[-2:] if words[-1] in ("weight", "bias") else words[-1:]
    else:
        last = numbers[-1] + 1
        kind = words[last:] or words[-2:]
    if len(kind) > 1 and kind[-1] == "weight":
        kind = kind[:-1]
    return ".".join(words[:last]), ".".join("*" if word.isdigit() else word for word in kind)


def most_common(weights: Iterable[Weight]) -> list[str]:
    """The kinds of parameters with most elements that are matrices, or are drawn at random."""
    sizes: dict[str, int] = {}
    for weight in weights:
        std = distribution(weight)[0]
        if std is not None and std > 0 and not weight.unwritten:
            kind = block(weight)[1]
            sizes[kind] = sizes.get(kind, 0) + weight.numel
    largest = sorted(sizes, key=lambda kind: -sizes[kind])[:MOST_KINDS]
    return [kind for kind in sizes if kind in largest]


def show_deviations(axes: Any, places: list[float], found: list[Any], kind: str, colour: str) -> None:
    points = [(x, std) for x, (std, _, _) in zip(places, found, strict=True) if std is not None and std > 0]
    if not points:
        return
    xs, stds = zip(*points, strict=True)
    line = "-" if len(points) > 1 else ""
    axes.plot(
        xs, stds, marker="o", markersize=4, linewidth=1, linestyle=line, color=colour, label=kind, alpha=0.85
    )


def show_ranges(axes: Any, places: list[float], found: list[Any], colour: str) -> None:
    points = []
    for x, (std, low, high) in zip(places, found, strict=True):
        if std is None or std == 0:
            continue
        points.append((x, -4 * std if low is None else low, 4 * std if high is None else high))
    if not points:
        return
    xs, lows, highs = zip(*points, strict=True)
    for ends in (lows, highs):
        axes.plot(xs, ends, marker="_", markersize=8, linewidth=0.8, color=colour, alpha=0.85)


def ticks(axes: Any, names: list[str]) -> None:
    step = max(1, math.ceil(len(names) / MOST_TICKS))
    places = range(0, len(names), step)
    axes.set_xticks(list(places), [shortened(names[i]) for i in places], rotation=35, ha="right", fontsize=7)
    axes.set_xlim(-0.5, max(len(names), 1) - 0.5)


def shortened(name: str) -> str:
    return name if len(name) <= 28 else "…" + name[-27:]


def unfilled(weights: list[Weight], blocks: dict[str, int]) -> list[tuple[int, Weight]]:
    return [(blocks[block(weight)[0]], weight) for weight in weights if weight.unwritten][:12]


def show_drawn(axes: Any, weights: list[Weight], kinds: list[str]) -> None:
    """How many elements of each kind there are, and how many were drawn and overwritten."""
    from matplotlib.ticker import EngFormatter

    once = dict.fromkeys((*kinds, "all others"), 0)
    again = dict(once)
    for weight in weights:
        kind = block(weight)[1]
        kind = kind if kind in once else "all others"
        once[kind] += weight.numel
        again[kind] += sum(min(done.elements, weight.numel) for done in weight.wasted)
    rows = range(len(once))
    axes.barh(rows, list(once.values()), color="tab:blue", label="parameters")
    axes.barh(rows, list(again.values()), left=list(once.values()), color=RED, label="drawn and overwritten")
    axes.set_yticks(list(rows), [shortened(kind) for kind in once], fontsize=7)
    axes.invert_yaxis()
    axes.legend(fontsize=7, loc="lower right")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    title(axes, "elements, and what was drawn for nothing")


def chosen(weights: list[Weight]) -> list[Weight]:
    """The parameters whose histograms are shown: those with far values, then the largest of each fill and of each kind."""
    spread = [w for w in weights if (distribution(w)[0] or 0.0) > 0 and not w.unwritten]
    spread.sort(key=lambda weight: (-strange(weight), -weight.numel))
    by_fill: dict[str, Weight] = {}
    by_kind: dict[str, Weight] = {}
    for weight in spread:
        by_fill.setdefault(how(weight), weight)
    for weight in spread:
        if weight not in by_fill.values():
            by_kind.setdefault(block(weight)[1], weight)
    return [*by_fill.values(), *by_kind.values()][:HISTOGRAMS]


def strange(weight: Weight) -> float:
    """How many deviations its farthest value is out, if that is farther than its distribution allows; 0 otherwise."""
    stats, theory = weight.stats, weight.theory
    if stats is None or stats.count < 2:
        return 0.0
    if theory is None:
        scale, centre = robust(stats)
        out = max(stats.high - centre, centre - stats.low) / scale if scale > 0 and weight.random else 0.0
        return out if out > FAR else 0.0
    if theory.std == 0 or theory.family == "other":
        return 0.0
    low, high = theory.limits(stats.count)
    out = max(low - stats.low, stats.high - high) / theory.std
    return out if out > 1e-3 else 0.0


def show_histogram(axes: Any, weight: Weight) -> None:
    """The values, and the density that they should have."""
    stats, theory = weight.stats, weight.theory
    std, low, high = distribution(weight)
    assert std is not None
    centre = stats.mean if stats is not None else theory.mean if theory is not None else 0.0
    first = max(centre - 5 * std, -math.inf if low is None else low)
    last = min(centre + 5 * std, math.inf if high is None else high)
    margin = 0.05 * (last - first)
    if stats is not None:
        values = stats.sample.numpy()
        values = values[np.isfinite(values)]
        inside = values[(values >= first) & (values <= last)]
        bins = 60 if values.size > 2000 else 20
        counts, edges = np.histogram(inside, bins=bins, range=(first, last))
        density = counts / max(values.size, 1) / (edges[1] - edges[0])
        axes.stairs(density, edges, fill=True, color="tab:blue", alpha=0.5, label=f"{values.size:,} values")
        far = max((stats.low, stats.high), key=lambda value: abs(value - centre))
        if not first - margin <= far <= last + margin:
            axes.annotate(
                f"farthest: {far:.4g}",
                (0.98, 0.75),
                xycoords="axes fraction",
                ha="right",
                fontsize=8,
                color=RED,
            )
    if theory is not None and theory.density(theory.mean) is not None:
        xs = np.linspace(first - margin, last + margin, 400)
        axes.plot(xs, [theory.density(float(x)) for x in xs], color="black", linewidth=1, label="theory")
    axes.set_yticks([])
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7, loc="upper right")
    name = shortened(weight.name)
    axes.set_title(f"{name}\n{wrapped(how(weight))}", fontsize=8, loc="left")


def wrapped(text: str) -> str:
    return text if len(text) <= 62 else text[:61] + "…"
