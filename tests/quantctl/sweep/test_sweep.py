"""`quantctl sweep` with real scripts: resumable, and compared at the end."""

from __future__ import annotations

import json


def test_a_sweep_is_run_compared_and_resumed(quantctl, tmp_path):
    arguments = ["sweep", "--model", "llama32-1b", "--dataset", "wikipedia", "--training-config", "smoke"]
    arguments += ["--iterations", 2, "--mode", "bf16", "--mode", "linear=mxfp8:scale=floor", "--output", tmp_path / "s"]
    done = quantctl("--json", *arguments, "--jobs", 2, "--", "--eval-iters", "0")
    assert done.status == 0, done.err
    modes = {mode["mode"]: mode for mode in json.loads(done.out)["modes"]}
    assert modes["bf16"]["calls"].keys() <= {"attention"}
    assert modes["linear=mxfp8:scale=floor"]["calls"]["linear"].keys() == {"mxfp8:scale=floor"}
    # the first step's loss differs by the forward's quantization only
    assert abs(modes["linear=mxfp8:scale=floor"]["gap"]["mean"]) < 0.1
    assert (tmp_path / "s" / "llama32-1b" / "report" / "report.html").exists()
    again = quantctl(*arguments, "--", "--eval-iters", "0")
    assert again.status == 0, again.err
    assert again.err.count("finished before") == 2
    assert quantctl(*arguments, "--dry-run").out.split()[::2] == ["finished"] * 2


def test_a_failing_run_is_shown(quantctl, tmp_path):
    arguments = ["sweep", "--model", "llama32-1b", "--dataset", "wikipedia", "--training-config", "smoke"]
    done = quantctl(*arguments, "--mode", "bf16", "--output", tmp_path, "--", "--no-such-flag", cwd=tmp_path)
    assert done.status != 0
    assert "bf16-seed1234 failed" in done.err
    assert "--no-such-flag" in done.err
