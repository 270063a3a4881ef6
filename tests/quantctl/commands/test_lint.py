"""`quantctl lint`: both forms, exit status, what is printed for people and for programs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from quantctl.cli import cli
from quantctl.errors import QuantctlError
from quantctl.lint.render import document
from quantctl.lint.rules import RULES

SIZES = "--num-layers 4 --hidden-size 256 --num-attention-heads 4 --seq-length 512 --max-position-embeddings 512"
FINE = (
    f"pretrain_gpt.py {SIZES} --micro-batch-size 1 --train-iters 9 --eval-interval 9 --attention-backend fused".split()
)
DOCUMENT = Path(__file__).parents[3] / "docs" / "lint.md"


def _lint(*arguments: object, json_: bool = False):
    return CliRunner().invoke(cli, [*["--json"] * json_, "lint", *map(str, arguments)])


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (FINE, 0),
        (["env", "A=b", "torchrun", "--nproc-per-node", "8", *FINE], 0),
        (FINE[1:], 0),
        ([*FINE, "--no-such-flag"], 1),
        ([*FINE, "--fp8-recipe", "mxfp8"], 0),
    ],
    ids=["fine", "wrapped", "flags alone", "an error", "a warning"],
)
def test_only_errors_decide_the_exit_status(words, status):
    assert _lint("--release", "0.16.1", "--", *words).exit_code == status


def test_errors_only_says_nothing_without_errors():
    done = _lint("--release", "0.16.1", "--errors-only", "--", *FINE, "--fp8-recipe", "mxfp8")
    assert (done.exit_code, done.output) == (0, "")


def test_selectors_on_the_command_line_count():
    words = (*FINE, "--fp8-format", "e4m3")
    assert _lint("--release", "0.16.1", "--mode", "FA_mxfp4", "--errors-only", "--", *words).exit_code == 0
    done = _lint("--release", "0.16.1", "--mode", "linear_mxfp4", "--errors-only", "--", *words)
    assert done.exit_code == 1
    assert "linear=mxfp4 and Transformer Engine's own recipe" in done.stdout


def test_a_name_that_promises_another_format():
    words = ("--release", "0.16.1", "--mode", "FA_mxfp4", "--name", "8b_hifp8", "--errors-only")
    done = _lint(*words, "--", *FINE)
    assert "name-says-otherwise" in done.stdout


def test_the_overview_has_a_verdict_for_every_parameter():
    done = _lint("--release", "0.16.1", "--", *FINE, "--fp8-recipe", "mxfp8", "--lr", "x")
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("  fine", "  note", "  wrong"))]
    assert {row[1]: row[0] for row in rows if len(row) > 2} == {
        "--num-layers": "fine",
        "--hidden-size": "fine",
        "--num-attention-heads": "fine",
        "--seq-length": "fine",
        "--max-position-embeddings": "fine",
        "--micro-batch-size": "fine",
        "--train-iters": "fine",
        "--eval-interval": "fine",
        "--attention-backend": "fine",
        "--fp8-recipe": "note",
        "--lr": "wrong",
    }


def test_json_of_a_script(tmp_path):
    script = tmp_path / "train.sh"
    script.write_text(f'A=1\ntorchrun {" ".join(FINE)} --num-layer $A "$B"\nset +x\n')
    done = _lint("--release", "0.16.1", script, json_=True)
    (found,) = json.loads(done.stdout)
    assert done.exit_code == 1
    assert (found["script"], found["line"], found["program"]) == (str(script), 2, "pretrain_gpt.py")
    assert {(f["rule"], f["severity"]) for f in found["findings"]} == {
        ("flag-unknown", "error"),
        ("exit-status-lost", "warning"),
    }
    assert {
        "name": "--num-layer",
        "given": True,
        "value": "1 …",
        "verdict": "wrong",
        "rules": ["flag-unknown"],
    } in found["parameters"]


def test_a_script_without_training_is_said_so(tmp_path):
    script = tmp_path / "a.sh"
    script.write_text("echo hello\n")
    done = _lint("--release", "0.16.1", script)
    assert done.exit_code == 0
    assert "no training command" in done.stderr


@pytest.mark.parametrize("rule", RULES)
def test_explain_tells_everything_about_a_rule(rule):
    text = " ".join(_lint("--explain", rule).stdout.split())
    row = RULES[rule]
    for part in (rule, row.what, row.why, row.fix, row.releases, row.evidence):
        assert " ".join(part.split()) in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give scripts, or a command"),
        (["a.sh", "--", *FINE], "give scripts, or a command"),
        (["--release", "0.16.1", "--", "ls"], "no training command behind --"),
        (["--release", "new", "--", *FINE], "unknown --release 'new'"),
        (["--explain", "nothing"], "unknown rule 'nothing'"),
    ],
)
def test_refusals(arguments, says, quantctl):
    done = quantctl("lint", *arguments)
    assert done.status == 2
    assert says in done.err


def test_the_tree_in_use_decides_the_release(quantctl, megatron_tree):
    tree = megatron_tree("0.19.0")
    done = quantctl("--megatron", tree, "lint", "--", *FINE, "--moe-extended-tp")
    assert done.status == 1
    assert "flag-removed: --moe-extended-tp was removed: 0.18.2" not in done.out
    assert "flag-removed: --moe-extended-tp was removed: " in done.out
    assert f"tree: {tree}" in done.err


def test_packages_count_where_the_command_is_about_to_run(quantctl):
    command = [*FINE, "--transformer-impl", "local", "--no-persist-layer-norm"]
    here, elsewhere = quantctl("lint", "--", *command), quantctl("lint", "--release", "0.16.1", "--", *command)
    assert "error    gradient-accumulation-fusion" in here.out
    assert "note     gradient-accumulation-fusion" in elsewhere.out


def test_torch_is_not_imported():
    code = (
        "import sys; from click.testing import CliRunner; from quantctl.cli import cli\n"
        f"assert CliRunner().invoke(cli, ['lint', '--', *{FINE!r}]).exit_code == 1\n"
        "assert not {'torch', 'megatron.core', 'libcst', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_document_holds_the_table_of_rules():
    assert "\n".join(document()).strip() in DOCUMENT.read_text("utf-8"), "quantctl generate writes it"


def test_a_script_nested_too_deeply_is_refused(tmp_path):
    script = tmp_path / "deep.sh"
    script.write_text("if true; then " * 3000 + "x" + "; fi" * 3000 + "\n")
    with pytest.raises(QuantctlError, match="nested too deeply"):
        CliRunner().invoke(cli, ["lint", str(script)], catch_exceptions=False)
