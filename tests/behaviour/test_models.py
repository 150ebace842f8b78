"""Real programs in `fastinit.enabled()`: torch's layers, and models of transformers, small, from configurations.

Each is built by torch and by fastinit. What is not random must be the same, and every weight must have the same
distribution, by the two-sample test of Kolmogorov and Smirnov.
"""

import importlib
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import ks_2samp
from torch import nn

import fastinit

LEVEL = 1e-3  # of a model: the chance that one of its weights fails with the right distribution. The seeds are fixed.
MOST = 20_000  # elements of each weight in the test


pytestmark = pytest.mark.usefixtures("one_thread")


# ---- The models ------------------------------------------------------------------------------------------------------

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Linear(64, 48),
    "Bilinear": lambda: nn.Bilinear(16, 24, 8),
    "Embedding": lambda: nn.Embedding(100, 32, padding_idx=3),
    "EmbeddingBag": lambda: nn.EmbeddingBag(100, 32, padding_idx=-1),
    "LSTM": lambda: nn.LSTM(32, 24, num_layers=2, bidirectional=True, proj_size=8),
    "GRU": lambda: nn.GRU(32, 24),
    "RNNCell": lambda: nn.RNNCell(32, 24),
    "MultiheadAttention": lambda: nn.MultiheadAttention(32, 4, kdim=24, vdim=16, add_bias_kv=True),
    "MultiheadAttention, one projection": lambda: nn.MultiheadAttention(32, 4),
    "Transformer": lambda: nn.Transformer(32, 4, 2, 2, 64, batch_first=True),
    "Conv1d": lambda: nn.Conv1d(16, 24, 3),
    "Conv2d": lambda: nn.Conv2d(16, 24, 3, groups=2),
    "ConvTranspose3d": lambda: nn.ConvTranspose3d(4, 8, 3),
    "BatchNorm2d": lambda: nn.BatchNorm2d(16),
    "GroupNorm": lambda: nn.GroupNorm(4, 16),
    "InstanceNorm1d": lambda: nn.InstanceNorm1d(16, affine=True, track_running_stats=True),
    "LayerNorm": lambda: nn.LayerNorm((4, 8)),
    "RMSNorm": lambda: nn.RMSNorm(16),
    "PReLU": lambda: nn.PReLU(8),
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(16, 24)),
    "bfloat16": lambda: nn.Linear(64, 48, dtype=torch.bfloat16),
    "float64": lambda: nn.Linear(64, 48, dtype=torch.float64),
    "old": lambda: Old(),
}


class Old(nn.Module):
    """As models were written before torch.nn.init."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(100, 32, padding_idx=0), nn.Linear(32, 100)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.data.normal_(mean=0.0, std=0.02)
                module.bias.data.zero_()
            elif isinstance(module, nn.Embedding):
                module.weight.data.uniform_(-0.1, 0.1)
                module.weight.data[module.padding_idx].zero_()
        self.out.weight = self.embedding.weight


SMALL = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
BLT = dict(**SMALL, num_key_value_heads=4, vocab_size=120)
# The model, its configuration, and the dtype.
TRANSFORMERS: dict[str, tuple[str, dict[str, Any], torch.dtype]] = {
    "GPT-2": ("GPT2LMHeadModel", dict(n_embd=64, n_layer=2, n_head=4, vocab_size=120), torch.float32),
    "Llama": ("LlamaForCausalLM", dict(**SMALL, vocab_size=120), torch.float32),
    "BERT": ("BertForPreTraining", dict(**SMALL, vocab_size=120), torch.float32),
    "ViT": (
        "ViTForImageClassification",
        dict(**SMALL, image_size=32, patch_size=8, use_mask_token=True),
        torch.float32,
    ),
    "T5": (
        "T5ForConditionalGeneration",
        dict(d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4, vocab_size=120),
        torch.float32,
    ),
    "RWKV": (
        "RwkvForCausalLM",
        dict(hidden_size=64, attention_hidden_size=64, num_hidden_layers=2, vocab_size=120),
        torch.bfloat16,
    ),
    "BLT": (
        "BltForCausalLM",
        dict(
            vocab_size=120,
            encoder_hash_byte_group_vocab=50,
            patcher_config=BLT,
            encoder_config=BLT | dict(hidden_size_global=64),
            decoder_config=BLT | dict(hidden_size_global=64),
            global_config=BLT,
        ),
        torch.float32,
    ),
}


# By RWKV; and two biases of BERT are made by torch.zeros.
COMPUTED = ("time_decay", "time_first", "time_mix_key", "time_mix_value", "time_mix_receptance")
COMPUTED += ("predictions.bias", "decoder.bias")


@pytest.fixture(scope="module")
def transformers() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("transformers")
        module.logging.set_verbosity_error()
    return module


def build_from(transformers: Any, name: str) -> nn.Module:
    kind, settings, dtype = TRANSFORMERS[name]
    model = getattr(transformers, kind)
    config = model.config_class(**settings, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    built: nn.Module = model._from_config(config, dtype=dtype)
    return built


# ---- The comparison --------------------------------------------------------------------------------------------------


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="mean is more than 2 std")
        return build()


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return parameters | dict(model.named_buffers(remove_duplicate=False))


def ties(model: nn.Module) -> set[frozenset[str]]:
    """Which names share memory."""
    groups: dict[int, set[str]] = {}
    for name, tensor in tensors(model).items():
        groups.setdefault(tensor.data_ptr(), set()).add(name)
    return {frozenset(group) for group in groups.values()}


def facts(model: nn.Module) -> dict[str, Any]:
    return {
        name: (type(t), t.shape, t.stride(), t.dtype, t.device, t.requires_grad)
        for name, t in tensors(model).items()
    } | {"modules": [(name, type(module).__qualname__) for name, module in model.named_modules()]}


def same_distributions(theirs: nn.Module, ours: nn.Module) -> None:
    """Every tensor; and the parts of a tensor that are constant are constant in both, with the same values."""
    others = tensors(ours)
    pairs = {
        name: (t.detach().double(), others[name].detach().double()) for name, t in tensors(theirs).items()
    }
    random = 0
    worst = {}
    for name, (a, b) in pairs.items():
        assert torch.isfinite(b).all(), name
        fixed = torch.equal(a, b)
        if a.ndim and not fixed:
            assert torch.equal(constant_rows(a), constant_rows(b)), name
        if fixed or a.numel() == 0:
            continue
        random += 1
        x, y = (t.flatten()[:: math.ceil(t.numel() / MOST)].numpy() for t in (a, b))
        worst[name] = float(ks_2samp(x, y).pvalue)
    bad = {name: p for name, p in worst.items() if p < LEVEL / max(random, 1)}
    assert not bad, bad


def constant_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Rows with one value throughout, such as the padding row of an embedding: these values, and NaN for others."""
    rows = tensor.reshape(len(tensor), -1) if tensor.ndim > 1 else tensor[None]
    if rows.shape[1] < 2:
        return torch.zeros(0)
    constant = (rows == rows[:, :1]).all(dim=1)
    return torch.where(constant, rows[:, 0], torch.zeros(())).nan_to_num()


def compare(build: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module, fastinit.Report]:
    """Build a model by torch and by fastinit, and compare them."""
    theirs = seeded(build, 1)
    with fastinit.enabled() as report:
        ours, again, other = (seeded(build, seed) for seed in (1, 1, 2))
    torchs_own = seeded(build, 1)
    for name, tensor in tensors(theirs).items():
        assert torch.equal(tensors(torchs_own)[name], tensor), f"{name}: torch draws other values afterwards"
    assert facts(ours) == facts(theirs)
    assert ties(ours) == ties(theirs)
    for name, tensor in tensors(ours).items():
        assert torch.equal(tensors(again)[name], tensor), f"{name}: the same seed gives other values"
    drawn = [
        name for name, t in tensors(theirs).items() if not torch.equal(t, tensors(seeded(build, 2))[name])
    ]
    assert drawn == [name for name, t in tensors(ours).items() if not torch.equal(t, tensors(other)[name])]
    for name in drawn:
        assert not torch.equal(tensors(ours)[name], tensors(theirs)[name]), (
            f"{name}: these are torch's values"
        )
    same_distributions(theirs, ours)
    return theirs, ours, report


@pytest.mark.parametrize("name", LAYERS)
def test_torch_layers(name: str) -> None:
    _, ours, report = compare(LAYERS[name])
    for what, fill in report.parameters(ours).items():
        if fill is not None:
            assert fill.matches(ours.get_parameter(what)), what
    if name == "Embedding":
        assert isinstance(ours, nn.Embedding)
        assert (ours.weight[3] == 0).all() and (ours.weight[:3] != 0).any(dim=1).all()
    if name == "old":
        assert isinstance(ours, Old)
        assert ours.out.weight is ours.embedding.weight and (ours.out.bias == 0).all()


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(transformers: Any, name: str) -> None:
    _, ours, report = compare(lambda: build_from(transformers, name))
    assert all(p.dtype == TRANSFORMERS[name][2] for p in ours.parameters())
    # What the report says of a parameter gives its bits, but where the model computed the values (RWKV's decay).
    fills, unknown = report.parameters(ours), []
    for what, fill in fills.items():
        try:
            assert fill is not None
            matches = fill.matches(ours.get_parameter(what))
        except (AssertionError, ValueError):
            unknown.append(what)
        else:
            assert matches, what
    assert unknown == [what for what in fills if what.endswith(COMPUTED)]
    assert report.total.redrawn > 0


def test_orthogonal_in_bfloat16() -> None:
    """Models like RWKV: torch cannot."""
    weight = torch.empty(8, 6, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match="BFloat16"):
        nn.init.orthogonal_(weight)
    with fastinit.enabled():
        nn.init.orthogonal_(weight)
    assert torch.allclose(weight.T.float() @ weight.float(), torch.eye(6), atol=0.02)


def test_enabled_before_the_import() -> None:
    """A library that is imported in the block keeps references to the functions, and has torch's afterwards."""
    from testing import RANDOM

    with fastinit.enabled():
        library = importlib.reload(importlib.import_module("initialisation_table"))
        assert all(is_ours(library.TABLE[name], name) for name in RANDOM)
    assert not any(is_ours(library.TABLE[name], name) for name in RANDOM)
    library = importlib.reload(library)
    with fastinit.enabled():
        assert all(is_ours(library.TABLE[name], name) for name in RANDOM)


def is_ours(function: Callable[..., torch.Tensor], name: str) -> bool:
    from testing import arguments, shape

    found = []
    for f in (function, getattr(fastinit, name)):
        torch.manual_seed(0)
        found.append(f(torch.empty(shape(name)), *arguments(name)))
    return torch.equal(*found)
