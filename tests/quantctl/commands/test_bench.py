"""`quantctl bench` on a CPU: every kernel benchmark runs and says what it measured; a step in three modes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from quantctl.bench import linear, machine, qdq, step
from quantctl.bench.result import SCHEMA, Failure, Row
from quantctl.cli import cli

KERNELS = ("qdq", "linear", "grouped", "attention")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """With one and with all there would be two measurements of each."""
    with machine.threads(1):
        yield


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The kernel benchmarks, run once: (result, document, picture)."""
    picture = tmp_path_factory.mktemp("bench") / "bench.png"
    done = CliRunner().invoke(cli, ["bench", "--device", "cpu", "--quick", "--json", "--png", str(picture)])
    assert done.exit_code == 0, done.output
    return done, json.loads(done.stdout), picture


def test_the_document_says_what_was_measured_with(measured, documented) -> None:
    _, document, _ = measured
    documented("bench", document)
    assert {"schema": SCHEMA, "sizes": "reduced", "quick": True}.items() <= document.items()
    assert document["device"]["kind"] == "cpu"
    assert document["versions"]["torch"]
    assert document["date"]


@pytest.mark.parametrize("bench", KERNELS)
def test_every_case_has_a_time(bench, measured) -> None:
    rows = [row for row in measured[1]["rows"] if row["bench"] == bench]
    assert rows
    assert [(row["subject"], row["failure"]) for row in rows if row["milliseconds"] is None] == []


@pytest.mark.parametrize(
    ("bench", "subjects"),
    [
        (
            "qdq",
            {"copy", "mxfp8", "hifp8", "torch reference, mxfp8", "torch reference, hifp8", "torchao eager, mxfp8"},
        ),
        ("linear", {"bf16", "mxfp8", "torch reference, mxfp8"}),
        ("grouped", {"bf16", "mxfp8", "mxfp8, weights reused"}),
        (
            "attention",
            {"SDPA FlashAttention", "SDPA math", "unfused bf16", "fused qk=mxfp8", "fused qk=mxfp8 pv=mxfp8"},
        ),
    ],
)
def test_who_is_compared(bench, subjects, measured) -> None:
    assert {row["subject"] for row in measured[1]["rows"] if row["bench"] == bench} == subjects


def test_nothing_is_judged_on_a_cpu(measured) -> None:
    ratios = [ratio for row in measured[1]["rows"] for ratio in row["ratios"]]
    assert ratios
    assert {ratio["limit"] for ratio in ratios} == {None}


def test_fused_attention_computes_what_the_unfused_flow_does(measured) -> None:
    """An alarm for wrong products, not a bound: an error of a whole term would be of the size of 1."""
    found = [row["facts"]["relative error to unfused"] for row in measured[1]["rows"] if "fused qk" in row["subject"]]
    assert len(found) == 2
    assert all(error < 0.1 for errors in found for error in errors.values())


def test_the_picture_is_a_png(measured) -> None:
    assert measured[2].read_bytes().startswith(b"\x89PNG")


def test_stderr_says_that_sizes_are_reduced(measured) -> None:
    assert "reduced sizes" in measured[0].stderr


def test_the_table_shows_failures_with_their_reason(monkeypatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ArithmeticError("a broken kernel")

    monkeypatch.setattr(linear, "quantized_linear", broken)
    done = CliRunner().invoke(cli, ["bench", "linear", "--device", "cpu", "--quick"])
    assert done.exit_code == 1
    assert done.stdout.count("ArithmeticError: a broken kernel") == 6
    assert "bf16" in done.stdout


def test_what_was_measured_before_an_error_is_shown(monkeypatch, tmp_path) -> None:
    def broken(*_: object) -> None:
        raise ArithmeticError("a broken device")

    rows = [Row("linear", "a case", "mxfp8", failure=Failure("too small", excused=True))]
    monkeypatch.setattr(linear, "rows", lambda *_: iter(rows))
    monkeypatch.setattr(qdq, "rows", broken)
    done = CliRunner().invoke(cli, ["bench", "linear", "qdq", "--device", "cpu", "--json"])
    assert isinstance(done.exception, ArithmeticError)
    assert [row["case"] for row in json.loads(done.stdout)["rows"]] == ["a case"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "gemm"], "unknown benchmark 'gemm'"),
        (["bench", "qdq", "--device", "npu"], "unknown --device 'npu'"),
    ],
)
def test_usage(arguments, words, called) -> None:
    done = called(*arguments)
    assert done.status == 2
    assert words in done.err


def test_a_gpu_that_is_not_there_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = CliRunner().invoke(cli, ["bench", "qdq", "--device", "cuda"])
    assert "sees no CUDA device" in str(done.exception)
    assert "--device cpu" in done.exception.hint


def test_a_training_step(monkeypatch) -> None:
    """A real run of a staged tree by the embedded trainer, stock and quantized."""
    monkeypatch.setattr(step, "QUICK", (step.STOCK, "FA_linear_mxfp8"))
    monkeypatch.setattr(step, "REDUCED", step.Size(1, 64, 128, 2, 1, 64, 1, 2, 100, iterations=4, warm_up=1))
    done = CliRunner().invoke(cli, ["bench", "step", "--device", "cpu", "--quick", "--json"])
    assert done.exit_code == 0, done.output
    stock, quantized, _ = json.loads(done.stdout)["rows"]
    assert [stock["subject"], quantized["subject"]] == [step.STOCK, "FA_linear_mxfp8"]
    for row in (stock, quantized):
        assert row["milliseconds"]["repeats"] == 4
        assert row["peak_bytes"] > 100 * 2**20
        assert row["facts"]["loss after 5 steps"] == pytest.approx(4.6, abs=1.0)  # of 100 tokens, drawn evenly: log 100
    assert quantized["facts"]["attention"] == "auto"
    names = [ratio["name"] for ratio in quantized["ratios"]]
    assert f"time of {step.STOCK}" in names
