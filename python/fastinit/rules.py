"""Initialise a whole model by a list of rules: which parameter gets what, by its name or its module's type."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn

from fastinit import extra, init
from fastinit.keys import canonical_name, keys_by_name

Pattern = str | re.Pattern[str] | type[nn.Module] | tuple[type[nn.Module], str]
Fill = Callable[[Tensor], Any]
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Match:
    """A parameter, and the first rule that matches it."""

    name: str
    parameter: Tensor
    rule: int | None  # its position in the list; None for none
    fill: Fill | None


class Rules:
    """A list of rules: for each parameter of a model, the first one that matches says how it is filled.

    Args:
        rules: pairs of a pattern and a function. A pattern is

            - a string, which is a glob for the qualified name (``"layers.*.mlp.*.weight"``; ``*`` stands for dots too);
            - a compiled regular expression for the whole qualified name;
            - a type of module, for the parameters that modules of this type have themselves;
            - a pair of such a type and a glob for the parameter's own name (``(nn.Linear, "bias")``).

            A function takes the parameter: ``fastinit.zeros_``, ``partial(fastinit.normal_, std=0.02)``.
        default: what fills a parameter that no rule matches. Without it, such a parameter is an error.

    The names are those of ``named_parameters()``, without what wrappers add (``_orig_mod.``, ``module.``,
    ``_fsdp_wrapped_module.``). A shared parameter goes by its first name and is filled once.

    Example:
        >>> import fastinit, torch
        >>> from functools import partial
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8))
        >>> rules = fastinit.Rules([
        ...     ("*.bias", fastinit.zeros_),
        ...     (torch.nn.LayerNorm, fastinit.ones_),
        ...     ("*.weight", partial(fastinit.normal_, std=0.02)),
        ... ])
        >>> _ = rules.apply_(model, seed=0)
        >>> print(rules.explain(model))
        parameter  shape   rule        filled by
        0.weight   (8, 4)  '*.weight'  normal_(std=0.02)
        0.bias     (8,)    '*.bias'    zeros_()
        1.weight   (8,)    LayerNorm   ones_()
        1.bias     (8,)    '*.bias'    zeros_()
    """

    def __init__(self, rules: Iterable[tuple[Pattern, Fill]], *, default: Fill | None = None) -> None:
        self.rules = list(rules)
        self.default = default
        for pattern, fill in self.rules:
            check(pattern)
            if not callable(fill):
                raise TypeError(f"the rule for {shown(pattern)} has no function, but {fill!r}")

    def apply_(self, model: Model, *, seed: int | None = None) -> Model:
        """Fill all parameters of a model.

        Nothing is filled before every parameter has its rule. If a rule is not the first to match any parameter, there is a
        warning.

        Args:
            model: the model. Parameters may be DTensors.
            seed: with a seed, keys come from the parameters' names (``keys_by_name``), so that other modules do not matter.
                By default, keys come from the generator, parameter after parameter.

        Raises:
            ValueError: if no rule matches some of the parameters. The error names all of them.

        Returns:
            ``model``.
        """
        matches = list(self.match(model))
        without = [match.name for match in matches if match.fill is None]
        if without:
            raise ValueError(
                "no rule matches " + ", ".join(without) + " (Rules(..., default=) would fill them)"
            )
        used = {match.rule for match in matches}
        for number, (pattern, _) in enumerate(self.rules):
            if number not in used:
                warnings.warn(
                    f"the rule for {shown(pattern)} is the first to match no parameter", stacklevel=2
                )
        with nullcontext() if seed is None else keys_by_name(model, seed):
            for match in matches:
                assert match.fill is not None
                match.fill(match.parameter)
        return model

    def match(self, model: nn.Module) -> Iterator[Match]:
        """Yield each parameter with its rule, in the order of ``named_parameters()``."""
        owners = {
            id(p): module for module in model.modules() for p in module._parameters.values() if p is not None
        }
        for original, parameter in model.named_parameters():
            name, owner = canonical_name(original), owners[id(parameter)]
            for number, (pattern, fill) in enumerate(self.rules):
                if fits(pattern, name, owner):
                    yield Match(name, parameter, number, fill)
                    break
            else:
                yield Match(name, parameter, None, self.default)

    def explain(self, model: nn.Module) -> str:
        """Return a table: each parameter of a model, the rule that matches it, and what fills it."""
        rows = [("parameter", "shape", "rule", "filled by")]
        for match in self.match(model):
            rule = "(default)" if match.rule is None else shown(self.rules[match.rule][0])
            what = "NOTHING" if match.fill is None else called(match.fill)
            rows.append((match.name, str(tuple(match.parameter.shape)), rule, what))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        return "\n".join(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
            for row in rows
        )

    # ---- Rules that are in use --------------------------------------------------------------------------------

    @classmethod
    def gpt2(cls, layers: int, std: float = 0.02) -> Rules:
        """Return the rules of GPT-2, as in ``transformers``: weights from N(0, std²), the last of each branch scaled by depth.

        The source is Radford et al. (2019), "Language models are unsupervised multitask learners".

        Args:
            layers: the number of blocks.
            std: the standard deviation.

        Example:
            >>> import fastinit
            >>> rules = fastinit.Rules.gpt2(layers=12)
        """
        return cls(
            [
                ((nn.LayerNorm, "weight"), init.ones_),
                ("*.bias", init.zeros_),
                ("*c_proj.weight", partial(extra.residual_normal_, layers=layers, std=std)),
                ("*", partial(init.normal_, std=std)),
            ]
        )

    @classmethod
    def llama(cls, layers: int, dim: int, depth_init: bool = True) -> Rules:
        """Return torchtitan's rules for Llama: truncated normal weights, the last of each branch scaled by its depth.

        The parameters may have torchtitan's names or those of ``transformers``.

        Args:
            layers: the number of blocks.
            dim: the width of the model.
            depth_init: scale by 1/√(2 (i + 1)) in block i. Otherwise, scale by 1/√(2 layers) in all blocks.

        Example:
            >>> import fastinit
            >>> rules = fastinit.Rules.llama(layers=32, dim=4096)
        """
        rules: list[tuple[Pattern, Fill]] = [
            (re.compile(r"(.*\.)?(tok_embeddings|embed_tokens)\.weight"), init.normal_),
            (re.compile(r"(.*\.)?\w*norm\.weight"), init.ones_),
            (
                re.compile(r"(.*\.)?(output|lm_head)\.weight"),
                partial(extra.trunc_normal_, std=dim**-0.5, truncate=3.0),
            ),
            (
                re.compile(r".*\.(wq|wk|wv|w1|[qkv]_proj|gate_proj)\.weight"),
                partial(init.trunc_normal_, std=0.02),
            ),
        ]
        last = r"(wo|w2|w3|o_proj|down_proj|up_proj)\.weight"
        for layer in range(layers):
            std = 0.02 / (2 * (layer + 1 if depth_init else layers)) ** 0.5
            rules.append(
                (re.compile(rf"(.*\.)?layers\.{layer}\..*\.{last}"), partial(init.trunc_normal_, std=std))
            )
        return cls(rules)

    @classmethod
    def vit(cls, patch: int = 16, channels: int = 3) -> Rules:
        """Return timm's rules for vision transformers: N(0, 0.02²) for weights and positions, zeros for biases.

        The convolution of the patches gets what ``torch.nn.Conv2d`` gives it. The class token gets values close to zero.

        Args:
            patch: the width of a patch.
            channels: the channels of the image.

        Example:
            >>> import fastinit
            >>> rules = fastinit.Rules.vit(patch=16)
        """
        bound = 1 / (patch * math.sqrt(channels))
        return cls(
            [
                ((nn.LayerNorm, "weight"), init.ones_),
                ((nn.Conv2d, "weight"), partial(init.kaiming_uniform_, a=math.sqrt(5))),
                ((nn.Conv2d, "bias"), partial(init.uniform_, a=-bound, b=bound)),
                ("*bias", init.zeros_),
                ("*cls_token", partial(init.normal_, std=1e-6)),
                ("*", partial(init.trunc_normal_, std=0.02)),
            ]
        )


def check(pattern: Any) -> None:
    kinds = (str, re.Pattern)
    if isinstance(pattern, kinds) or (isinstance(pattern, type) and issubclass(pattern, nn.Module)):
        return
    if isinstance(pattern, tuple) and len(pattern) == 2 and isinstance(pattern[1], str):
        return check(pattern[0])
    raise TypeError(
        f"a pattern is a glob, a regular expression, a type of module or (type, glob), not {pattern!r}"
    )


def fits(pattern: Pattern, name: str, owner: nn.Module) -> bool:
    if isinstance(pattern, str):
        return fnmatchcase(name, pattern)
    if isinstance(pattern, re.Pattern):
        return pattern.fullmatch(name) is not None
    if isinstance(pattern, tuple):
        return isinstance(owner, pattern[0]) and fnmatchcase(name.rpartition(".")[2], pattern[1])
    return isinstance(owner, pattern)


def shown(pattern: Pattern) -> str:
    if isinstance(pattern, re.Pattern):
        return f"re {pattern.pattern!r}"
    if isinstance(pattern, tuple):
        return f"{pattern[0].__name__} {pattern[1]!r}"
    return pattern.__name__ if isinstance(pattern, type) else repr(pattern)


def called(fill: Fill) -> str:
    arguments: list[str] = []
    while isinstance(fill, partial):
        arguments += [*map(repr, fill.args), *(f"{name}={value!r}" for name, value in fill.keywords.items())]
        fill = fill.func
    return f"{getattr(fill, '__name__', repr(fill))}({', '.join(arguments)})"
