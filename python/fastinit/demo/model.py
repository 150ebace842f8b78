"""The model of the demo, and the function that initialises it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import nn


def init_weights(module: nn.Module, init: Any) -> None:
    """Initialise one module, for `model.apply`. `init` is torch.nn.init one time, and fastinit the other.

    Each choice is one that real models make. Where a layer has two, the blocks take turns, so that
    the table has a row for every initialiser that draws random numbers.
    """
    if isinstance(module, Embeddings):
        init.normal_(module.token.weight, std=0.02)  # GPT-2
        init.uniform_(module.position.weight, a=-0.05, b=0.05)  # Keras
    elif isinstance(module, Attention):
        init.xavier_uniform_(module.query.weight)  # the first Transformer
        init.xavier_uniform_(module.key.weight)
        init.xavier_normal_(module.value.weight, gain=0.5)  # DeepNet
        if module.last:
            init.sparse_(module.out.weight, sparsity=0.1, std=0.02)  # Martens (2010)
        else:
            init.orthogonal_(module.out.weight)  # Saxe et al. (2013)
    elif isinstance(module, MLP):
        if module.even:
            init.kaiming_uniform_(module.up.weight, nonlinearity="relu")  # He et al. (2015)
            init.normal_(module.down.weight, std=module.residual_std)  # GPT-2
        else:
            init.kaiming_normal_(module.up.weight, nonlinearity="relu")
            s = module.residual_std
            init.trunc_normal_(module.down.weight, std=s, a=-2 * s, b=2 * s)  # torchtitan
    elif isinstance(module, nn.LayerNorm):
        init.ones_(module.weight)
        init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        init.zeros_(module.bias)


class Shape(NamedTuple):
    layers: int
    width: int
    vocabulary: int = 50257
    context: int = 1024


PRESETS = {
    "gpt2-xl": Shape(layers=48, width=1600),  # 1.56 G parameters
    "gpt2-large": Shape(layers=36, width=1280),  # 0.77 G
    "gpt2-medium": Shape(layers=24, width=1024),  # 0.35 G
    "gpt2": Shape(layers=12, width=768),  # 0.12 G
    "tiny": Shape(layers=2, width=64, vocabulary=1000, context=128),  # 0.17 M
}


class Embeddings(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.token = nn.Embedding(shape.vocabulary, shape.width)
        self.position = nn.Embedding(shape.context, shape.width)


class Attention(nn.Module):
    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.last = layer == shape.layers - 1
        self.query, self.key, self.value, self.out = (nn.Linear(shape.width, shape.width) for _ in range(4))


class MLP(nn.Module):
    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.even = layer % 2 == 0
        self.residual_std = 0.02 / math.sqrt(2 * shape.layers)
        self.up = nn.Linear(shape.width, 4 * shape.width)
        self.down = nn.Linear(4 * shape.width, shape.width)


class Block(nn.Module):
    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(shape.width), Attention(shape, layer)
        self.norm2, self.mlp = nn.LayerNorm(shape.width), MLP(shape, layer)


def gpt2(shape: Shape, dtype: torch.dtype) -> nn.Sequential:
    """A model with GPT-2's parameters, on the meta device: shapes only, no memory yet.

    The output layer shares the token embedding's weight, as in GPT-2. Nobody calls this model, so it
    has no `forward`.
    """
    with torch.device("meta"):
        blocks = (Block(shape, layer) for layer in range(shape.layers))
        return nn.Sequential(Embeddings(shape), *blocks, nn.LayerNorm(shape.width)).to(dtype)
