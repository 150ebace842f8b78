"""The benchmarks themselves, on tiny tensors: what they time they have checked, and what they measured they show."""

import json
import math
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fastinit

pytest.importorskip("benchmarks", reason="run from the repository's root")
from benchmarks import __main__ as command
from benchmarks import (
    deferred,
    ensembles,
    extra,
    gpu_check,
    models,
    on_device,
    parts,
    report,
    sharded,
    suites,
)
from benchmarks.cases import AVX2, FASTINIT, FILL, NUMPY, TORCH, AtMost, Case, Faster, Row, Side
from benchmarks.fits import size_fit, thread_fit
from benchmarks.libraries import capabilities
from benchmarks.measure import Options, Results, verdict_on

QUICK = Options(repeats=2, side_seconds=0.0)


def measure(row: Row, options: Options = QUICK) -> dict:
    return Results(options).add(replace(row, threads=row.threads or 1))


def test_every_function_has_small_calls() -> None:
    public = {name for name in torch.nn.init.__all__ if name.endswith("_")}
    assert {row.case.function for row in suites.small()} == public


@pytest.mark.parametrize("name", suites.SUITES)
def test_no_row_comes_twice(name: str) -> None:
    rows = [repr(row.describe()) for row in suites.SUITES[name].rows()]
    assert len(rows) == len(set(rows)) > 0


def test_avx2_has_to_reach_its_part() -> None:
    row = suites.Must(
        Case("normal_"), 10, share=(0.9, Side("fastinit", dtype="float32")), extra_bytes=5
    ).row()
    assert row.requirements == (
        Faster("fastinit", "torch", 10),
        Faster("fastinit", "fastinit float32", 0.9),
        AtMost("fastinit", "extra_bytes", 5),
        Faster("fastinit avx2", "torch", 6),
        Faster("fastinit avx2", "fastinit float32 avx2", pytest.approx(0.54)),
        AtMost("fastinit avx2", "extra_bytes", 5),
        Faster("fastinit avx2", "fastinit", 0.55),
    )


def test_a_row_is_measured() -> None:
    sides = (
        FILL,
        TORCH,
        FASTINIT,
        AVX2,
        NUMPY[0],
        Side("fastinit", dtype="float64"),
        Side("fastinit", "none"),
    )
    row = measure(
        Row("sizes", Case("uniform_"), (7, 5), sides=sides, requirements=(Faster("fastinit", "torch", 0),))
    )
    skipped = {name for name, its in row["sides"].items() if "skipped" in its}
    assert skipped == {"fastinit none"} | ({"fastinit avx2"} if "avx2" not in capabilities() else set())
    for name in row["sides"].keys() - skipped:
        its = row["sides"][name]
        assert 0 < its["min"] <= its["median"] <= its["max"] and its["repeats"] == 2
        assert its["values_per_second"] == pytest.approx(35 / its["median"])
        size = 8 if "float64" in name else 4
        assert its["bytes_per_second"] == pytest.approx(35 * size / its["median"])
    assert row["checks"].keys() == row["sides"].keys() - skipped - {"fill_"} | {"same bits"}
    assert all(verdict["ok"] for verdict in row["checks"].values())
    assert row["requirements"][0]["reached"] is True


@pytest.mark.parametrize("layout", ["transposed", "strided"])
@pytest.mark.parametrize("case", [suites.UNIFORM, suites.DIRAC], ids=lambda case: case.label)
def test_layouts(case: Case, layout: str) -> None:
    shape = suites.kernel(64)
    tensor = case.operand(shape, torch.float32, layout)
    assert tensor.shape == shape and not tensor.is_contiguous()
    row = measure(Row("layouts", case, shape, layout=layout))
    assert all(verdict["ok"] for verdict in row["checks"].values())


def test_fresh_memory() -> None:
    row = Row(
        "first touch", suites.UNIFORM, (2**24,), "float16", memory="first touch", sides=(FILL, FASTINIT)
    )
    with pytest.raises(ValueError, match="used before"):
        measure(row)
    row = measure(replace(row, shape=(2**24 + 64,)))
    assert all(its["calls_per_repeat"] == 1 for its in row["sides"].values())


def test_wrong_values_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    normal_ = fastinit.normal_
    monkeypatch.setattr(fastinit, "normal_", lambda tensor: normal_(tensor, std=1.1))
    row = measure(Row("sizes", Case("normal_", name="wide"), (128, 128)))
    assert row["sides"]["fastinit"] == {"skipped": "wrong values"}
    assert "median" in row["sides"]["torch"]
    assert row["checks"]["fastinit"]["wrong"] == ["normal_: the standard deviation is not as it should be"]
    assert not command.right(row)


def test_other_bits_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    uniform_ = fastinit.uniform_
    factors = {1: 1.0}
    monkeypatch.setattr(
        fastinit,
        "uniform_",
        lambda tensor, **named: uniform_(tensor, **named).mul_(factors.get(torch.get_num_threads(), 0.999)),
    )
    row = measure(Row("sizes", Case("uniform_", name="by threads"), (8, 8)))
    assert not row["checks"]["same bits"]["ok"] and not command.right(row)
    assert row["sides"]["fastinit"] == {"skipped": "wrong values"}


def test_an_error_of_fastinit_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensor: torch.Tensor) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr(fastinit, "normal_", fail)
    row = measure(Row("sizes", suites.NORMAL, (8, 8)))
    assert row["sides"]["fastinit"]["error"] == "no luck" and not command.right(row)
    assert "median" in row["sides"]["torch"]


def test_slow_peers_are_skipped() -> None:
    results = Results(replace(QUICK, budget=1e-9))
    rows = [Row("sizes", suites.NORMAL, (2**k,), threads=1) for k in (16, 17)]
    first, second = (results.add(row)["sides"] for row in rows)
    assert first["torch"]["skipped"].startswith("one call took")
    assert second["torch"]["skipped"].startswith("would take about")
    assert "median" in second["fastinit"] and "median" in second["fill_"]
    always = results.add(replace(rows[1], always=True))
    assert "median" in always["sides"]["torch"]


def test_a_limit_that_is_no_limit() -> None:
    sides = {"fastinit": {"median": 2.0}, "fill_": {"median": 1.0, "bytes_per_second": 40e9}}
    share = Faster("fastinit", "fill_", 0.7)
    assert verdict_on(share, sides)["reached"] is False
    assert verdict_on(replace(share, where_below=30e9), sides)["reached"] is None
    assert verdict_on(replace(share, where_below=50e9), sides)["reached"] is False
    sides["fill_"] = {"skipped": "not installed"}
    assert verdict_on(share, sides)["reached"] is None


def test_fits() -> None:
    fit = size_fit({n: 2e-6 + n / 1e9 for n in (1, 2**10, 2**20, 2**30)})
    assert fit["overhead_seconds"] == pytest.approx(2e-6) and fit["values_per_second"] == pytest.approx(1e9)
    assert fit["slope"] == pytest.approx(1, abs=0.01) and fit["worst_error"] < 1e-6
    fit = size_fit({n: n / 1e9 for n in (1, 10, 100)})
    assert fit["overhead_seconds"] == pytest.approx(0, abs=1e-15) and fit["slope"] is None
    fit = thread_fit({p: 0.1 + 0.9 / p for p in (1, 2, 4)})
    assert fit["serial_fraction"] == pytest.approx(0.1)
    assert fit["speed_up"]["2"] == pytest.approx(1 / 0.55)


@pytest.mark.parametrize("case", suites.MUST, ids=lambda must: f"{must.case.label} {must.dtype}")
def test_what_must_be_reached_can_be_measured(case: suites.Must) -> None:
    if case.case is suites.MODEL:
        case = case._replace(case=suites.TINY_MODEL, shape=suites.TINY_MODEL.shape())
    else:
        case = case._replace(shape=(64, 64))
    row = measure(case.row(), replace(QUICK, repeats=1))
    assert command.right(row), row
    for wanted in row["requirements"]:
        skipped = "skipped" in row["sides"][wanted["side"]]
        assert skipped == (wanted["value"] is None), wanted
    assert skipped == ("avx2" not in capabilities())


def test_orthogonal() -> None:
    row = measure(next(row for row in suites.orthogonal([(4, 4)])))
    assert command.right(row)
    assert 0 <= row["sides"]["fastinit"]["orthogonality"] < 2e-6


@pytest.mark.parametrize("row", [*suites.orthogonal((), (4, 4), ((256, 64, 64),), ((2048, 2048),))], ids=str)
def test_orthogonal_batches_and_parts(row: Row) -> None:
    """The matrices are looked at one by one, and a part beside all other parts."""
    smaller = (row.shape[0] // 64, *row.shape[1:]) if len(row.shape) == 3 else (64, 96)
    result = measure(replace(row, shape=smaller))
    for side in result["sides"].values():
        assert "skipped" in side or row.dtype != "float32" or 0 <= side["orthogonality"] < 2e-6
    assert all(check["ok"] for check in result["checks"].values())


def test_results_are_written_and_shown_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tiny() -> list[Row]:
        return [
            *suites.small((64,)),
            *(replace(row, sides=(FILL, TORCH, FASTINIT)) for row in suites.sizes((6, 8, 10))),
            *(replace(row, threads=n) for row in suites.threads(10) for n in (1, 2)),
            *suites.orthogonal([(8, 8)], (8, 8), (), ()),
            replace(suites.Must(suites.UNIFORM, 1).row(), shape=(8, 8)),
        ]

    monkeypatch.setitem(suites.SUITES, "quick", suites.Suite(tiny, "", side_seconds=0.0))
    threads = torch.get_num_threads()
    try:
        assert command.main(f"--suite quick --repeats 1 --threads 1 --output {tmp_path}".split()) == 0
    finally:
        torch.set_num_threads(threads)
    (results,) = tmp_path.glob("*-quick.json")
    data = json.loads(results.read_text())
    assert (
        data["suite"] == "quick"
        and data["machine"]["cores"] >= 1
        and data["versions"]["torch"] == torch.__version__
    )
    assert {fit["side"] for fit in data["fits"]["sizes"]} == {"fill_", "torch", "fastinit"}
    assert all(math.isfinite(fit["serial_fraction"]) for fit in data["fits"]["threads"])

    text = results.with_suffix(".md").read_text()
    for title in (
        "Must reach",
        "Orthogonal matrices",
        "Small calls",
        "Growth with the size",
        "Growth with the threads",
    ):
        assert f"\n## {title}\n" in text
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4
    for file in files:
        if file != results:
            file.unlink()
    command.main(["render", str(results)])
    assert results.with_suffix(".md").read_text() == text and sorted(tmp_path.iterdir()) == files
    capsys.readouterr()
    command.main(["render", str(results), "--table", "small"])
    assert capsys.readouterr().out.strip() in text


def test_whole_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tasks with tiny models, in this process: what they measure, and how that is shown."""
    pytest.importorskip("transformers")
    tiny = tuple(replace(task, settings=task.tiny, gigabytes=0) for task in models.TASKS)
    monkeypatch.setattr(models, "TASKS", tiny)
    monkeypatch.setattr(models.training_loop, "__defaults__", (3, 2))
    threads = torch.get_num_threads()
    monkeypatch.setattr(models, "in_a_process", lambda task, side: models.measure(task.name, side))
    try:
        assert command.main(f"--suite models --output {tmp_path}".split()) == 0
    finally:
        torch.set_num_threads(threads)
    (results,) = tmp_path.glob("*-models.json")
    rows = json.loads(results.read_text())["rows"]
    assert [row["task"] for row in rows] == [task.name for task in tiny]
    for row in rows:
        assert row["value"] is not None and isinstance(row["reached"], bool)
    assert rows[2]["sides"]["fastinit"]["bytes"] >= 4 * rows[2]["sides"]["fastinit"]["parameters"]
    text = results.with_suffix(".md").read_text()
    assert all(f"| {task.name} |" in text for task in tiny)
    command.main(["render", str(results)])
    assert results.with_suffix(".md").read_text() == text


def test_models_that_do_not_fit_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "available_bytes", lambda device: 10**9)
    its = models.in_a_process(models.TASKS[2], "fastinit")
    assert its["skipped"].startswith("needs 20.5 GB")
    row = {"task": "", "sides": {"fastinit": its}} | models.verdict(models.TASKS[2], {"fastinit": its})
    assert row["reached"] is None and its["skipped"] in models.line(row)


def test_deferred_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tasks with tiny models, in this process: what they measure, and how that is shown."""
    pytest.importorskip("transformers")
    tiny = tuple(replace(task, settings=task.tiny, gigabytes=0) for task in deferred.TASKS)
    monkeypatch.setattr(deferred, "TASKS", tiny)
    monkeypatch.setattr(deferred, "in_a_process", lambda task, side: task.measure(task, side))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = deferred.run()
    assert data["ok"]
    for row, task in zip(data["rows"], tiny, strict=True):
        assert {verdict["figure"] for verdict in row["verdicts"]} == {*task.least, *task.most}
        assert all(isinstance(verdict["reached"], bool) for verdict in row["verdicts"])
    text = deferred.markdown(data)
    assert all(f"| {task.name} |" in text for task in tiny)


def test_parts_of_large_models(tmp_path: Path) -> None:
    small = sharded.Llama("small", layers=2, width=64, hidden=192, words=1000, keys=16)
    data = sharded.run(models=(small,), counts=(8, 64))
    assert [(row["way"], row["ranks"]) for row in data["rows"]] == [
        (way, ranks) for way in ("FSDP", "FSDP × TP 8") for ranks in (8, 64)
    ]
    for row in data["rows"]:
        assert 0 < row["values"] * row["ranks"] < 4 * small.parameters()
        assert row["seconds"] > 0 and row["extra_bytes"] < sharded.MIB
    text = sharded.markdown(data)
    assert text.count("| small |") == 4 and "| FSDP × TP 8 | 64 |" in text


def test_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "ROUND_SECONDS", 0.0)
    monkeypatch.setattr(extra, "SIDE", 64)
    data = extra.run()
    assert len(data["rows"]) == len(list(extra.pairs())) and all(row["share"] > 0 for row in data["rows"])
    assert "| variance_scaling_, 4 splits |" in extra.markdown(data)


def test_extra_is_looked_at() -> None:
    wrong = extra.Pair("small_normal_", fastinit.extra.small_normal_, fastinit.normal_)
    with pytest.raises(ValueError, match="not the values of the fill beneath"):
        list(extra.sides_of(wrong, 8))


def test_ensembles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "ROUND_SECONDS", 0.0)
    monkeypatch.setattr(ensembles, "SIDES", (8,))
    data = ensembles.run()
    assert len(data["rows"]) == len(ensembles.KINDS) and all(row["ratio"] > 0 for row in data["rows"])
    assert "| variance_scaling_, 64 of 8 × 8 |" in ensembles.markdown(data)


def test_ensembles_are_looked_at() -> None:
    def alone(tensor: torch.Tensor, key: torch.Tensor | None = None) -> torch.Tensor:
        return tensor.fill_(1.0 if torch._C._functorch.is_functorch_wrapped_tensor(tensor) else 2.0)

    wrong = ensembles.Kind("normal_", alone, torch.nn.init.normal_, None)
    with pytest.raises(ValueError, match="does not have the values that it has alone"):
        list(ensembles.sides_of(wrong, 8))


def test_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "ROUND_SECONDS", 0.0)
    small = [
        ("rows", "uniform_", lambda: parts.rows_of(suites.UNIFORM, torch.bfloat16, 3, 2**13), parts.SHORT),
        ("halves", "normal_", lambda: parts.halves(suites.NORMAL, 64), parts.HALF),
        ("sparse", "sparse_", lambda: parts.strips(suites.SPARSE_10, 1024), parts.STRIPS),
    ]
    monkeypatch.setattr(parts, "measurements", lambda: small)
    data = parts.run()
    assert [len(row["seconds"]) for row in data["rows"]] == [4, 3, 4]
    assert all(limit["value"] > 0 for row in data["rows"] for limit in row["limits"])
    text = parts.markdown(data)
    assert all(f"## {title}" in text for title in parts.TITLES.values())
    assert "half of the rows ÷ whole" in parts.markdown(parts.run(only="halves"))


def test_wrong_parts_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    part_of = fastinit.part_of
    monkeypatch.setattr(fastinit, "part_of", lambda local, shape, offset: part_of(local, shape, (0, 0)))
    with pytest.raises(ValueError, match="not the values of the whole"):
        parts.halves(suites.NORMAL, 64)


# ---- The check of a machine with a GPU -------------------------------------------------------------------------------


def phase(name, *words, seconds=60.0, needs=""):
    return gpu_check.Phase(name, (sys.executable, "-c", *words), seconds, needs=needs)


def test_phases_have_verdicts_of_their_own(tmp_path, capsys):
    todo = [
        phase("good", "print('fine')"),
        phase("bad", "raise SystemExit(3)"),
        phase("needs bad", "", needs="bad"),
        phase("slow", "import time; print('begun', flush=True); time.sleep(60)", seconds=3.0),
        phase("after", "print('still run')", needs="good"),
    ]
    assert not gpu_check.check(todo, 5.0, tmp_path, lambda: {"commit": "c"})
    written = json.loads((tmp_path / "gpu-check.json").read_text())
    verdicts = {name: result["verdict"] for name, result in written["phases"].items()}
    assert verdicts == {
        "good": "passed",
        "bad": "FAILED with status 3",
        "needs bad": "not run: bad has not passed",
        "slow": "cut short after 3 s",
        "after": "passed",
    }
    assert written["commit"] == "c" and "begun" in written["phases"]["slow"]["last_lines"]
    assert "bad: FAILED" in capsys.readouterr().out
    assert gpu_check.check(todo[3:4], 5.0, tmp_path), "time that runs out is no failure"
    assert gpu_check.check(todo[:1], 0.0, tmp_path)
    assert "no time was left" in (tmp_path / "gpu-check.json").read_text()


def test_a_failure_before_the_time_is_up_is_one(tmp_path):
    told = "import time; print('FAILED test_it', flush=True); time.sleep(60)"
    deaf = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {told}"
    for program, grace in ((told, 15), (deaf, 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gpu_check, "GRACE", grace)
            assert not gpu_check.check([phase("slow", program, seconds=3.0)], 5.0, tmp_path)
    written = json.loads((tmp_path / "gpu-check.json").read_text())
    assert written["phases"]["slow"]["verdict"] == "FAILED before it was cut short after 3 s"


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_phases_of_the_check(device, tmp_path):
    found = {phase.name: phase for phase in gpu_check.phases(tmp_path, device)}
    assert {"build", "smoke", "bits", "rows", "the other tests"} <= found.keys()
    assert all(phase.needs in ("", *found) for phase in found.values())
    nothing = gpu_check.Phase("sanitizer", ("no-such-program",), 1.0)
    assert gpu_check.missing(nothing) == "no-such-program"


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a CUDA device")
def test_no_cuda_device(capsys):
    assert gpu_check.main([]) == 2
    assert "no CUDA device" in capsys.readouterr().out


def test_a_rehearsal_with_little_at_hand(tmp_path):
    """The phases on the CPU, each a process, where modules are missing that a machine with a GPU need not have."""
    gone = (
        "scipy",
        "matplotlib",
        "transformers",
        "hypothesis",
        "tqdm",
        "jax",
        "expecttest",
        "xdist",
    )
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nfor name in {gone}: sys.modules[name] = None\n")
    command, only = [sys.executable, "-m", "benchmarks.gpu_check"], ("smoke", "bits", "rows")
    done = subprocess.run(
        [*command, "--device", "cpu", "--commit", "some", "--output", tmp_path, "--only", *only],
        cwd=gpu_check.ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((tmp_path / "gpu-check.json").read_text())
    assert {name: result["verdict"] for name, result in written["phases"].items()} == dict.fromkeys(
        only, "passed"
    )
    assert written["commit"] == "some" and written["machine"]["cores"] >= 1
    (rows,) = tmp_path.glob("*-cuda-rehearsal.json")
    sides = {row["case"]: row["sides"] for row in json.loads(rows.read_text())["rows"]}
    assert {"normal_, 1,000 tensors", suites.TORCH_TRUNCATES.name} <= sides.keys()
    assert "median" in sides["normal_, 1,000 tensors"]["fastinit by key"]


class Device:
    """A device whose queue is worked off only when `left` calls have passed: a stand-in for torch.cuda."""

    def __init__(self, begins_after: dict[int, int]) -> None:
        self.begins_after, self.slept, self.enqueued = begins_after, [], 0

    def Event(self, enable_timing):
        device = self

        class Event:
            def record(self):
                pass

            def query(self):
                return device.enqueued > device.begins_after[device.slept[-1]]

            def synchronize(self):
                pass

            def elapsed_time(self, end):
                return 2.5

        return Event()

    def _sleep(self, cycles):
        self.slept.append(cycles)
        self.enqueued = 0

    def synchronize(self):
        pass


def test_the_device_is_timed_alone(monkeypatch):
    """The pause grows until every call is in the queue before the device begins."""
    device = Device({1: 5, 10: 50, 100: 50})
    monkeypatch.setattr(on_device.torch, "cuda", device)

    def call():
        device.enqueued += 1

    timing = on_device.timed(call, 20, (1, 10, 100))
    assert timing.seconds == pytest.approx(2.5e-3) and timing.overlapped and device.slept == [1, 10]
    assert timing.host_seconds > 0
    device.slept.clear()
    assert not on_device.timed(call, 60, (1, 10, 100)).overlapped and device.slept == [1, 10, 100]


def test_times_on_a_device_are_shown(monkeypatch):
    """A row of the suite cuda, on the CPU but for its clock."""
    monkeypatch.setattr(
        on_device, "timed", lambda call, calls, sleeps: call() is None or on_device.Timing(1e-3, 4e-6, False)
    )
    row = Row("cuda", suites.NORMAL, (64, 64), sides=(FILL, TORCH, FASTINIT), threads=1)
    monkeypatch.setattr("benchmarks.measure.on_a_gpu", lambda row: True)
    its = measure(row)["sides"]["fastinit"]
    assert its["host_seconds"] > 0 and its["without_the_host"] is False
    shown = report.general([row.describe() | {"sides": {"torch": its, "fastinit": its}, "requirements": []}])
    assert "host, a call: torch, fastinit" in shown and "*, " in shown


def test_rows_for_a_gpu_on_the_cpu(capsys):
    """Every row, with its check of the values; the CPU stands for the GPU."""
    assert command.main(["--suite", "cuda-rehearsal", "--only", "16×16|64×64|8 G"]) == 0
    printed = capsys.readouterr().out
    assert "## On a GPU" in printed and "0 not passed" in printed
