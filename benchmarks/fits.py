"""How time grows with the size and with the threads."""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import linear_regression
from typing import Any

LARGE = 2**16  # elements from which the log-log slope is taken
KIND = ("case", "dtype", "layout", "memory")


def fits(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Fits for every side that was timed at three sizes or more, or with two numbers of threads or more."""
    by_size: defaultdict[tuple[Any, ...], dict[int, float]] = defaultdict(dict)
    by_threads: defaultdict[tuple[Any, ...], dict[int, float]] = defaultdict(dict)
    for row in rows:
        kind = tuple(row[key] for key in KIND)
        medians = {side: its["median"] for side, its in row["sides"].items() if "median" in its}
        for side, median in medians.items():
            if row["table"] == "sizes":
                one = (*kind, row["threads"], side)
                by_size[one][row["elements"]] = median
            if row["table"] == "threads":
                one = (*kind, row["elements"], side)
                by_threads[one][row["threads"]] = median
    return {
        "sizes": [
            dict(zip((*KIND, "threads", "side"), kind, strict=True)) | size_fit(times)
            for kind, times in by_size.items()
            if len(times) >= 3
        ],
        "threads": [
            dict(zip((*KIND, "elements", "side"), kind, strict=True)) | thread_fit(times)
            for kind, times in by_threads.items()
            if len(times) >= 2 and 1 in times
        ],
    }


def size_fit(times: dict[int, float]) -> dict[str, Any]:
    """t = overhead + n / rate, with the least squares of the relative errors; the slope of log t over log n."""
    x = [1 / t for t in times.values()]  # of 1 = overhead * x + y / rate
    y = [n / t for n, t in times.items()]
    xx, xy, yy = (sum(map(float.__mul__, *pair)) for pair in ((x, x), (x, y), (y, y)))
    determinant = xx * yy - xy * xy
    overhead = (sum(x) * yy - sum(y) * xy) / determinant
    if overhead < 0:  # below what can be told
        overhead, per_value = 0.0, sum(y) / yy
    else:
        per_value = (sum(y) * xx - sum(x) * xy) / determinant
    large = {n: t for n, t in times.items() if n >= LARGE}
    slope = (
        linear_regression([*map(math.log, large)], [*map(math.log, large.values())]).slope
        if len(large) > 1
        else None
    )
    return {
        "sizes": [min(times), max(times)],
        "overhead_seconds": overhead,
        "values_per_second": 1 / per_value if per_value > 0 else None,
        "slope": slope,
        "worst_error": max(abs(1 - (overhead + n * per_value) / t) for n, t in times.items()),
    }


def thread_fit(times: dict[int, float]) -> dict[str, Any]:
    """Amdahl's law, t(p) = t(1) (s + (1 - s) / p): the serial fraction s by least squares.

    It is below 0 where p threads are more than p times as fast as one.
    """
    points = [(1 - 1 / p, t / times[1] - 1 / p) for p, t in times.items() if p > 1]
    return {
        "speed_up": {str(p): times[1] / t for p, t in sorted(times.items())},
        "serial_fraction": sum(x * y for x, y in points) / sum(x * x for x, _ in points),
    }
