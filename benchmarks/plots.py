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


# ---- The README's picture ------------------------------------------------------------------------------------


RESULTS = Path(__file__).parent / "results"
MACHINE = "amd-epyc-2-cores-2.13.0"
BARS = (  # the label; the table, what its row begins with, and the column that has the ratio
    ("orthogonal_", "orthogonal", ("orthogonal_", "float32", "4096 × 4096"), "torch ÷ fastinit"),
    ("normal_", "must", ("normal_", "float32"), "torch ÷ time"),
    ("uniform_", "must", ("uniform_", "float32"), "torch ÷ time"),
    ("sparse_", "must", ("sparse_ 0.1", "float32"), "torch ÷ time"),
    ("trunc_normal_", "must", ("trunc_normal_ ±2σ", "float32"), "torch ÷ time"),
    ("GPT-2 XL, unedited", "models", ("GPT-2 XL",), "measured"),
    ("BLT 1.7 B, unedited", "models", ("BLT, encoder_hash_byte_group_vocab=20000",), "measured"),
)


def table_rows(text: str) -> list[dict[str, str]]:
    """The rows of the tables of a Markdown text, by the heads of their columns."""
    rows: list[dict[str, str]] = []
    head: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            head = []
        elif not head:
            head = cells
        elif not cells[0].startswith(":-"):
            rows.append(dict(zip(head, cells, strict=True)))
    return rows


def ratios() -> dict[str, float]:
    """How many times as fast as torch, for each bar, from the committed tables."""
    found = {}
    for label, table, first, column in BARS:
        rows = table_rows((RESULTS / f"{MACHINE}-{table}.md").read_text())
        row = next(row for row in rows if tuple(row.values())[: len(first)] == first)
        found[label] = float(row[column].partition(" ")[0].rstrip("×"))
    return found


def described(values: dict[str, float]) -> str:
    return "; ".join(f"{label}: {value:g}" for label, value in values.items())


def front(path: Path) -> None:
    """Draw the README's bars."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    values = ratios()
    ink, soft = "#1f2328", "#59636e"
    with matplotlib.rc_context({"svg.hashsalt": "fastinit", "font.size": 11, "text.color": ink}):
        figure, axis = pyplot.subplots(figsize=(7.6, 3.7), layout="constrained", facecolor="white")
        figure.get_layout_engine().set(w_pad=0.15, h_pad=0.12)
        colors = ["#0969da" if "unedited" not in label else "#bc4c00" for label in values]
        bars = axis.barh(list(values), list(values.values()), color=colors, height=0.68)
        axis.bar_label(bars, [f"{value:.3g}×" for value in values.values()], padding=5, fontweight="bold")
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.set_xlim(1, 250)
        axis.set_xticks([1, 2, 5, 10, 20, 50, 100], ["torch", "2×", "5×", "10×", "20×", "50×", "100×"])
        axis.minorticks_off()
        axis.tick_params(length=0, colors=soft)
        axis.tick_params(axis="y", labelcolor=ink)
        axis.grid(axis="x", color="#d1d9e0", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.spines["left"].set_color(soft)
        axis.set_title("Times as fast as torch.nn.init", loc="left", fontsize=12, fontweight="bold")
        axis.set_xlabel(
            "Single fills of 8192 × 8192 or 4096 × 4096 float32 values; whole models of transformers.\n"
            "AMD EPYC (Zen 4), 2 cores, torch 2.13. Logarithmic scale.",
            color=soft,
            fontsize=9,
        )
        # So that a test can compare without drawing: letters are paths.
        figure.savefig(path, metadata={"Description": described(values), "Date": None})
        pyplot.close(figure)


if __name__ == "__main__":
    front(Path(__file__).parents[1] / "docs" / "speed.svg")
