"""Say what is wrong with the initialisation of a model, which any importable function makes."""

from __future__ import annotations

import argparse
import ast
import importlib
import runpy
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fastinit import _enabled
from fastinit._check import check, sources, text
from fastinit._check.finding import Findings
from fastinit._check.subject import Subject
from fastinit._deferred import deferred
from fastinit._enabled.report import Report

EPILOG = """
The model is built without memory (fastinit.deferred), so its size does not matter. Up to 2^28 values are then drawn, one
parameter at a time, and looked at. --eager builds it in memory, which also measures the time that was lost.

examples:
  python -m fastinit check torchvision:models.resnet50
  python -m fastinit check timm:create_model convnext_tiny num_classes=10 --plot convnext.png
  python -m fastinit check transformers:AutoModelForCausalLM.from_config --config config.py
      where config.py says: import transformers; config = transformers.LlamaConfig(hidden_size=512)

The exit status is 1 if there are findings of severity error, and 2 if there is no model to look at.
"""


class NoModel(Exception):
    """There is nothing to look at."""


@dataclass
class Built:
    """A model, and what was seen of its construction."""

    model: nn.Module
    subject: Subject
    report: Report | None
    seconds: float
    how: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("factory", metavar="module:callable", help="what makes the model")
    parser.add_argument(
        "arguments", nargs="*", help="its arguments: Python literals, or name=literal; other words are text"
    )
    parser.add_argument(
        "--config", metavar="FILE.py", type=Path, help="a file that sets config, or args and kwargs"
    )
    parser.add_argument("--eager", action="store_true", help="build the model in memory")
    parser.add_argument(
        "--values",
        action=argparse.BooleanOptionalAction,
        help="draw the values, or do not, whatever the size",
    )
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw a picture (matplotlib)")
    parser.add_argument("--json", action="store_true", help="print machine-readable data")


def run(args: argparse.Namespace) -> int:
    try:
        make = factory(args.factory, *arguments(args))
        built = eagerly(make) if args.eager else without_memory(make, args.values)
    except NoModel as error:
        print(f"python -m fastinit check: {error}", file=sys.stderr)
        return 2
    except Exception:  # the factory's: not to be taken for findings
        traceback.print_exc()
        return 2
    found = check.check(built.subject)
    if args.json:
        data = {"factory": args.factory, "built": built.how, "seconds": built.seconds}
        print(text.dumps(data | text.subject_data(built.subject, found)))
    else:
        print(rendered(args.factory, built, found))
    if args.plot is not None:
        from fastinit._check.plot import plot

        plot(args.plot, built.subject)
    return 1 if found.of("error") else 0


def rendered(name: str, built: Built, found: Findings) -> str:
    weights = built.subject.weights
    count = sum(weight.numel for weight in weights)
    head = f"{name}: {len(weights):,} parameters of {count:,} elements, built {built.how} in {built.seconds:.1f} s"
    parts = [head, text.fills_table(built.subject)]
    if built.report is not None:
        parts.append(str(built.report))
    parts.append(str(found))
    return "\n\n".join(parts)


# ---- The model -----------------------------------------------------------------------------------------------


def arguments(args: argparse.Namespace) -> tuple[list[Any], dict[str, Any]]:
    """What the factory is given."""
    positional: list[Any] = []
    named: dict[str, Any] = {}
    if args.config is not None:
        if not args.config.is_file():
            raise NoModel(f"there is no file {args.config}")
        space = runpy.run_path(str(args.config))
        if not {"config", "args", "kwargs"} & set(space):
            raise NoModel(f"{args.config} sets neither config nor args nor kwargs")
        positional += [space["config"]] if "config" in space else []
        positional += space.get("args", ())
        named |= space.get("kwargs", {})
    for word in args.arguments:
        name, equals, value = word.partition("=")
        if equals and name.isidentifier():
            named[name] = literal(value)
        else:
            positional.append(literal(word))
    return positional, named


def literal(word: str) -> Any:
    try:
        return ast.literal_eval(word)
    except (SyntaxError, ValueError):
        return word


def factory(name: str, positional: list[Any], named: dict[str, Any]) -> Callable[[], nn.Module]:
    """A function that makes the model."""
    module, colon, path = name.partition(":")
    if not colon or not path:
        raise NoModel(f"{name!r} is not of the form module:callable")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise NoModel(f"{name}: {error}") from error

    def make() -> nn.Module:
        model = found(*positional, **named)
        if not isinstance(model, nn.Module):
            raise NoModel(f"{name} gives a {type(model).__name__}, which is no torch.nn.Module")
        return model

    return make


def eagerly(make: Callable[[], nn.Module]) -> Built:
    start = time.perf_counter()
    with _enabled.enabled(call_sites=True) as report:
        model = make()
    seconds = time.perf_counter() - start
    return Built(model, sources.from_report(report, model), report, seconds, "in memory")


def without_memory(make: Callable[[], nn.Module], values: bool | None) -> Built:
    start = time.perf_counter()
    try:
        with deferred(call_sites=True) as block:
            model = make()
        recipe = block.recipe(model)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        print(f"It cannot be built without memory, and is built with it: {first}", file=sys.stderr)
        return eagerly(make)
    seconds = time.perf_counter() - start
    return Built(model, sources.from_recipe(recipe, model, values), None, seconds, "without memory")
