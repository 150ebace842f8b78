"""`python -m fastinit demo`: from end to end on a tiny model, and whether its checks would notice."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import truncnorm

import fastinit
from fastinit import __main__, demo
from fastinit.demo import check
from fastinit.demo.model import PRESETS, gpt2

ROOT = Path(__file__).parents[2]
RANDOM = {
    "uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "xavier_normal_",
    "kaiming_uniform_", "kaiming_normal_", "orthogonal_", "sparse_",
}  # fmt: skip


def run(*args):
    return __main__.main(["demo", "--preset", "tiny", *args])


def test_end_to_end(tmp_path):
    package = {"PYTHONPATH": str(Path(fastinit.__file__).parents[1])}
    command = [sys.executable, "-W", "error", "-m", "fastinit", "demo", "--preset", "tiny", "--json"]
    command += ["--plot", "new/picture.png"]
    done = subprocess.run(command, env=os.environ | package, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    results = json.loads(done.stdout)
    assert results["ok"]
    assert results["model"]["parameters"] == 172288
    *rows, total = results["rows"]
    assert {row["initialiser"] for row in rows} == RANDOM | {"ones_", "zeros_"}
    assert total["initialiser"] == "whole model"
    for key in ("parameters", "torch_s", "fastinit_s", "fill_s"):
        assert total[key] == pytest.approx(sum(row[key] for row in rows))
    assert total["parameters"] == results["model"]["parameters"], "each parameter is initialised once"
    assert results["plot"] == "new/picture.png"
    assert (tmp_path / results["plot"]).read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize("dtype", demo.DTYPES)
def test_text(capsys, dtype):
    assert run("--dtype", dtype, "--no-plot") == 0
    assert capsys.readouterr().out.endswith("\n\nAll checks of fastinit passed.\n")


def test_same_seed_same_values(capsys):
    def results(seed):
        assert run("--json", "--no-plot", "--seed", seed) == 0
        return json.loads(capsys.readouterr().out)

    first, again, other = map(results, "334")
    assert first["checks"] == again["checks"] != other["checks"]
    assert first["plot"] is None


@pytest.mark.parametrize(
    ("args", "message"),
    [(["--device", "tpu"], "tpu is none of cpu, cuda"), (["--preset", "huge"], "invalid choice: 'huge'")],
)
def test_bad_arguments(capsys, args, message):
    with pytest.raises(SystemExit, match="2"):
        run(*args)
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a CUDA device")
def test_no_cuda_device(capsys):
    with pytest.raises(SystemExit, match="2"):
        run("--device", "cuda")
    assert "torch finds no CUDA device" in capsys.readouterr().err


def test_threads_are_set(capsys):
    before = torch.get_num_threads()
    try:
        assert run("--threads", "1", "--json") == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_markdown(capsys):
    assert run("--markdown", "--no-plot") == 0
    table, _, about = capsys.readouterr().out.partition("\n\n")
    header, rule, *rows = table.splitlines()
    assert header.startswith("| initialiser | parameters | torch s |") and rule.count("---:") == 5
    assert len(rows) == 12 and about.startswith("tiny: 172 k parameters, float32.")


def test_presets_have_gpt2s_sizes():
    sizes = {name: demo.parameters(gpt2(shape, torch.float32)) for name, shape in PRESETS.items()}
    sizes.pop("tiny")
    assert sizes == {  # as Hugging Face's models of these names
        "gpt2-xl": 1_557_611_200,
        "gpt2-large": 774_030_080,
        "gpt2-medium": 354_823_168,
        "gpt2": 124_439_808,
    }


@pytest.mark.parametrize(("gigabytes", "preset"), [(20, "gpt2-xl"), (4, "gpt2-medium"), (0.1, "tiny")])
def test_preset_goes_by_memory(monkeypatch, capsys, gigabytes, preset):
    monkeypatch.setattr(demo, "free_bytes", lambda device: int(gigabytes * 1e9))
    assert demo.choose_preset(torch.device("cpu"), torch.float32) == preset
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (preset != "gpt2-xl")
    assert all(line.startswith("gpt2-xl needs 7.3 GB") and preset in line for line in lines)


def test_does_without_tqdm_and_matplotlib(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run() == 0
    out, err = capsys.readouterr()
    assert "All checks of fastinit passed." in out
    assert 'there is no progress bar ("pip install tqdm"' in err
    assert 'there is no picture ("pip install matplotlib"' in err


@pytest.mark.parametrize(
    ("mean", "std", "low", "high"), [(0.0, 1.0, -2.0, 2.0), (1.0, 2.0, 0.5, 9.0), (0.0, 1.0, 1.0, 1.5)]
)
def test_moments_of_truncated_normals(mean, std, low, high):
    law = check.truncated(mean, std, low, high)
    reference = truncnorm((low - mean) / std, (high - mean) / std, mean, std)
    assert (law.mean, law.std) == pytest.approx((reference.mean(), reference.std()), rel=1e-6)


def three_more_zeros(t):
    t[(t[:, 0] != 0).nonzero()[:3], 0] = 0


# What may go wrong with a fill, and the initialisers whose checks must notice.
FAULTS = {
    "nothing": (lambda t: None, set()),
    "too wide": (lambda t: t.mul_(1.02), RANDOM | {"ones_"}),
    "shifted": (lambda t: t.add_(0.03 * t.std()), RANDOM),
    "all zero": (lambda t: t.zero_(), RANDOM | {"ones_"}),
    "one not a number": (lambda t: t[-1, -1].fill_(float("nan")), RANDOM | {"ones_", "zeros_"}),
    "one far out": (lambda t: t[-1, -1].fill_(20.0), RANDOM | {"ones_", "zeros_"}),
    "tails cut": (lambda t: t.clamp_(-1.6 * t.std(), 1.6 * t.std()), RANDOM | {"ones_"}),
    "a column too sparse": (three_more_zeros, {"sparse_", "orthogonal_", "ones_"}),
    "shuffled": (
        lambda t: t.copy_(t.flatten()[torch.randperm(t.numel())].view_as(t)),
        {"sparse_", "orthogonal_"},
    ),
}


@pytest.mark.parametrize("name", sorted(RANDOM | {"ones_", "zeros_"}))
@pytest.mark.parametrize("fault", FAULTS)
def test_checks_notice(name, fault):
    """Torch's own functions, with a fault put into what they drew."""
    spoil, noticed_by = FAULTS[fault]

    def init(tensor, *args, **kwargs):
        getattr(torch.nn.init, name)(tensor, *args, **kwargs)
        spoil(tensor)

    torch.manual_seed(1)
    watch = demo.Stopwatch(SimpleNamespace(**{name: init}))
    getattr(watch, name)(torch.empty(512, 256), **({"sparsity": 0.1} if name == "sparse_" else {}))
    wrong = demo.verdict_on(watch.records[name])["wrong"]
    assert bool(wrong) == (name in noticed_by), wrong


def test_an_initialiser_that_fails_is_a_row_without_figures():
    def orthogonal_(tensor):
        raise NotImplementedError("geqrf not implemented for 'BFloat16'\nmore")

    inits = {
        "fill_": demo.OneValue(),
        "torch": SimpleNamespace(orthogonal_=orthogonal_),
        "fastinit": torch.nn.init,
    }
    watches = {name: demo.Stopwatch(init) for name, init in inits.items()}
    for watch in watches.values():
        watch.orthogonal_(torch.empty(64, 64))
    row, total = demo.rows(watches)
    assert row["torch_s"] is total["torch_s"] is row["ratio"] is None
    assert row["fastinit_s"] > 0
    (found,) = demo.checks(watches)
    assert found["torch"]["wrong"] == ["raised: geqrf not implemented for 'BFloat16'"]
    assert not found["fastinit"]["wrong"]


def test_sharded(tmp_path):
    """Four ranks: fastinit's parameters are those of one process, and torch's shards repeat."""
    picture = tmp_path / "picture.png"
    command = f"{sys.executable} -m fastinit demo-sharded --size tiny --markdown --plot {picture}".split()
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| FSDP")]
    assert [row[:2] for row in rows] == [
        [way, by] for by in ("torch", "fastinit") for way in ("FSDP", "FSDP × TP")
    ]
    assert [row[2:4] for row in rows[2:]] == [["21 of 21", "0 of 16"]] * 2
    assert [row[3] for row in rows[:2]] == ["16 of 16"] * 2
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_readme_shows_a_committed_result():
    """The README's table is the file that its marker names, as `demo --markdown` printed it."""
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"<!-- demo-table: (\S+) -->\n(.*?)\n?<!-- /demo-table -->", readme, re.DOTALL)
    assert block is not None
    assert block[2] == (ROOT / block[1]).read_text().rstrip()
