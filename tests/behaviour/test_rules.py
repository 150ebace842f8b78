"""Rules: which parameter gets what, what is an error, and the rules that are ready-made."""

import math
import re
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import fastinit
from fastinit import Rules


def model() -> nn.Module:
    return nn.ModuleDict(
        {
            "first": nn.Linear(6, 5),
            "second": nn.Sequential(nn.Linear(5, 4, bias=False), nn.LayerNorm(4)),
            "table": nn.Embedding(7, 4),
        }
    )


def value(number: float) -> Any:
    return partial(fastinit.constant_, val=number)


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("first.weight", ["first.weight"]),
        ("*.weight", ["first.weight", "second.0.weight", "second.1.weight", "table.weight"]),
        ("second.*", ["second.0.weight", "second.1.weight", "second.1.bias"]),
        ("second.[01].w*", ["second.0.weight", "second.1.weight"]),
        (re.compile(r"\w+\.weight"), ["first.weight", "table.weight"]),
        (nn.Linear, ["first.weight", "first.bias", "second.0.weight"]),
        ((nn.Linear, "bias"), ["first.bias"]),
        (nn.Module, [name for name, _ in model().named_parameters()]),
        ("*", [name for name, _ in model().named_parameters()]),
    ],
)
def test_what_a_pattern_matches(pattern: Any, matched: list[str]) -> None:
    filled = Rules([(pattern, value(3.0))], default=value(1.0)).apply_(model())
    assert [name for name, p in filled.named_parameters() if bool((p == 3).all())] == matched
    assert all(bool((p == 1).all()) for name, p in filled.named_parameters() if name not in matched)


def test_the_first_match_wins() -> None:
    filled = Rules([("*.bias", value(1.0)), ("first.*", value(2.0)), ("*", value(3.0))]).apply_(model())
    values = {name: p.flatten()[0].item() for name, p in filled.named_parameters()}
    assert values == {
        "first.weight": 2.0,
        "first.bias": 1.0,
        "second.0.weight": 3.0,
        "second.1.weight": 3.0,
        "second.1.bias": 1.0,
        "table.weight": 3.0,
    }


def test_parameters_without_a_rule_are_an_error_and_nothing_is_filled() -> None:
    parts = model()
    before = {name: p.clone() for name, p in parts.named_parameters()}
    with pytest.raises(
        ValueError, match=r"no rule matches second\.0\.weight, second\.1\.weight, table\.weight \("
    ):
        Rules([("*.bias", fastinit.zeros_), ("first.*", fastinit.normal_)]).apply_(parts)
    assert all(torch.equal(p, before[name]) for name, p in parts.named_parameters())


def test_a_rule_that_is_never_first_is_warned_of() -> None:
    rules = Rules([("*", value(1.0)), ("first.*", value(2.0)), ("third.*", value(3.0))])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rules.apply_(model())
    assert [str(w.message) for w in caught] == [
        f"the rule for '{pattern}' is the first to match no parameter" for pattern in ("first.*", "third.*")
    ]
    assert caught[0].filename == __file__


@pytest.mark.parametrize("pattern", [3, None, int, nn.Linear(2, 2), (nn.Linear,), (nn.Linear, 3), ("a", 1)])
def test_what_is_no_pattern(pattern: Any) -> None:
    with pytest.raises(TypeError, match="a pattern is"):
        Rules([(pattern, fastinit.zeros_)])


def test_what_is_no_function() -> None:
    with pytest.raises(TypeError, match=r"the rule for '\*' has no function, but 0.02"):
        Rules([("*", 0.02)])  # type: ignore[list-item]


def test_shared_parameters_and_wrappers() -> None:
    parts = nn.Module()
    parts.one, parts.two = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    parts.two.weight = parts.one.weight
    wrapped = nn.Module()
    wrapped.module = parts
    calls: list[torch.Tensor] = []
    Rules([("one.weight", calls.append)]).apply_(wrapped)
    assert len(calls) == 1 and calls[0] is parts.one.weight
    assert "one.weight" in Rules([]).explain(wrapped) and "NOTHING" in Rules([]).explain(wrapped)


def test_a_seed_makes_values_independent_of_the_rest() -> None:
    rules = Rules([("*", fastinit.normal_)])
    small, large = nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    state = torch.get_rng_state()
    rules.apply_(small, seed=3)
    torch.manual_seed(9)
    rules.apply_(large, seed=3)
    assert torch.equal(small[0].weight, large[0].weight)
    assert not torch.equal(large[0].weight, large[1].weight)
    torch.set_rng_state(state)
    rules.apply_(large)
    first = large[0].weight.clone()
    torch.set_rng_state(state)
    assert torch.equal(fastinit.normal_(torch.empty(4, 4)), first)


def test_explain() -> None:
    rules = Rules(
        [
            ((nn.Linear, "weight"), partial(fastinit.kaiming_normal_, nonlinearity="relu")),
            (nn.LayerNorm, value(1.0)),
        ],
        default=fastinit.zeros_,
    )
    lines = [re.split(r"  +", line) for line in rules.explain(model()).splitlines()]
    assert lines[0] == ["parameter", "shape", "rule", "filled by"]
    assert lines[1] == ["first.weight", "(5, 6)", "Linear 'weight'", "kaiming_normal_(nonlinearity='relu')"]
    assert lines[2] == ["first.bias", "(5,)", "(default)", "zeros_()"]
    assert lines[4] == ["second.1.weight", "(4,)", "LayerNorm", "constant_(val=1.0)"]


# ---------------------------------------------------------------------------------------------------------------
# Ready-made


def same_distribution(ours: nn.Module, theirs: nn.Module) -> None:
    """Each parameter: constant in both, or the same standard deviation and range."""
    for (name, a), (other, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == other
        x, y = a.detach().double().flatten(), b.detach().double().flatten()
        if y.unique().numel() == 1:
            assert torch.equal(x, y), name
            continue
        error = 6 / math.sqrt(2 * y.numel()) * math.sqrt(2)
        assert abs(x.std().item() / y.std().item() - 1) < error, name
        assert abs((x.mean() - y.mean()).item()) < 6 * y.std().item() * math.sqrt(2 / y.numel()), name
        assert 0.6 < x.abs().max().item() / y.abs().max().item() < 1.7, name


def test_gpt2_is_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=128, n_layer=3, n_head=4, vocab_size=400, n_positions=64)
    theirs, ours = (transformers.GPT2LMHeadModel(config) for _ in range(2))
    for p in ours.parameters():
        p.data.fill_(7.0)
    same_distribution(Rules.gpt2(layers=3).apply_(ours), theirs)


@pytest.mark.parametrize("depth_init", [True, False])
def test_llama_is_that_of_torchtitan(depth_init: bool) -> None:
    transformers = pytest.importorskip("transformers")
    layers, dim = 3, 96
    config = transformers.LlamaConfig(
        hidden_size=dim,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=4,
        vocab_size=500,
    )
    ours, theirs = (transformers.LlamaForCausalLM(config) for _ in range(2))
    Rules.llama(layers, dim, depth_init).apply_(ours)
    # As torchtitan's models do it, layer by layer.
    init = nn.init
    init.normal_(theirs.model.embed_tokens.weight)
    for i, layer in enumerate(theirs.model.layers):
        std = 0.02 / (2 * (i + 1 if depth_init else layers)) ** 0.5
        attention, mlp = layer.self_attn, layer.mlp
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj):
            init.trunc_normal_(linear.weight, std=0.02)
        for linear in (attention.o_proj, mlp.up_proj, mlp.down_proj):
            init.trunc_normal_(linear.weight, std=std)
    std = dim**-0.5
    init.trunc_normal_(theirs.lm_head.weight, std=std, a=-3 * std, b=3 * std)
    same_distribution(ours, theirs)


def test_vit_is_that_of_timm() -> None:
    timm = pytest.importorskip("timm")
    theirs, ours = (
        timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=50, img_size=64) for _ in range(2)
    )
    same_distribution(Rules.vit().apply_(ours), theirs)
