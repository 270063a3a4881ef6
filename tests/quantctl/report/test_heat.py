"""Heat maps from what a run recorded."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from quantctl.report import charts, heat


def row(iteration, layer, **changed):
    base = {"iteration": iteration, "site": "linear", "layer": layer, "module": "mlp.linear_fc1", "product": "fprop"}
    base |= {"operand": "input", "spec": "mxfp4", "amax": 1.0, "underflow": 0.1, "saturated": 0.0, "sqnr": 18.5}
    return base | {"scales": {"0": 4}} | changed


@pytest.fixture
def run(run_directory):
    folder = run_directory("linear_mxfp4", 1, {1: 7.0})
    (folder / "stats").mkdir()
    rows = [row(step, layer, sqnr=step + layer) for step in (100, 200) for layer in (1, 2)]
    rows.append(row(200, None, site="lm_head", module="output_layer", sqnr=None))
    text = "".join(json.dumps(one) + "\n" for one in rows)
    (folder / "stats" / "rank0.jsonl").write_text(text + json.dumps(row(200, 2, sqnr=99.0)) + "\n" + '{"iteration": 3')
    return folder


def test_of_a_repeated_step_the_last_record_counts_and_a_torn_line_is_skipped(run):
    rows = heat.read(run)
    assert len(rows) == 5
    assert [one.sqnr for one in rows if (one.iteration, one.layer) == (200, 2)] == [99.0]


def test_places_are_sorted_by_layer(run):
    drawn = heat.figure(heat.read(run), heat.QUANTITIES[0])
    titles = {axes.get_title("left"): axes for axes in drawn.axes if axes.get_title("left")}
    assert titles.keys() == {"linear fprop input\nmxfp4", "lm_head fprop input\nmxfp4"}
    labels = [label.get_text() for label in titles["linear fprop input\nmxfp4"].get_yticklabels()]
    assert labels == ["1 linear_fc1", "2 linear_fc1"]
    (image,) = titles["linear fprop input\nmxfp4"].images
    assert image.get_array().tolist() == [[101.0, 201.0], [102.0, 99.0]]


def test_all_modes_are_on_one_scale_and_what_is_zero_is_a_line(run):
    rows = heat.read(run)
    sqnr, underflow, saturated = heat.QUANTITIES
    assert heat.scale(rows, sqnr) == (99.0, 201.0)
    drawn, zero = heat.svgs(rows, underflow, heat.scale(rows, underflow))
    assert ([title for title, _ in drawn], zero) == (["linear fprop input, mxfp4", "lm_head fprop input, mxfp4"], [])
    drawn, zero = heat.svgs(rows, saturated, heat.scale(rows, saturated))
    assert (drawn, zero) == ([], ["linear fprop input, mxfp4", "lm_head fprop input, mxfp4"])


class _Figures(HTMLParser):
    captions = 0

    def handle_starttag(self, tag, attrs):
        self.captions += tag == "figcaption"


def test_the_page_shows_them(run, quantctl, tmp_path):
    assert quantctl("report", tmp_path, "--output", tmp_path / "cost").status == 0
    text = (tmp_path / "cost" / "report.html").read_text()
    assert "What the formats did to the products" in text
    assert "linear_mxfp4: 0 everywhere in linear fprop input, mxfp4; lm_head fprop input, mxfp4." in text
    page = _Figures()
    page.feed(text)
    assert page.captions == len(charts.PICTURES) + 2 * 2  # of two quantities, two operands
