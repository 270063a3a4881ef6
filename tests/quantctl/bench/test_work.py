"""Bytes and operations against figures counted by hand; test_bytes_moved.py counts them in the interpreter."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantctl.bench import predict
from quantctl.bench.work import AttentionShape, GroupedShape, LinearShape, qdq_bytes
from quantctl.spec import parse

DOCUMENT = Path(__file__).parents[3] / "docs" / "bench.md"


@pytest.mark.parametrize(
    ("spec", "axes", "bytes_"),
    [
        ("mxfp8", 1, (20, 20)),
        ("mxfp8", 2, (20, 40)),
        ("nvfp4", 1, (40, 20)),
        ("hifp8", 2, (20, 20)),
        ("hifp8:scale=tensor", 2, (40, 20)),
        ("hifp8:round=stochastic", 2, (20, 40)),
    ],
)
def test_bytes_of_ten_elements(spec, axes, bytes_) -> None:
    assert qdq_bytes(10, parse(spec), axes) == bytes_


def test_operations() -> None:
    assert LinearShape(8192, 4096, 28672).flops == 3 * 2 * 8192 * 4096 * 28672
    shape = GroupedShape(4096, 64)
    assert shape.flops == 2 * 4096 * 6 * (2048 * 2 * 1408 + 1408 * 2048)
    assert shape.weight_elements == 64 * (2 * 1408 * 2048 + 2048 * 1408)
    # 2 products of the forward and 5 of the backward, 2 operations each, half of the scores masked
    assert AttentionShape(8192, 32, 8, 128).flops == 7 * 2 * 32 * 8192 * 8192 * 128 // 2


def test_a_linear_layer_moves() -> None:
    """tokens 32, in 64, out 96: X 2 read, 2 written, 2 unpacked, and its codes and E8M0 scales written and read."""
    x, w, dy = 32 * 64, 96 * 64, 32 * 96
    assert LinearShape(32, 64, 96).qdq_bytes("mxfp8") == 6 * x + 2 * (x + x // 32) + 2 * 4 * w + 6 * dy


def test_reuse_spares_the_weights() -> None:
    shape = GroupedShape(4096, 64)
    anew, kept = shape.qdq_bytes("mxfp8", reuse=False), shape.qdq_bytes("mxfp8", reuse=True)
    assert {part: anew[part] - kept[part] for part in anew} == dict.fromkeys(anew, 4 * shape.weight_elements)


def test_a_second_at_the_assumed_speeds() -> None:
    assert predict.milliseconds(4.2e12, 790e12) == 2000


def test_the_document_has_the_tables_that_the_code_makes() -> None:
    """`python -m quantctl.bench.predict` prints them."""
    text = DOCUMENT.read_text()
    missing = [table for table in predict.tables().split("\n\n") if table not in text]
    assert not missing
