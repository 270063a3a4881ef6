"""`quantctl generate`: the committed scripts are what the tables make, and every kind of difference is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import quantctl.script

SHIPPED = Path(quantctl.script.__file__).parent


def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "quantctl.cli", "generate", *arguments], capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def written(tmp_path) -> Path:
    """A folder with all 60."""
    folder = tmp_path / "some scripts"
    done = generate("--output", str(folder))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 60
    return folder


def test_the_committed_scripts_are_what_the_tables_make():
    done = generate("--check")
    assert (done.returncode, done.stdout) == (0, "")


def test_a_fresh_folder_gets_the_same_60(written):
    scripts = sorted(written.glob("*/*"))
    assert len(scripts) == 60
    for script in scripts:
        assert script.stat().st_mode & 0o777 == 0o755
        assert script.read_bytes() == (SHIPPED / script.relative_to(written)).read_bytes()


def test_check_names_what_differs_and_writing_repairs_it(written):
    folder = written / "llama32-1b"
    name = "pretrain_llama32-1b_wikipedia_{}.sh".format
    with (folder / name("bf16")).open("a") as file:
        file.write("# mine\n")
    (folder / name("FA_mxfp8")).unlink()
    (folder / name("FA_mxfp4")).chmod(0o644)
    (folder / name("mine")).touch()
    untouched = (folder / name("linear_mxfp8")).stat().st_mtime_ns

    check = generate("--check", "--output", str(written))
    assert check.returncode == 1
    assert set(check.stdout.splitlines()) == {
        f"differs: {folder / name('bf16')}",
        f"missing: {folder / name('FA_mxfp8')}",
        f"not executable: {folder / name('FA_mxfp4')}",
        f"extra: {folder / name('mine')}",
    }

    assert generate("--output", str(written)).returncode == 0
    again = generate("--check", "--output", str(written))
    assert (again.returncode, again.stdout) == (1, f"extra: {folder / name('mine')}\n")
    assert (folder / name("linear_mxfp8")).stat().st_mtime_ns == untouched


def test_nothing_there_is_60_missing(tmp_path):
    done = generate("--check", "--output", str(tmp_path / "none"))
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["missing"] * 60


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    done = generate("--output", str(tmp_path / "file" / "scripts"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("quantctl: cannot write")
    assert "--output DIR" in done.stderr
