"""What an installation exposes: one import package, all of its files, and a light command line."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ABSENT = ("kernels", "patches", "script")

IMPORTS = f"""
import importlib.util, quantctl.kernels, quantctl.patches.registry, quantctl.script
for name in {ABSENT!r}:
    assert importlib.util.find_spec(name) is None, name
print(quantctl.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", target, ROOT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = target.glob("*.whl")
    return built


def _environment(folder: Path, *arguments: object) -> Path:
    """A virtual environment with quantctl installed; its other packages are those of this one."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    # the packages of this environment are seen through a .pth file, quantctl itself excepted
    site = next((folder / "lib").glob("python*")) / "site-packages"
    ours = next(Path(p) for p in sys.path if p.endswith("site-packages"))
    (site / "_shared.pth").write_text(f"{ours}\n")
    pip = [sys.executable, "-m", "pip", "--python", python]
    subprocess.run([*pip, "install", *options, "--ignore-installed", *arguments], check=True)
    return python


@pytest.mark.parametrize("how", ["wheel", "editable"])
def test_only_quantctl_is_importable(wheel, tmp_path, how):
    arguments = [wheel] if how == "wheel" else ["-e", ROOT]
    python = _environment(tmp_path / "env", *arguments)
    done = subprocess.run([python, "-c", IMPORTS], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = tmp_path / "env" if how == "wheel" else ROOT
    assert done.stdout.startswith(str(expected))


def test_the_wheel_holds_every_module(wheel):
    folders = {"quantctl": "quantctl", **{f"quantctl/{name}": name for name in ABSENT}}
    modules = {
        f"{inside}/{path.relative_to(ROOT / folder)}"
        for inside, folder in folders.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    assert modules <= set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_holds_scripts_and_template(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert sum(name.endswith(".sh") for name in names) == 60
    assert "quantctl/script/template.sh.j2" in names
    assert "quantctl/runs/child/sitecustomize.py" in names
    assert "quantctl/py.typed" in names
    top = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert top == {"quantctl"}


HEAVY = ("torch", "numpy", "matplotlib", "megatron", "libcst.matchers", "libcst.codemod")
LIGHT = {
    "--help": (["--help"], (*HEAVY, "libcst", "git")),
    "list": (["list"], (*HEAVY, "libcst", "git")),
    "check": (["check"], (*HEAVY, "libcst")),
    "log": (["log"], (*HEAVY, "libcst")),
    "set on a stock tree": (["set", "--linear", "mxfp8", "--diff"], HEAVY),
}


@pytest.mark.parametrize(("arguments", "unwanted"), LIGHT.values(), ids=LIGHT)
def test_commands_load_nothing_for_nothing(megatron_tree, arguments, unwanted):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "quantctl.cli", *arguments],
        env={**os.environ, "MEGATRON_LM_PATH": str(megatron_tree("0.16.1"))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert not {name for name in loaded for heavy in unwanted if name == heavy or name.startswith(f"{heavy}.")}


def test_the_package_itself_imports_nothing():
    program = "import sys; before = set(sys.modules); import quantctl; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['quantctl']"
