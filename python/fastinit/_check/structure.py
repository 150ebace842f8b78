"""What the modules of a model say about their parameters: what they are multiplied with, and in which layout."""

from __future__ import annotations

import ast
import inspect
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from fastinit._check.subject import Subject, Weight
from fastinit._parts import is_part

PRODUCTS = {"matmul", "mm", "bmm", "addmm", "baddbmm"}
QKV = re.compile(
    r"(fused_)?(w?qkv|qkv_proj|in_proj|in_proj_weight|query_key_value|c_attn|to_qkv|wqkv|qkvw|w_pack)", re.I
)
KV = re.compile(r"(to_|w)?kv(_proj)?|key_value(_proj)?", re.I)
GATE_UP = re.compile(r"(fused_)?(gate_up(_proj)?|gate_and_up_proj|up_gate_proj|w12|w13)", re.I)
NORM = re.compile(r"norm|(^|_|\.)ln(_|\d|$)|(^|\.)bn\d*$", re.I)


def last_word(weight: Weight) -> str:
    """The word of its name that says what it is for: ``q_proj`` of ``layers.0.q_proj.weight``."""
    words = weight.name.split(".")
    return words[-2] if len(words) > 1 and words[-1] == "weight" else words[-1]


def is_norm(module: nn.Module | None) -> bool:
    return module is not None and bool(NORM.search(type(module).__name__))


def inputs_first(weight: Weight) -> bool:
    """Whether a matrix has the layout (inputs, outputs): its module multiplies with it from the right."""
    if (
        weight.module is None
        or len(weight.shape) != 2
        or isinstance(weight.module, (nn.Linear, nn.Embedding))
    ):
        return False
    used = uses(type(weight.module)).get(weight.attribute, frozenset())
    return "right" in used and "linear" not in used


def multiplies(weight: Weight) -> bool:
    """Whether a parameter is a matrix or a kernel that activations are multiplied with."""
    if weight.module is None or len(weight.shape) < 2 or min(weight.shape[:2]) < 2:
        return False
    if isinstance(weight.module, (nn.Linear, _ConvNd, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase)):
        return "weight" in weight.attribute
    return bool(uses(type(weight.module)).get(weight.attribute, frozenset()) & {"right", "linear"})


def experts(weight: Weight) -> int | None:
    """How many matrices are stacked in the first dimension of a parameter, if there is evidence that it is a stack."""
    module = weight.module
    if len(weight.shape) != 3 or isinstance(module, (_ConvNd, nn.Bilinear, nn.Embedding)):
        return None
    count = weight.shape[0]
    if re.search(r"expert|(^|\.)moe(\.|$)", weight.name, re.I):
        return count
    if module is None:
        return None
    if any(
        getattr(module, name, None) == count
        for name in ("num_experts", "n_experts", "num_local_experts", "n_heads")
    ):
        return count
    return count if uses(type(module)).get(weight.attribute, frozenset()) & {"batched", "indexed"} else None


KNOWN_USES: WeakKeyDictionary[type, dict[str, frozenset[str]]] = WeakKeyDictionary()


def uses(cls: type) -> dict[str, frozenset[str]]:
    """How the methods of a class use the attributes of ``self``, as far as their source shows.

    ``right``: as the right operand of a product of matrices; ``batched``: of batches of them; ``linear``: as the weight of
    ``F.linear``; ``indexed``: by a number or a name, as in ``self.weight[expert]``.
    """
    if cls in KNOWN_USES:
        return KNOWN_USES[cls]
    found: dict[str, set[str]] = {}
    for base in cls.__mro__:
        if base is nn.Module or base is object:
            break
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, SyntaxError, TypeError):
            continue
        for attribute, use in used_in(tree):
            found.setdefault(attribute, set()).add(use)
    KNOWN_USES[cls] = {attribute: frozenset(words) for attribute, words in found.items()}
    return KNOWN_USES[cls]


def used_in(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            if attribute := of_self(node.right):
                yield attribute, "right"
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, (ast.Name, ast.Constant)):
            if attribute := of_self(node.value):
                yield attribute, "indexed"
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            last = of_self(node.args[-1]) if node.args else None
            if name in PRODUCTS and last:
                yield last, "batched" if name in ("bmm", "baddbmm") else "right"
            if name == "linear" and len(node.args) > 1 and (attribute := of_self(node.args[1])):
                yield attribute, "linear"


def of_self(node: ast.AST) -> str | None:
    """The attribute, if this is ``self.attribute``."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return node.attr
    return None


def fused(weight: Weight) -> tuple[str, list[int], int, int] | None:
    """Of a fused projection: what it holds, the outputs of each, its inputs and its outputs. None if it is none."""
    if len(weight.shape) != 2 or isinstance(weight.module, nn.Embedding) or is_norm(weight.module):
        return None
    inputs, outputs = weight.shape if inputs_first(weight) else weight.shape[::-1]
    word = last_word(weight)
    if QKV.fullmatch(word):
        if outputs == 3 * inputs:
            return "queries, keys and values", [inputs] * 3, inputs, outputs
        if inputs < outputs < 3 * inputs and (outputs - inputs) % 2 == 0 and "in_proj" not in word:
            rest = (outputs - inputs) // 2
            return "queries, keys and values", [inputs, rest, rest], inputs, outputs
    if KV.fullmatch(word) and outputs % 2 == 0:
        return "keys and values", [outputs // 2] * 2, inputs, outputs
    if GATE_UP.fullmatch(word) and outputs % 2 == 0:
        return "gate and up projection", [outputs // 2] * 2, inputs, outputs
    return None


PER_PARTITION = (
    ("output_size_per_partition", "output_size", 0),
    ("input_size_per_partition", "input_size", 1),
    ("num_embeddings_per_partition", "num_embeddings", 0),
)


def whole_shape(weight: Weight) -> tuple[int, ...] | None:
    """The shape of the tensor of which a parameter is one rank's part, if it is one.

    DTensors say so; Megatron's layers have attributes for the sizes of their partitions.
    """
    tensor, module = weight.tensor, weight.module
    if tensor is None:
        return None
    if is_part(tensor):
        local = getattr(tensor, "_local_tensor", None)
        return tuple(tensor.shape) if local is not None and local.shape != tensor.shape else None
    dim = getattr(tensor, "partition_dim", None)
    for part, whole, place in PER_PARTITION:
        size, all_of_it = getattr(module, part, None), getattr(module, whole, None)
        if (
            isinstance(size, int)
            and isinstance(all_of_it, int)
            and size < all_of_it
            and weight.attribute == "weight"
        ):
            where = place if dim is None or dim < 0 else dim
            if where < len(weight.shape) and weight.shape[where] == size:
                return (*weight.shape[:where], all_of_it, *weight.shape[where + 1 :])
    return None


# ---- Neighbours ---------------------------------------------------------------------------------------------


def sequences(subject: Subject) -> Iterator[tuple[str, list[tuple[str, nn.Module]]]]:
    """The members of each ``nn.Sequential`` of a model, in order."""
    for name, module in subject.modules.items():
        if type(module) is nn.Sequential or (
            isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
        ):
            prefix = f"{name}." if name else ""
            yield name, [(prefix + key, child) for key, child in module.named_children()]


ACTIVATIONS: dict[type, tuple[str, Any]] = {
    nn.ReLU: ("relu", None),
    nn.LeakyReLU: ("leaky_relu", "negative_slope"),
    nn.Tanh: ("tanh", None),
    nn.Sigmoid: ("sigmoid", None),
    nn.SELU: ("selu", None),
    nn.Identity: ("linear", None),
}
SILENT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Flatten, nn.Unflatten)


def next_activation(members: Sequence[tuple[str, nn.Module]], position: int) -> tuple[str, float] | None:
    """The name and the gain of the nonlinearity that follows a member of a sequence directly; None if that is unknown."""
    for _, module in members[position + 1 :]:
        if isinstance(module, SILENT):
            continue
        known = ACTIVATIONS.get(type(module))
        if known is None:
            return None
        name, slope = known
        return name, nn.init.calculate_gain(name, getattr(module, slope) if slope else None)  # type: ignore[arg-type]
    return None


def transposed(module: nn.Module | None) -> bool:
    return isinstance(module, _ConvTransposeNd)


def convolution_fans(module: _ConvNd, shape: Sequence[int]) -> tuple[float, float]:
    """How many inputs feed one output, and how many outputs one input feeds."""
    field = math.prod(shape[2:])
    return module.in_channels // module.groups * field, module.out_channels // module.groups * field


def smallest(dtype: torch.dtype) -> float:
    """The smallest number of a dtype above 0."""
    info = torch.finfo(dtype)
    return info.smallest_normal * info.eps
