"""What a reader gets: table, JSON, CSV, pictures and the page."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from quantctl.report import table
from quantctl.report.compare import compare
from quantctl.report.sources import load


@pytest.fixture
def runs(run_directory):
    for seed in (1, 2):
        run_directory("bf16", seed, {1: 7.0, 2: 6.0, 3: 5.0, 4: 4.0})
        run_directory("FA_mxfp4", seed, {1: 7.0, 2: 6.0, 3: 5.0, 4: 4.0 + seed / 10})
    run_directory("linear_hifp8", 1, {1: 7.0, 2: None}, total=4, attempt={"exit_status": 1})


def test_the_table(runs, quantctl, tmp_path):
    done = quantctl("report", tmp_path)
    assert done.status == 0, done.err
    (row,) = [line for line in done.out.splitlines() if line.split()[:2] == ["FA_mxfp4", "4.1500"]]
    assert "4.1500 ± 0.0707" in row
    assert "+0.1500 ± 0.0707" in row
    assert "linear_hifp8-1 (linear_hifp8, seed 1, no loss)" in done.out
    assert "diverged: no finite loss at iteration 2" in done.out
    assert "failed: exit status 1" in done.out
    assert "  bf16      nothing quantized" in done.out
    assert "  FA_mxfp4  qk in mxfp4 20" in done.out
    assert "nothing is ranked" not in done.out


def test_one_seed_ranks_nothing(run_directory, quantctl, tmp_path):
    run_directory("bf16", 1, {1: 7.0, 2: 6.0})
    run_directory("FA_mxfp4", 1, {1: 7.0, 2: 5.9})
    done = quantctl("report", tmp_path, "--output", tmp_path / "cost")
    assert "One seed: nothing is ranked here." in done.out
    assert done.err.rstrip().splitlines()[-1] == f"page: {tmp_path}/cost/report.html"
    assert "One seed: nothing is ranked here." in (tmp_path / "cost" / "report.html").read_text()
    # `report runs/*` names the report among the runs
    again = quantctl("report", *sorted(tmp_path.iterdir()))
    assert again.out == done.out
    assert quantctl("report", tmp_path / "cost").err.startswith(f"quantctl: {tmp_path}/cost holds no run\n")


@pytest.mark.parametrize("width", [40, 80, 160])
def test_no_width_cuts_the_table(runs, tmp_path, width):
    """Every heading and every figure stands there, whole, however many tables that takes."""
    comparison = compare([load(path) for path in sorted(tmp_path.iterdir())])
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    table.show(comparison, console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    words = {word.strip() for line in lines for word in line.split("  ")}
    assert set(table.COLUMNS) | {cell for row in table.cells(comparison) for cell in row} <= words
    first = next(line for line in lines if "mode" in line)
    assert first.split()[:3] == ["mode", "final", "loss"]


def test_json(runs, quantctl, tmp_path, documented):
    data = json.loads(quantctl("--json", "report", tmp_path).out)
    documented("report", data)
    assert [mode["mode"] for mode in data["modes"]] == ["bf16", "FA_mxfp4"]
    assert data["modes"][1]["gap"]["mean"] == pytest.approx(0.15)
    assert data["modes"][1]["calls"] == {"qk": {"mxfp4": {"fprop": 10, "dgrad": 10}}}
    marks = {run["path"].rpartition("/")[2]: [m["trouble"] for m in run["marks"]] for run in data["runs"]}
    assert marks["linear_hifp8-1"] == ["diverged", "incomplete", "failed"]
    assert marks["bf16-1"] == []


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not (value or "").startswith("#"):
                self.outside.append(f"{tag} {value}")


def test_files(runs, quantctl, tmp_path):
    out = tmp_path / "cost"
    assert quantctl("report", tmp_path, "--output", out, "--title", "A < B").status == 0
    pictures = {"gap.png", "course.png", "loss.png"}
    assert {path.name for path in out.iterdir()} == {*pictures, "report.html", "report.csv", "report.json"}
    text = (out / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.outside == []  # one self-contained file
    assert page.tags.count("svg") == len(pictures)
    assert not re.search(r"(fill|stroke): (#1f2328|#d0d7de|#cf222e)", text)  # both in light and in dark
    assert "A &lt; B" in text
    rows = list(csv.DictReader(io.StringIO((out / "report.csv").read_text())))
    (last,) = [row for row in rows if row["mode"] == "FA_mxfp4" and (row["seed"], row["iteration"]) == ("2", "4")]
    assert (last["loss"], last["gap"]) == ("4.2", "0.2")
    assert (out / "gap.png").read_bytes().startswith(b"\x89PNG")


def test_an_empty_folder_is_a_clear_message(quantctl, tmp_path):
    done = quantctl("report", tmp_path)
    assert done.status == 2
    assert f"{tmp_path} holds no run" in done.err


def test_what_cannot_be_read_does_not_hide_the_others(runs, quantctl, tmp_path):
    done = quantctl("report", tmp_path, tmp_path / "absent")
    assert done.status == 0
    assert "absent (unknown, no known seed, no loss)" in done.out
    assert "unreadable: does not exist" in done.out


def test_a_reference_that_is_not_there_is_refused(runs, quantctl, tmp_path):
    done = quantctl("report", tmp_path, "--reference", "linear_mxfp6")
    assert done.status == 2
    assert "--reference linear_mxfp6: no run here is of that mode" in done.err
    assert "the runs are of: FA_mxfp4, bf16, linear_hifp8" in done.err
    assert quantctl("report", tmp_path, "--reference", "FA_mxfp4").status == 0


def test_nothing_left_to_compare(run_directory, quantctl, tmp_path):
    run_directory("bf16", 1, {1: None}, total=3)
    done = quantctl("report", tmp_path, "--output", tmp_path / "cost")
    assert done.status == 0, done.err
    assert "No run is left to compare." in done.out


def test_a_long_literal_is_cut_and_explained(run_directory, quantctl, tmp_path):
    long = "mxfp4:gradient.round=stochastic; layers 1-2,-4..-1: none; linear_fc2: mxfp8; from 80%: fprop.format=none"
    other = long.replace("80%", "90%")
    run_directory("bf16", 1, {1: 7.0, 2: 6.0})
    for name, text in (("one", long), ("other", other)):
        run_directory("bf16", 1, {1: 7.0, 2: 5.9}, name=name, selectors={"linear": text})
    done = quantctl("report", tmp_path, "--output", tmp_path / "cost", "--reference", f"linear={long}")
    assert done.status == 0, done.err
    assert f"[1] linear={long}" in done.out
    assert f"[2] linear={other}" in done.out
    (row,) = [line for line in done.out.splitlines() if "reference" in line and "gap" not in line]
    assert row.split()[:4] == ["linear=mxfp4:gradient.round=stochastic", "...", "[1]", "5.9000"]
    assert max(map(len, done.out.splitlines())) <= 180
    page = (tmp_path / "cost" / "report.html").read_text()
    assert f"[2]: linear={other}" in page
    assert [row["mode"] for row in json.loads((tmp_path / "cost" / "report.json").read_text())["modes"]][:1] == [
        f"linear={long}"
    ]
