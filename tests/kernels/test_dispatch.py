"""Which family of kernels computes where, and what is said when a forced one cannot."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch

from quantctl.errors import QuantctlError
from quantctl.kernels import dispatch
from quantctl.kernels.formats.quantize import quantize_dequantize
from quantctl.kernels.measure import hits

CPU, CUDA, NPU, META = (torch.device(kind) for kind in ("cpu", "cuda", "privateuseone", "meta"))


@pytest.fixture(autouse=True)
def _compiled(monkeypatch) -> Iterator[None]:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(dispatch, "computed", set())
    dispatch._unloadable.cache_clear()
    yield
    dispatch._unloadable.cache_clear()


@pytest.mark.parametrize("choice", ["", "auto", None])
@pytest.mark.parametrize(
    ("device", "found"), [(CPU, "cpu"), (CUDA, "triton"), (NPU, "reference"), (META, "reference")], ids=str
)
def test_auto(choice, device, found, monkeypatch) -> None:
    monkeypatch.delenv("QUANTCTL_KERNELS")
    if choice is not None:
        monkeypatch.setenv("QUANTCTL_KERNELS", choice)
    assert dispatch.family(device) == found


@pytest.mark.parametrize("device", [CPU, CUDA, NPU])
def test_auto_without_the_packages(device, monkeypatch) -> None:
    monkeypatch.setenv("QUANTCTL_KERNELS", "auto")
    for name in ("HAS_NUMBA", "HAS_TRITON"):
        monkeypatch.setattr(dispatch, name, False)
    assert dispatch.family(device) == "reference"


def test_a_numba_that_cannot_be_loaded_is_named_once_and_replaced(monkeypatch, capsys) -> None:
    """As one is that is older than the NumPy beside it."""
    monkeypatch.setenv("QUANTCTL_KERNELS", "auto")
    monkeypatch.setitem(sys.modules, "numba", None)
    assert [dispatch.family(CPU) for _ in range(2)] == ["reference", "reference"]
    assert capsys.readouterr().err.count("numba cannot be loaded") == 1


@pytest.mark.parametrize(
    ("choice", "device", "reason", "hint"),
    [
        ("cuda", CPU, "QUANTCTL_KERNELS=cuda: no such kernels", "auto, reference, cpu, triton"),
        ("triton", CPU, "a tensor on cpu", "TRITON_INTERPRET=1"),
        ("cpu", CUDA, "a tensor on cuda", "unset"),
    ],
)
def test_what_cannot_be_forced_is_refused(choice, device, reason, hint, monkeypatch) -> None:
    monkeypatch.setenv("QUANTCTL_KERNELS", choice)
    with pytest.raises(QuantctlError, match=reason) as refusal:
        dispatch.family(device)
    assert hint in refusal.value.hint


@pytest.mark.parametrize(("choice", "package"), [("cpu", "HAS_NUMBA"), ("triton", "HAS_TRITON")])
def test_what_is_not_installed_is_refused(choice, package, monkeypatch) -> None:
    monkeypatch.setenv("QUANTCTL_KERNELS", choice)
    monkeypatch.setattr(dispatch, package, False)
    with pytest.raises(QuantctlError, match="not installed"):
        dispatch.family(CPU if choice == "cpu" else CUDA)


def test_a_run_says_which_family_computed(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("QUANTCTL_RUN_DIR", str(tmp_path))
    for choice in ("reference", "cpu"):
        monkeypatch.setenv("QUANTCTL_KERNELS", choice)
        quantize_dequantize(torch.ones(32), "mxfp8")
    quantize_dequantize(torch.empty(32, device="meta"), "mxfp8")
    hits.write()
    (record,) = (tmp_path / "proof").glob("rank0-*.json")
    assert '"kernels": ["cpu", "reference"]' in record.read_text()
