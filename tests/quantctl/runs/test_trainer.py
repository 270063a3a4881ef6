"""What Megatron-LM's own trainer needs, before it starts."""

from __future__ import annotations

import importlib.util
import sys
import threading
from pathlib import Path

import pytest

from quantctl.errors import QuantctlError
from quantctl.runs import trainer

# counts its runs, and takes a moment for each
MAKEFILE = "helpers_cpp.so: helpers.cpp\n\techo run >> {log}\n\tsleep 0.2\n\tcp $< $@\n"


@pytest.fixture
def tree(tmp_path) -> Path:
    datasets = tmp_path / "megatron/core/datasets"
    datasets.mkdir(parents=True)
    (tmp_path / "megatron/training").mkdir()
    (tmp_path / "pretrain_gpt.py").touch()
    (datasets / "helpers.cpp").write_text("source")
    (datasets / "Makefile").write_text(MAKEFILE.format(log=tmp_path / "log"))
    return tmp_path


def test_two_first_runs_compile_once(tree):
    command = [sys.executable, str(tree / "pretrain_gpt.py")]
    runs = [threading.Thread(target=trainer.prepare, args=(tree, command)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert (tree / "log").read_text() == "run\n"
    left = sorted(path.name for path in (tree / "megatron/core/datasets").iterdir())
    assert left == ["Makefile", "helpers.cpp", "helpers_cpp.so"]


def test_what_does_not_compile_is_one_sentence(tree):
    (tree / "megatron/core/datasets/Makefile").write_text("helpers_cpp.so:\n\techo no pybind11 >&2; exit 1\n")
    with pytest.raises(QuantctlError, match="index builder does not compile: no pybind11"):
        trainer.prepare(tree, [sys.executable, str(tree / "pretrain_gpt.py")])


def test_the_python_that_trains_is_the_one_that_is_compiled_for(tree, tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("python", "python3"):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\n[ "$1" = -c ] || echo this {name}\n')
        (tmp_path / "bin" / name).chmod(0o755)
    (tree / "megatron/core/datasets/Makefile").write_text("helpers_cpp.so:\n\tpython3 > $@\n")
    trainer.prepare(tree, [str(tmp_path / "bin/python"), str(tree / "pretrain_gpt.py")])
    assert (tree / "megatron/core/datasets/helpers_cpp.so").read_text() == "this python3\n"


def test_a_package_that_is_not_there(tree):
    (tree / "megatron/training/tokenizer").mkdir()
    (tree / "megatron/training/tokenizer/bert_tokenization.py").write_text("import six\n")
    if importlib.util.find_spec("six"):
        pytest.skip("six is installed")
    with pytest.raises(QuantctlError, match="needs six, which"):
        trainer.prepare(tree, [sys.executable, str(tree / "pretrain_gpt.py")])


def test_other_programs_need_nothing(tree):
    trainer.prepare(tree, [sys.executable, "-m", "quantctl.pretrain"])
    assert not (tree / "log").exists()
