"""`quantctl inspect`: figures of saved tensors, and files that are none."""

from __future__ import annotations

import json
import re

import numpy
import pytest
import torch
from safetensors.torch import save_file

from quantctl.kernels.measure.statistics import measure


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    tensors = {"layer": {"weight": torch.randn(64, 96).bfloat16(), "steps": torch.arange(3)}, "bias": torch.ones(32)}
    torch.save(tensors, tmp_path / "state.pt")
    return tmp_path / "state.pt", tensors


def test_json_holds_what_measure_says(saved, quantctl, documented):
    path, tensors = saved
    done = quantctl("--json", "inspect", path, "--spec", "mxfp4", "--spec", "nvfp4", "--axis", 0, "--key", "weight")
    assert done.status == 0, done.err
    rows = json.loads(done.out)
    documented("inspect", rows)
    assert [(row["tensor"], row["spec"], row["shape"]) for row in rows] == [
        ("layer.weight", "mxfp4", [64, 96]),
        ("layer.weight", "nvfp4", [64, 96]),
    ]
    for row in rows:
        expected = measure(tensors["layer"]["weight"], row["spec"], 0).read()
        assert {key: row[key] for key in expected} == expected


def test_figures_that_json_does_not_know_are_null(called, tmp_path):
    torch.save({"nan": torch.tensor([1.0, torch.nan]), "one": torch.tensor(1.0)}, tmp_path / "x.pt")
    done = called("--json", "inspect", tmp_path / "x.pt", "--spec", "mxfp8")
    assert done.status == 0, done.err
    bad, exact = json.loads(done.out, parse_constant=pytest.fail)
    assert (bad["amax"], bad["sqnr"], exact["sqnr"], exact["shape"]) == (None, None, None, [])


def test_the_text(saved, called):
    done = called("inspect", saved[0], "--spec", "mxfp8:scale=rceil", "--spec", "mxfp4")
    assert done.status == 0, done.err
    heading, weight, bias = (re.split(r" {2,}", line) for line in done.out.splitlines()[:3])
    assert heading == ["tensor", "amax", "mxfp8", "mxfp4"]
    assert weight[:2] == ["layer.weight", "64x96 bfloat16"]
    assert (bias[:3], bias[3:]) == (["bias", "32 float32", "1"], ["no error, 0 %, 0 %"] * 2)
    assert "steps" not in done.out  # integers
    assert "2^" not in done.out
    one = called("inspect", saved[0], "--spec", "mxfp4", "--key", "bias").out
    assert "block scales of mxfp4\n    2^-2  1  ###" in one


def test_other_files_hold_the_same(saved, called, tmp_path):
    weight = saved[1]["layer"]["weight"].float()
    save_file({"w": weight, "steps": torch.arange(3)}, tmp_path / "w.safetensors")
    numpy.save(tmp_path / "w.npy", weight.numpy().astype(">f4"))
    torch.save(weight, tmp_path / "w.pt")
    read = [json.loads(called("--json", "inspect", path, "--spec", "mxfp4").out) for path in tmp_path.glob("w.*")]
    assert sorted(row["tensor"] for (row,) in read) == ["w", "w.npy", "w.pt"]
    assert len({json.dumps({**row, "tensor": ""}) for (row,) in read}) == 1


REFUSALS = {
    "absent": (("absent.pt", "--spec", "mxfp8"), "absent.pt: no such file or directory"),
    "rubbish": (("rubbish.pt", "--spec", "mxfp8"), "rubbish.pt cannot be read"),
    "no tensor": (("words.pt", "--spec", "mxfp8"), "holds no dense floating-point tensor"),
    "spec": (("state.pt", "--spec", "fp5"), "unknown format 'fp5'"),
    "none": (("state.pt", "--spec", "none"), "nothing is quantized"),
    "axis": (("state.pt", "--spec", "mxfp8", "--axis", 5), "has 2 axes, so no axis 5"),
    "key": (("state.pt", "--spec", "mxfp8", "--key", "q"), "there are: layer.weight, bias"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case, saved, called, tmp_path, monkeypatch):
    (tmp_path / "rubbish.pt").write_bytes(b"rubbish")
    torch.save({"a": "b"}, tmp_path / "words.pt")
    arguments, message = REFUSALS[case]
    monkeypatch.chdir(tmp_path)
    done = called("inspect", *arguments)
    assert done.status == 2
    assert message in done.err
