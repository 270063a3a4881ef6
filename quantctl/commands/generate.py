"""`quantctl generate`: write the training scripts, or say which of them are not what the tables make."""

from __future__ import annotations

import os
from pathlib import Path

import click

from quantctl.commands._options import Choice
from quantctl.disk.files import write_new
from quantctl.errors import QuantctlError

MODE = 0o755


def _present(folder: Path, names: set[str]) -> set[Path]:
    """The scripts that lie under `folder`, relative to it, in the models' folders only."""
    return {path.relative_to(folder) for name in names for path in (folder / name).glob("*.sh")}


def _differences(folder: Path, wanted: dict[Path, str]) -> dict[Path, str]:
    """Relative path -> missing, differs, not executable or extra."""
    found = _present(folder, {path.parts[0] for path in wanted})
    problems = dict.fromkeys(found - wanted.keys(), "extra")
    for path, text in wanted.items():
        if path not in found:
            problems[path] = "missing"
        elif (folder / path).read_bytes() != text.encode():
            problems[path] = "differs"
        elif not os.access(folder / path, os.X_OK):
            problems[path] = "not executable"
    return dict(sorted(problems.items()))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_new(path, text.encode(), MODE)


def _pages() -> dict[Path, str]:
    """Pages of a checkout whose tables are made from code, with what they are to hold."""
    import quantctl
    from quantctl.lint import render

    page = Path(quantctl.__file__).parents[1] / "docs" / "lint.md"
    return {page: render.page(page.read_text("utf-8"))} if page.is_file() else {}


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 and name the files that differ, miss or are extra.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder to write to. Default: the script folder of this installation.",
)
@click.option("--launcher", type=Choice(["local", "slurm"]), default="local", help="slurm: with #SBATCH lines.")
@click.option("--platform", type=Choice(["cuda", "npu", "cpu"]), default="cuda", help="The default of PLATFORM.")
@click.option("--sbatch", multiple=True, metavar="OPTION", help="One more #SBATCH line, e.g. --sbatch=--nodes=2.")
@click.pass_context
def command(
    ctx: click.Context, check: bool, output: Path | None, launcher: str, platform: str, sbatch: tuple[str, ...]
) -> None:
    """Write the 60 training scripts from the tables and the template, and in a checkout the rules of docs/lint.md.

    Those of the installation know no launcher: for Slurm's directives or another platform name a folder with --output.
    """
    from quantctl.launch import slurm
    from quantctl.script.render import FOLDER, render_all

    if (launcher, platform) != ("local", "cuda") and output is None:
        raise QuantctlError("the installation's own scripts stay neutral", "write these elsewhere: --output DIR")
    if sbatch and launcher != "slurm":
        raise QuantctlError("--sbatch is for Slurm", "add --launcher slurm")
    folder = output or FOLDER
    pages = _pages() if output is None else {}
    by_slurm = (lambda name, devices: slurm.options(name, platform, devices, sbatch)) if launcher == "slurm" else None
    wanted = render_all(platform, by_slurm)
    problems = _differences(folder, wanted)
    stale = [path for path, text in pages.items() if path.read_text("utf-8") != text]
    if check:
        for path, problem in problems.items():
            click.echo(f"{problem}: {folder / path}")
        for path in stale:
            click.echo(f"differs: {path}")
        click.echo(f"{len(wanted)} scripts expected in {folder}, {len(problems)} problems", err=True)
        if problems or stale:
            click.echo("  run `quantctl generate`; extra files are yours to delete", err=True)
            ctx.exit(1)
        return
    changed = [path for path, problem in problems.items() if problem != "extra"]
    try:
        for path in changed:
            _write(folder / path, wanted[path])
            click.echo(str(folder / path))
        for path in stale:
            write_new(path, pages[path].encode(), 0o644)
            click.echo(str(path))
    except OSError as error:
        raise QuantctlError(
            f"cannot write {error.filename or folder}: {error.strerror}",
            "the scripts before it are complete; choose a folder you may write to with --output DIR",
        ) from None
    extra = [path for path, problem in problems.items() if problem == "extra"]
    for path in extra:
        click.echo(f"not one of the scripts, left alone: {folder / path}", err=True)
    click.echo(f"{len(changed)} written, {len(wanted) - len(changed)} already up to date in {folder}", err=True)
