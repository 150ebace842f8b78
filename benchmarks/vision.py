"""`python -m benchmarks.vision`: models of other libraries, built by torch and in `fastinit.enabled()`.

It needs timm, open_clip, diffusers and transformers, and prints a table: medians of five, in turns.
"""

from __future__ import annotations

import gc
import importlib
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import fastinit
from benchmarks import machine, report

ROUNDS = 5


def of(module: str) -> Any:
    return importlib.import_module(module)


def control_net() -> Any:
    return of("diffusers").ControlNetModel(
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        layers_per_block=2,
        cross_attention_dim=32,
    )


def unet() -> Any:
    return of("diffusers").UNet2DModel(
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )


def time_series() -> Any:
    transformers = of("transformers")
    return transformers.TimeSeriesTransformerModel(
        transformers.TimeSeriesTransformerConfig(prediction_length=24)
    )


# How many times as fast each has to be.
MODELS: dict[str, tuple[Callable[[], Any], float]] = {
    "timm ViT-B/16": (lambda: of("timm").create_model("vit_base_patch16_224"), 4),
    "open_clip EVA02-B-16": (lambda: of("open_clip").create_model("EVA02-B-16"), 4),
    "diffusers ControlNetModel, small": (control_net, 1),
    "diffusers UNet2DModel, small": (unet, 1),
    "transformers TimeSeriesTransformer": (time_series, 1),
}


def row(name: str) -> list[str]:
    make, wanted = MODELS[name]
    make()  # imports what it needs
    times: dict[str, list[float]] = {"torch": [], "fastinit": []}
    for _ in range(ROUNDS):
        start = time.perf_counter()
        make()
        times["torch"].append(time.perf_counter() - start)
        gc.collect()
        with fastinit.enabled() as looked:
            start = time.perf_counter()
            model = make()
            times["fastinit"].append(time.perf_counter() - start)
        gc.collect()
    torchs, ours = map(statistics.median, times.values())
    elements = sum(parameter.numel() for parameter in model.parameters())
    return [
        name,
        f"{elements / 1e6:.1f}",
        report.seconds(torchs),
        report.seconds(ours),
        f"{torchs / ours:.3g} (≥ {wanted:g})",
        str(sum(looked.equivalents.values())),
        "yes" if torchs / ours >= wanted else "**no**",
    ]


def main() -> None:
    warnings.simplefilter("ignore")
    header = [
        "model",
        "M parameters",
        "torch",
        "in a block",
        "times as fast",
        "functions exchanged",
        "reached",
    ]
    where, start = machine.describe(), time.perf_counter()
    rows = [row(name) for name in MODELS]
    print("# Benchmark: models of other libraries\n")
    print(report.machine(where | {"repeats": ROUNDS, "seconds": time.perf_counter() - start}))
    print()
    print(report.table(header, rows))


if __name__ == "__main__":
    main()
