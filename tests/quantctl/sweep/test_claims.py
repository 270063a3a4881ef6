"""Claims of others, the rule for their verdict, and the tables that the published comparison fills."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quantctl.errors import QuantctlError
from quantctl.modes import all_choices
from quantctl.report.labels import as_runs_say
from quantctl.sweep import claims, publish
from quantctl.sweep.claims import CLAIMS, Claim, judge, student
from quantctl.sweep.evidence import compare, missing
from quantctl.sweep.sizes import SIZES, SMALL

ROOT = Path(__file__).resolve().parents[3]
CLAIM = Claim("name", "A costs more than B", "a", "b", "somebody", (0.3, 0.1))


@pytest.mark.parametrize("size", SIZES.values(), ids=lambda size: size.name)
def test_rows_are_modes_and_stand_once(size):
    assert len(set(all_choices(size.modes))) == len(size.modes)
    assert set(size.recorded) <= set(size.modes)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_claims_speak_of_rows_that_are_run(claim):
    assert {claim.more, claim.less} <= set(SMALL.modes)
    assert claim.limits
    # under the names that reports have for them
    found = judge(claim, "small", {(as_runs_say(row), seed): seed for row in SMALL.modes for seed in (1, 2)})
    assert found
    assert found.seeds == 2


def test_tables_name_rows_as_reports_do():
    named = (*publish.SHOWN, *SMALL.recorded)
    assert tuple(map(as_runs_say, named)) == named


def test_quantiles_of_students_distribution():
    # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2
    assert [round(student(freedom), 3) for freedom in (1, 2, 4, 9, 30)] == [12.706, 4.303, 2.776, 2.262, 2.042]


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ((0.1, 0.11, 0.09), "agrees"),
        ((-0.1, -0.11, -0.09), "disagrees"),
        ((0.1, -0.1, 0.2), "cannot tell"),
        ((0.1,), None),
    ],
)
def test_the_verdict_follows_from_the_seeds(differences, word):
    losses = {("a", seed): 4.0 + seed + d for seed, d in enumerate(differences)}
    losses |= {("b", seed): 4.0 + seed for seed in range(len(differences))} | {("b", 99): 1.0}
    found = judge(CLAIM, "small", losses)
    assert (found and found.word) == word


def test_claims_of_a_folder_are_printed(tmp_path, capsys):
    runs = [
        {"mode": mode, "seed": seed, "final_loss": 4 + seed / 9 + extra * (1 + seed / 90), "marks": []}
        for mode, extra in (("bf16", 0.0), ("linear_mxfp8", 0.01))
        for seed in (1, 2, 3)
    ]
    runs.append({"mode": "linear_mxfp8", "seed": 4, "final_loss": 99.0, "marks": ["failed"]})
    (tmp_path / "small.json").write_text(json.dumps({"runs": runs}))
    assert claims.main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "MXFP8 costs something (small, 3 seeds)" in said
    assert "theirs  +0.0011" in said
    assert "agrees" in said
    assert "a Hadamard transform of 16 helps an MXFP4 forward: no two seeds have both rows" in said
    with pytest.raises(QuantctlError, match=r"holds none of small\.json, large\.json"):
        claims.verdicts(tmp_path / "empty")


@pytest.mark.parametrize("path", (ROOT / publish.PUBLISHED).glob("*.json"), ids=lambda path: path.name)
def test_what_is_published_names_no_folder_of_a_machine(path):
    assert str(Path.home()) not in path.read_text()
    assert not any(Path(run["path"]).is_absolute() for run in json.loads(path.read_text()).get("runs", ()))


def test_a_documents_rows_are_replaced_and_nothing_else():
    text = "a\n<!-- table: small -->\n| x |\n| --- |\n| old |\n| old |\nb\n<!-- table: other -->\n| y |\n"
    made = publish.updated(text, {"small": ["| new |"]})
    assert made == "a\n<!-- table: small -->\n| x |\n| --- |\n| new |\nb\n<!-- table: other -->\n| y |\n"
    with pytest.raises(QuantctlError, match="no table"):
        publish.updated("text\n", {})


def test_what_was_not_reproduced_is_named():
    def report(**gaps):
        return {"modes": [{"mode": mode, "gap": {"mean": gap, "sd": 0.001}} for mode, gap in gaps.items()]}

    published = report(bf16=0.0, one=0.01, two=0.02)
    assert compare(report(one=0.0105, two=0.02), published) == []
    assert [line.partition(":")[0] for line in compare(report(one=0.02, new=0.0), published)] == ["one", "new"]
    assert missing(report(bf16=0.0, one=0.0), published) == ["two: published, and not among these runs"]
