"""Results as pictures."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

COLORS = {
    "fill_": "black",
    "product": "black",
    "torch": "C0",
    "fastinit": "C1",
    "fastinit avx2": "C3",
    "numpy PCG64": "C2",
    "numpy SFC64": "C4",
    "numpy Philox": "C5",
    "jax threefry": "C6",
    "jax rbg": "C8",
}
LIMITS = {"fill_": "fill_: the memory's limit", "product": "one matrix product"}

Points = dict[str, list[tuple[int, float]]]  # of each side


def draw(data: dict[str, Any], stem: Path) -> list[str]:
    """Write what pictures the rows are good for, and return the files' names."""
    try:
        importlib.import_module("matplotlib").use("Agg")  # needs no screen
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        return []
    drawn = []
    for kind, figure in (
        ("sizes", sizes(pyplot, data["rows"])),
        ("orthogonal", orthogonal(pyplot, data["rows"])),
    ):
        if figure is not None:
            figure.suptitle(title(data), fontsize=9)
            name = f"{stem.name}-{kind}.png"
            figure.savefig(stem.with_name(name), dpi=110)
            pyplot.close(figure)
            drawn.append(name)
    return drawn


def sizes(pyplot: Any, rows: list[dict[str, Any]]) -> Any:
    """Values per second over the size, one panel for each initialiser and kind of memory; float32, all threads."""
    panels: dict[tuple[str, str], Points] = {}
    for row in rows:
        if row["table"] == "sizes" and row["dtype"] == "float32":
            points = panels.setdefault((row["memory"], row["case"]), {})
            for side, its in row["sides"].items():
                if "median" in its:
                    points.setdefault(side, []).append((row["elements"], its["values_per_second"]))
    if not panels:
        return None
    memories = list(dict.fromkeys(memory for memory, _ in panels))
    cases = list(dict.fromkeys(case for _, case in panels))
    figure, axes = pyplot.subplots(
        len(memories),
        len(cases),
        figsize=(5 * len(cases), 4 * len(memories)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for (memory, case), points in panels.items():
        axis = axes[memories.index(memory)][cases.index(case)]
        lines(axis, points)
        axis.set_title(f"{case}, {memory}")
        axis.set_xlabel("elements")
        axis.legend(fontsize=7)
    for line in axes:
        line[0].set_ylabel("values per second")
    return figure


def orthogonal(pyplot: Any, rows: list[dict[str, Any]]) -> Any:
    """Time over n for n × n."""
    points: Points = {}
    for row in rows:
        square = len(row["shape"]) == 2 and row["shape"][0] == row["shape"][1]
        if row["table"] == "orthogonal" and row["dtype"] == "float32" and square:
            for side, its in row["sides"].items():
                if "median" in its:
                    points.setdefault(side, []).append((row["shape"][0], its["median"]))
    if not points:
        return None
    figure, axis = pyplot.subplots(figsize=(6.5, 5), layout="constrained")
    lines(axis, points)
    axis.set_xlabel("n")
    axis.set_ylabel("seconds for n × n, float32")
    axis.legend()
    return figure


def lines(axis: Any, points: Points) -> None:
    for side, pairs in points.items():
        style = "--" if side in LIMITS else ":" if side.startswith(("numpy", "jax")) else "-"
        x, y = zip(*sorted(pairs), strict=True)
        axis.plot(x, y, style, marker=".", color=COLORS.get(side), label=LIMITS.get(side, side))
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.grid(alpha=0.3)


def title(data: dict[str, Any]) -> str:
    versions = data["versions"]
    return (
        f"{data['machine']['cpu']}, {data['threads']} threads; torch {versions['torch']}, "
        f"fastinit {data['fastinit']['versions']['fastinit']} ({data['fastinit']['active']['instruction_set']}); "
        f"{data['date'][:10]}"
    )
