"""The functions beyond torch.nn.init have the distributions that docs/formulas.md promises."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special, stats

from fastinit import extra

DISTRIBUTIONS: dict[str, Any] = {
    "normal": stats.norm(),
    "uniform": stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)),
    "truncated_normal": stats.truncnorm(-2, 2, scale=1 / extra.truncated_std(2.0)),
}

# Shape and layout of 2^28 values, and the fan-in.
LAYOUTS: dict[str, tuple[tuple[int, ...], dict[str, Any], int]] = {
    "linear": ((2**14, 2**14), {}, 2**14),
    "convolution": ((2**12, 2**12, 4, 4), {}, 2**16),
    "transposed convolution": ((2**10, 2**14, 4, 4), {"in_dim": 0}, 2**14),
    "grouped convolution": ((2**14, 2**10, 4, 4), {"groups": 16}, 2**14),
    "queries, keys and values": ((3 * 2**13, 10923), {"splits": 3}, 10923),
    "experts": ((64, 2**11, 2**11), {"batch_dims": 0}, 2**11),
    "(inputs, outputs) matrix": ((2**12, 2**16), {"in_dim": 0}, 2**12),
}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_distribution(distribution: Any) -> None:
    w = torch.empty(1000, 10_000, dtype=torch.float64)
    extra.variance_scaling_(w, 1e4, "fan_in", distribution, generator=torch.Generator().manual_seed(1))
    values, expected = np.sort(w.flatten().numpy()), DISTRIBUTIONS[distribution]
    cdf = expected.cdf
    if distribution == "truncated_normal":  # scipy's takes a while
        low, high = special.ndtr(-2.0), special.ndtr(2.0)
        cdf = lambda x: (special.ndtr(x * extra.truncated_std(2.0)) - low) / (high - low)  # noqa: E731
    assert stats.kstest(values, cdf, method="asymp").pvalue > 1e-7
    for moment in (1, 2, 4):
        mean, square = expected.moment(moment), expected.moment(2 * moment)
        error = math.sqrt((square - mean**2) / values.size)
        assert abs((values**moment).mean() - mean) < 5.4 * error, moment


@pytest.mark.long
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_std_is_the_promised_one(layout: str, distribution: Any) -> None:
    shape, arguments, fan = LAYOUTS[layout]
    w = torch.empty(shape)
    generator = torch.Generator().manual_seed(2)
    extra.variance_scaling_(w, 1.0, "fan_in", distribution, **arguments, generator=generator)
    squares = sum(float(rows.double().square().sum()) for rows in w.split(max(1, shape[0] // 64)))
    assert abs(math.sqrt(squares / w.numel() * fan) - 1) < 1e-4
