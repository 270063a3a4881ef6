"""The three front ends under the names people know: they say what quantctl says."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from quantctl.script.flash_attention_config import choices

from .conftest import FOLDER

RUN = ["--model", "llama31-8b", "--dataset", "dolma", "--quantization", "linear_mxfp4"]


def python(*arguments: str, cwd, environment) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("front_end", "command"),
    [
        (["train_config.py", "--list"], ["list"]),
        (["train_config.py", *RUN, "--dry-run"], ["run", *RUN, "--dry-run"]),
        (
            ["train_config.py", *RUN, "--training-config", "fast", "--dry-run"],
            ["run", *RUN, "--training-config", "fast", "--dry-run"],
        ),
        (["train_config.py", "--model", "gpt"], ["run", "--model", "gpt"]),
        (["quant_type_modifier.py", "--check"], ["check"]),
        (["quant_type_modifier.py", "--linear-quant", "fp3"], ["set", "--linear", "fp3"]),
        (["quant_type_modifier.py", "--qk-quant", "fp3", "--pv-quant", "none"], ["set", "--qk", "fp3", "--pv", "none"]),
    ],
    ids=lambda words: "_".join(words).replace("-", ""),
)
def test_same_status_and_output_as_quantctl(front_end, command, tmp_path, clean_environment):
    name, *arguments = front_end
    where = {"cwd": tmp_path, "environment": clean_environment}
    assert python(str(FOLDER / name), *arguments, **where) == python("-m", "quantctl.cli", *command, **where)


def test_attention_names(tmp_path, clean_environment):
    status, text = python(
        str(FOLDER / "flash_attention_config.py"), "--list", cwd=tmp_path, environment=clean_environment
    )
    names = [f"{site}_{format_}" for site in ("qk", "pv", "qkpv") for format_ in ("mxfp8", "mxfp4", "hifp8")]
    assert (status, text.split()) == (0, ["none", *names])


@pytest.mark.parametrize(
    ("name", "selectors"),
    [
        ("qk_mxfp8", {"qk": "mxfp8", "pv": "none"}),
        ("pv_hifp8", {"qk": "none", "pv": "hifp8"}),
        ("qkpv_mxfp4", {"qk": "mxfp4", "pv": "mxfp4"}),
        ("none", {"qk": "none", "pv": "none"}),
    ],
)
def test_an_attention_name_is_the_whole_choice(name, selectors):
    assert choices()[name] == selectors


def test_they_change_a_tree_and_bring_it_back(tmp_path, clean_environment):
    """On a copy of the installed megatron-core, with the backups in a state directory of its own."""
    spec = importlib.util.find_spec("megatron.core")
    assert spec is not None
    assert spec.origin is not None
    tree = tmp_path / "tree"
    original = Path(spec.origin).parent
    shutil.copytree(original, tree / "megatron" / "core", ignore=shutil.ignore_patterns("__pycache__"))
    environment = clean_environment | {"MEGATRON_LM_PATH": str(tree), "XDG_STATE_HOME": str(tmp_path / "state")}

    def call(name: str, *arguments: str) -> int:
        return python(str(FOLDER / name), *arguments, cwd=tmp_path, environment=environment)[0]

    def check(expected: str) -> int:
        arguments = ["-m", "quantctl.cli", "check", "--expect", expected]
        return python(*arguments, cwd=tmp_path, environment=environment)[0]

    assert call("quant_type_modifier.py", "--linear-quant", "hifp8") == 0
    assert call("flash_attention_config.py", "--fa-quantization", "qk_mxfp8") == 0
    assert check("linear=hifp8,qk=mxfp8,pv=none") == 0
    assert call("flash_attention_config.py", "--fa-quantization", "pv_mxfp4") == 0
    assert check("linear=hifp8,qk=none,pv=mxfp4") == 0
    assert call("quant_type_modifier.py", "--restore") == 0
    for name in ("tensor_parallel/layers.py", "transformer/dot_product_attention.py"):
        assert (tree / "megatron" / "core" / name).read_bytes() == (original / name).read_bytes()


@pytest.mark.parametrize(
    "wrong",
    [
        ["flash_attention_config.py"],
        ["flash_attention_config.py", "--fa-quantization", "mxfp8"],
        ["quant_type_modifier.py"],
        ["quant_type_modifier.py", "--check", "--restore"],
        ["quant_type_modifier.py", "--restore", "--qk-quant", "mxfp8"],
    ],
    ids=" ".join,
)
def test_unclear_wishes_are_refused(wrong, tmp_path, clean_environment):
    name, *arguments = wrong
    assert python(str(FOLDER / name), *arguments, cwd=tmp_path, environment=clean_environment) == (2, "")
