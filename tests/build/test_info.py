"""`python -m fastinit`, and its `info`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastinit
from fastinit import _C, info


def run(*args, **env):
    package = {"PYTHONPATH": str(Path(fastinit.__file__).parents[1])}
    command = [sys.executable, "-W", "error", "-m", "fastinit", *args]
    done = subprocess.run(command, env=os.environ | package | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_command_it_prints_help():
    assert "{demo,demo-sharded,info}" in run()


def test_json_has_what_was_built_and_what_is_active():
    data = json.loads(run("info", "--json"))
    assert data["versions"]["torch"] == torch.__version__
    assert data["versions"]["fastinit"] == _C.build_info()["version"]
    assert data["active"]["instruction_set"] in data["built"]["instruction_sets"]
    assert data["active"]["threads"] >= 1
    assert bool(data["built"]["cuda_architectures"]) != bool(data["built"]["cuda_missing_reason"])


def test_text_is_aligned():
    lines = [line for line in run("info").splitlines() if line.startswith("  ")]
    assert {line[18:20] for line in lines} == {"  "}, "all values start in one column"
    assert all(line[20] != " " and line[2] != " " for line in lines)


@pytest.mark.parametrize("variable", ["FASTINIT_CPU_CAPABILITY", "ATEN_CPU_CAPABILITY"])
def test_says_what_chose_the_instruction_set(variable):
    plain, *better = _C.build_info()["cpu_capabilities"]
    if not better:
        pytest.skip("only one instruction set here")
    env = {"FASTINIT_CPU_CAPABILITY": "", "ATEN_CPU_CAPABILITY": "", variable: plain}
    active = json.loads(run("info", "--json", **env))["active"]
    assert active["instruction_set"] == plain
    assert active["instruction_set_chosen_by"] == f"{variable}={plain}"


def test_an_instruction_set_that_there_is_not():
    package = {"PYTHONPATH": str(Path(fastinit.__file__).parents[1]), "FASTINIT_CPU_CAPABILITY": "mmx"}
    program = "import torch, fastinit; fastinit.normal_(torch.empty(3))"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | package, capture_output=True, text=True
    )
    assert done.returncode == 1
    offers = f"this build on this processor offers: {_C.build_info()['cpu_capabilities'][0]}"
    assert f"FASTINIT_CPU_CAPABILITY=mmx cannot be had; {offers}" in done.stderr


def test_a_processor_without_a_name(monkeypatch):
    def refuse(*_):
        raise OSError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert info.cpu_name() == os.uname().machine


def test_text_tells_what_was_built_and_chosen():
    data = info.collect()
    data["built"] |= {"cuda_architectures": ["sm_80", "sm_90"], "cuda_toolkit": "13.0"}
    data["active"] |= {"instruction_set": "avx2", "instruction_set_chosen_by": "ATEN_CPU_CAPABILITY=avx2"}
    data["active"] |= {"cuda_devices": ["NVIDIA H100 (sm_90, 79 GiB)"], "torch_cuda": "13.0"}
    text = info.render(data)
    assert "sm_80 sm_90 (CUDA toolkit 13.0)" in text
    assert "avx2 (ATEN_CPU_CAPABILITY=avx2)" in text
    assert "NVIDIA H100 (sm_90, 79 GiB)" in text
