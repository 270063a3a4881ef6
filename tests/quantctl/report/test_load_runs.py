"""quantctl.load_runs: what `quantctl report` reads, one row a run."""

from __future__ import annotations

import pytest

import quantctl

LOSSES = {1: 7.0, 2: 6.0, 3: 5.0, 4: 4.0}


@pytest.fixture
def folder(run_directory, tmp_path):
    run_directory("bf16", 1, LOSSES)
    run_directory("FA_mxfp4", 1, LOSSES | {4: 4.25})
    run_directory("linear_hifp8", 1, {1: 7.0, 2: None}, total=4)
    return tmp_path


def test_a_row_a_run(folder):
    runs = quantctl.load_runs(f"{folder}/*")
    assert len(runs) == 3
    rows = {row["mode"]: row for row in runs}
    assert {mode: (row["final_loss"], row["gap"], row["clean"]) for mode, row in rows.items()} == {
        "bf16": (4.0, 0.0, True),
        "FA_mxfp4": (4.25, 0.25, True),
        "linear_hifp8": (None, None, False),
    }
    assert rows["linear_hifp8"]["marks"][0].startswith("diverged: ")
    assert runs.column("seed") == [1, 1, 1]
    assert runs.losses.column("loss")[:4] == [7.0, 6.0, 5.0, 4.25]
    assert runs[:1].column("mode") == ["FA_mxfp4"]
    assert str(runs).splitlines()[0].split()[:4] == ["path", "mode", "seed", "final_loss"]


def test_paths_as_a_list_and_a_folder(folder):
    assert [row["path"] for row in quantctl.load_runs([folder / "bf16-1"])] == [str(folder / "bf16-1")]
    assert len(quantctl.load_runs(folder)) == 3


def test_without_pandas(folder, monkeypatch):
    runs = quantctl.load_runs(folder)
    monkeypatch.setattr("quantctl.api.runs.is_there", lambda _: False)
    with pytest.raises(quantctl.QuantctlError, match="to_pandas needs pandas"):
        runs.to_pandas()


def test_a_data_frame(folder):
    runs = quantctl.load_runs(folder)
    means = runs.to_pandas().groupby("mode")["final_loss"].mean().dropna()
    assert means.to_dict() == {"FA_mxfp4": 4.25, "bf16": 4.0}
    curves = runs.losses.to_pandas().pivot(index="iteration", columns="mode", values="loss")
    assert curves["FA_mxfp4"].tolist() == [7.0, 6.0, 5.0, 4.25]


@pytest.mark.parametrize("paths", [None, 5, b"x", ["/", None]])
def test_what_is_no_path(paths):
    with pytest.raises(quantctl.QuantctlError, match=r"a path is of type (NoneType|int|bytes), not a text"):
        quantctl.load_runs(paths)


@pytest.mark.parametrize("path", ["nowhere/*", "nowhere", ""])
def test_a_path_that_is_not_there(path):
    with pytest.raises(quantctl.QuantctlError, match="there is no such file or folder"):
        quantctl.load_runs(path)


def test_a_column_that_is_not_there(folder):
    with pytest.raises(quantctl.QuantctlError, match="there is no column 'loss'"):
        quantctl.load_runs(folder).column("loss")
