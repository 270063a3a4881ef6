"""exec: an isolated staged tree, a run directory, and a proof that fails when the formats were not used."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quantctl.runs.rundir import owned
from quantctl.spec.names import unfold
from quantctl.tree.selectors import ATTENTION

STEP = Path(__file__).resolve().parents[2] / "support" / "gpt_step.py"
IMPORT_CORE = "import megatron.core; print(megatron.core.__file__)"


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_a_run_is_proved_and_the_tree_untouched(quantctl, stock_copy, tmp_path):
    tree, run = stock_copy("0.16.1"), tmp_path / "run"
    before = (tree / ATTENTION).read_bytes()
    program = tmp_path / "pretrain_gpt.py"
    program.write_text(f"import runpy, sys; sys.argv = sys.argv[:1]; runpy.run_path({str(STEP)!r})")
    command = [sys.executable, program, "--transformer-impl", "local", "--num-layers", 2, "--hidden-size", 64]
    done = quantctl("--megatron", tree, "exec", "--mode", "FA_linear_mxfp8", "--run-dir", run, "--", *command)
    assert done.status == 0, done.err
    assert (tree / ATTENTION).read_bytes() == before
    proof, manifest = read(run / "proof.json"), read(run / "manifest.json")
    assert proof["ok"]
    assert proof["calls"] == {
        "linear": {"mxfp8": {"fprop": 8, "dgrad": 8, "wgrad": 8}},
        "qk": {"mxfp8": {"fprop": 2, "dgrad": 2, "wgrad": 2}},
    }
    expected = {"linear": "mxfp8", "lm_head": "none", "qk": "mxfp8", "pv": "none", "attention": "unfused"}
    assert manifest["selectors"] == expected
    (attempt,) = manifest["attempts"]
    assert attempt["exit_status"] == 0
    assert attempt["proof"] is True
    assert attempt["megatron_core"] == "0.16.1"
    assert attempt["packages"]["torch"]
    assert attempt["staged"] in (run / "log.txt").read_text()
    # what was said before the run of each module that is not stock is what each module heard
    foreseen: dict[str, dict[str, str]] = {}
    for site, rows in attempt["resolved"]["sites"].items():
        for name, schedule in ((name, row["schedule"]) for row in rows for name in unfold(row["modules"])):
            foreseen.setdefault(name, {})[site] = schedule
    heard = {name: {site: seen["says"] for site, seen in sites.items()} for name, sites in proof["by_module"].items()}
    assert len(heard) == 2 * (4 + 1)
    assert heard == {name: {site: foreseen[name][site] for site in sites} for name, sites in heard.items()}


BYPASSES = {
    "selectors never reached": ([sys.executable, "-c", IMPORT_CORE], "linear should have run in mxfp8"),
    "megatron never imported": (["true"], "no process of the run imported megatron.core"),
}


@pytest.mark.parametrize(("command", "reason"), BYPASSES.values(), ids=BYPASSES)
def test_a_run_that_did_not_use_its_formats_fails(quantctl, megatron_tree, tmp_path, command, reason):
    tree, run = megatron_tree("0.16.1"), tmp_path / "run"
    done = quantctl("--megatron", tree, "exec", "--linear", "mxfp8", "--run-dir", run, "--", *command)
    assert done.status == 1
    assert f"proof failed: {reason}" in done.err
    assert read(run / "proof.json")["ok"] is False


def test_the_staged_tree_wins_over_its_source_on_the_path(quantctl, megatron_tree, tmp_path):
    """`python -c` puts the current directory first; the source tree there must give way to its copy."""
    tree = megatron_tree("0.16.1")
    done = quantctl("exec", "--mode", "bf16", "--run-dir", tmp_path, "--", sys.executable, "-c", IMPORT_CORE, cwd=tree)
    assert done.status == 0, done.err
    assert "/staged/" in done.out


def test_a_third_tree_on_the_path_fails_at_once(quantctl, megatron_tree, tmp_path):
    program = f"import sys; sys.path.insert(0, {str(megatron_tree('0.12.3'))!r}); {IMPORT_CORE}"
    command = ["exec", "--mode", "bf16", "--run-dir", tmp_path, "--", sys.executable, "-c", program]
    done = quantctl("--megatron", megatron_tree("0.16.1"), *command)
    assert done.status == 1
    assert "would import megatron.core from" in done.err


def test_status_of_the_command_passes_through(quantctl, megatron_tree, tmp_path):
    tree = megatron_tree("0.16.1")
    for script, status in (("exit 7", 7), ("kill -KILL $$", 137)):
        done = quantctl("--megatron", tree, "exec", "--mode", "bf16", "--run-dir", tmp_path, "--", "sh", "-c", script)
        assert done.status == status
    attempts = read(tmp_path / "manifest.json")["attempts"]
    assert [attempt["exit_status"] for attempt in attempts] == [7, 137]


def test_without_a_mode_the_trees_own_selectors_hold(quantctl, stock_copy, tmp_path):
    tree = stock_copy("0.16.1")
    assert quantctl("--megatron", tree, "set", "--lm-head", "mxfp4").status == 0
    done = quantctl("--megatron", tree, "exec", "--run-dir", tmp_path / "run", "--", "true")
    assert "selectors: linear=none lm_head=mxfp4 qk=none pv=none attention=unfused" in done.err


REFUSED = {
    "no command": (["--mode", "bf16"], "no command was given"),
    "no selector": (["--", "true"], "no selector was given, and this tree is stock"),
    "no such program": (["--mode", "bf16", "--", "no-such-program"], "cannot start 'no-such-program'"),
    "unknown format": (["--linear", "fp7", "--", "true"], "unknown format 'fp7'"),
    "experts that no selector sees": (
        [
            "--linear",
            "mxfp8",
            "--",
            *["torchrun", "pretrain_gpt.py", "--transformer-impl", "local", "--moe-grouped-gemm"],
        ],
        "the experts' products go past the linear selector",
    ),
}


@pytest.mark.parametrize(("arguments", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused(quantctl, megatron_tree, tmp_path, arguments, reason):
    done = quantctl("--megatron", megatron_tree("0.16.1"), "exec", "--run-dir", tmp_path, *arguments)
    assert done.status == 2
    assert reason in done.err


def test_a_program_that_is_not_there_costs_no_earlier_proof(quantctl, megatron_tree, tmp_path):
    run = ["--megatron", megatron_tree("0.16.1"), "exec", "--mode", "bf16", "--run-dir", tmp_path, "--"]
    quantctl(*run, sys.executable, "-c", IMPORT_CORE)
    before = {name: (tmp_path / name).read_bytes() for name in ("manifest.json", "proof.json")}
    assert quantctl(*run, "no-such-program").status == 2
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_a_reader_that_leaves_does_not_stop_the_run(megatron_tree, tmp_path):
    """The command writes more than a pipe holds after nobody reads any more; the log has all of it."""
    command = [sys.executable, "-m", "quantctl.cli", "--megatron", str(megatron_tree("0.16.1"))]
    script = "echo ready; seq 100000; exit 3"
    run = subprocess.Popen(
        [*command, "exec", "--mode", "bf16", "--run-dir", tmp_path, "--", "sh", "-c", script], stdout=subprocess.PIPE
    )
    run.stdout.readline()
    run.stdout.close()
    try:
        assert run.wait(timeout=60) == 3
    finally:
        run.kill()
    assert (tmp_path / "log.txt").read_text().splitlines()[-1] == "100000"


def test_a_run_directory_holds_one_choice_of_formats(quantctl, megatron_tree, tmp_path):
    tree = megatron_tree("0.16.1")
    arguments = ["--run-dir", tmp_path, "--", sys.executable, "-c", IMPORT_CORE]
    quantctl("--megatron", tree, "exec", "--mode", "bf16", *arguments)
    done = quantctl("--megatron", tree, "exec", "--qk", "mxfp8", *arguments)
    assert done.status == 2
    assert "holds a run with other selectors" in done.err
    assert read(tmp_path / "proof.json")["ok"]


def test_files_of_the_tree_on_the_command_line_become_their_copies(quantctl, checkout, tmp_path):
    tree = checkout("0.16.1")
    (tree / "pretrain_gpt.py").write_text("import sys, megatron.core; print(sys.argv[0], sys.argv[1:])\n")
    done = quantctl(
        "exec", "--mode", "bf16", "--run-dir", tmp_path, "--", sys.executable, "pretrain_gpt.py", "LICENSE", cwd=tree
    )
    assert done.status == 0, done.err
    program, arguments = done.out.split(maxsplit=1)
    assert "/staged/" in program
    assert arguments.strip() == "['LICENSE']"


def test_sigterm_reaches_the_command_and_the_manifest_is_finished(megatron_tree, tmp_path):
    script = "trap 'echo saved; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    command = [sys.executable, "-m", "quantctl.cli", "--megatron", str(megatron_tree("0.16.1"))]
    run = subprocess.Popen(
        [*command, "exec", "--mode", "bf16", "--run-dir", tmp_path, "--", "sh", "-c", script], stdout=subprocess.PIPE
    )
    assert run.stdout.readline() == b"ready\n"
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=60) == 3
    run.stdout.close()
    assert "saved" in (tmp_path / "log.txt").read_text()
    assert read(tmp_path / "manifest.json")["attempts"][0]["exit_status"] == 3


def test_runs_side_by_side_import_their_own_formats(megatron_tree, tmp_path):
    """A later choice does not reach a run that has started, and equal choices share one staged tree."""
    show = "from megatron.core.transformer import dot_product_attention as a; print(a.__file__, a.custom_quant_type_qk)"
    formats = ["none", "mxfp8", "mxfp4", "hifp8"]
    command = [sys.executable, "-m", "quantctl.cli", "--megatron", str(megatron_tree("0.16.1")), "exec"]
    runs = [
        subprocess.Popen(
            [*command, "--qk", value, "--run-dir", tmp_path / str(i), "--", sys.executable, "-c", show],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for i, value in enumerate(formats * 2)
    ]
    seen = [run.communicate()[0].split() for run in runs]
    assert [value for _, value in seen] == formats * 2
    assert len({path for path, _ in seen}) == len(formats)


def test_prune_keeps_what_is_in_use(quantctl, megatron_tree, tmp_path):
    tree = megatron_tree("0.16.1")
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    quantctl("--megatron", tree, "exec", "--mode", "bf16", "--run-dir", tmp_path / "a", "--", "true", env=env)
    command = [sys.executable, "-m", "quantctl.cli", "--megatron", str(tree), "exec", "--mode", "FA_mxfp8"]
    held = subprocess.Popen(
        [*command, "--run-dir", tmp_path / "b", "--", "sh", "-c", "echo up; exec sleep 60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **env},
    )
    assert held.stdout.readline() == b"up\n"
    staged = tmp_path / "cache" / "quantctl" / "staged"
    assert len(list(staged.iterdir())) == 2
    half, growing = staged / ".draft-killed", staged / ".draft-under-way"
    for draft in (half, growing):
        (draft / "megatron").mkdir(parents=True)
        (draft / ".quantctl-staged.json").touch()
    copier = os.open(growing, os.O_RDONLY)
    fcntl.flock(copier, fcntl.LOCK_SH)
    assert quantctl("exec", "--prune", env=env).status == 0
    assert len(list(staged.iterdir())) == 2
    assert growing.exists()
    os.close(copier)
    held.terminate()
    held.wait(timeout=60)
    held.stdout.close()
    assert quantctl("exec", "--prune", env=env).status == 0
    assert list(staged.iterdir()) == []


def test_a_process_left_behind_does_not_keep_the_run_open(quantctl, megatron_tree, tmp_path):
    tree = megatron_tree("0.16.1")
    script = "sleep 100 & echo $! > pid; echo done; exit 4"
    command = ["exec", "--mode", "bf16", "--run-dir", tmp_path, "--", "sh", "-c", script]
    done = quantctl("--megatron", tree, *command, cwd=tmp_path)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert done.status == 4
    assert "done" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(("number", "refused"), [(errno.ENOSYS, False), (errno.ENOLCK, False), (errno.EIO, True)])
def test_a_file_system_without_locks_is_said(monkeypatch, capsys, tmp_path, number, refused):
    def flock(*_: object) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="no locks") if refused else contextlib.nullcontext(), owned(tmp_path, 0):
        pass
    assert ("no locks on this file system" in capsys.readouterr().err) != refused


@pytest.mark.parametrize(("during", "status"), [(False, 5), (True, 143)], ids=["from before", "made meanwhile"])
def test_a_stop_file_counts_from_the_start_on(quantctl, megatron_tree, tmp_path, during, status):
    """`quantctl launch`, which begins earlier, removes an old one itself and says so."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "stop").touch()
    said = {"QUANTCTL_STOP_FORGOTTEN": str(run)} if during else {}
    command = [
        "exec",
        "--mode",
        "bf16",
        "--run-dir",
        run,
        "--",
        "sh",
        "-c",
        'sleep 2; exit "5$QUANTCTL_STOP_FORGOTTEN"',
    ]
    done = quantctl("--megatron", megatron_tree("0.16.1"), *command, env=said)
    assert done.status == status
    assert read(run / "manifest.json")["attempts"][0]["stopped_early"] is during
