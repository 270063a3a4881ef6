"""`quantctl lint`: what is wrong with a training command, before it costs a night."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantctl import output
from quantctl.commands._common import (
    BehindDashes,
    behind_dashes,
    describe,
    given_values,
    selector_options,
    tree_in_use,
)
from quantctl.errors import DIFFERS, QuantctlError, unknown
from quantctl.output import printable
from quantctl.outside.packages import require

if TYPE_CHECKING:
    from quantctl.lint.judge import Judged
    from quantctl.lint.shell import Script


@click.command(cls=BehindDashes, short_help="check a training command before it runs")
@selector_options
@click.option("--name", help="What the run is called: its name must not promise another format.")
@click.option("--release", help="Megatron-LM release that the command is for; default: that of the tree in use.")
@click.option("--ask", is_flag=True, help="Run the tree's own parser and checks on each command, in a child process.")
@click.option("--errors-only", is_flag=True, help="Print errors, and nothing if there are none.")
@click.option("--explain", metavar="RULE", help="Print everything about one rule.")
@click.argument("scripts", nargs=-1, type=click.Path(path_type=Path), metavar="[SCRIPT]... [-- COMMAND ARGS...]")
@click.pass_context
def command(
    ctx: click.Context,
    mode: str | None,
    name: str | None,
    release: str | None,
    ask: bool,
    errors_only: bool,
    explain: str | None,
    scripts: tuple[Path, ...],
    **specs: str | None,
) -> None:
    """Check training commands against the release's own flags and the rules of docs/lint.md.

    \b
    quantctl lint script/llama31-8b/*.sh
    quantctl lint --mode FA_mxfp8 -- torchrun pretrain_gpt.py ...

    Scripts are read, never run: what cannot be known without running them is left alone. A command behind -- is taken
    as about to run here, so packages that it needs must be installed here, unless --release names another place's
    Megatron. Exit status 1 when there is an error, or where a script
    was not read to its end, which is said; warnings and notes leave it 0.
    """
    if explain is not None:
        _explain(explain)
        return
    words = behind_dashes(ctx)
    if bool(words) == bool(scripts):
        raise QuantctlError(
            "give scripts, or a command behind --, and not both",
            "quantctl lint train.sh, or: quantctl lint -- torchrun pretrain_gpt.py ...",
        )
    values = given_values(mode, specs)
    if scripts:
        require(
            "reading scripts (a command behind -- is judged without)", {"lint": ("tree_sitter", "tree_sitter_bash")}
        )
    judged, cut = _judge(ctx, scripts, words, values, name, release, errors_only)
    from quantctl.lint import render

    refused = _ask(ctx, judged, release) if ask else 0
    errors = refused + sum(one.errors for one in judged)
    if ctx.obj["json"]:
        output.data([render.as_data(one) for one in judged])
    else:
        _print(judged, errors_only)
    for script in cut:
        output.say(f"{printable(str(script.path))}: not read to its end: {printable('; '.join(script.cut))}")
    if errors or cut:
        ctx.exit(DIFFERS)


def _ask(ctx: click.Context, judged: list[Judged], release: str | None) -> int:
    """Say what the tree in use answers; how many commands it refuses."""
    from quantctl.lint import render
    from quantctl.lint.start.ask import ask

    if release is not None:
        raise QuantctlError("--ask asks the tree in use, --release names none", "give --megatron TREE in its place")
    root = tree_in_use(ctx).root
    if not (root / "megatron/training/arguments.py").is_file():
        raise QuantctlError(f"{root} holds no trainer to ask", "--ask takes a Megatron-LM checkout; lint does without")
    answers, why = ask([one.case for one in judged], root)
    if why:
        output.say(f"not asked: {printable(why)}")
    for one, answer in zip(judged, answers, strict=True):
        if answer is not None:
            said = f"refuses it: {answer}" if answer else "takes it"
            output.say(f"{render.title(one)}: the tree itself {printable(said)}")
    return sum(bool(answer) for answer in answers)


def _explain(name: str) -> None:
    from quantctl.lint import render
    from quantctl.lint.rules import RULES

    if name not in RULES:
        raise unknown("rule", name, RULES, "docs/lint.md explains them")
    click.echo(render.explain(RULES[name]))


def _judge(
    ctx: click.Context,
    scripts: tuple[Path, ...],
    words: tuple[str, ...],
    values: dict[str, str] | None,
    name: str | None,
    release: str | None,
    quiet: bool,
) -> tuple[list[Judged], list[Script]]:
    """The training commands, and the scripts that were not read to their end."""
    from quantctl.lint.case import Setting
    from quantctl.lint.judge import judge, judge_command, read_script
    from quantctl.lint.megatron_flags import nearest

    if release is None:
        from quantctl.tree.state import read_state

        tree = tree_in_use(ctx)
        if not quiet:
            output.say(f"tree: {describe(tree)}")
        setting = Setting(nearest(tree.version()), tree.root, read_state(tree.root), bool(words), values, name)
    else:
        setting = Setting(_known_release(release), selectors=values, name=name)
    if words:
        found = judge_command(words, setting)
        if found is None:
            raise QuantctlError(
                "there is no training command behind --",
                "it takes one that runs pretrain_gpt.py, quantctl.pretrain or ms-swift, or Megatron's flags alone",
            )
        return [found], []
    judged, cut = [], []
    for path in scripts:
        script = read_script(path)
        in_script = judge(script, setting)
        if not in_script and not quiet:
            output.say(f"{printable(str(path))}: no training command found")
        judged += in_script
        cut += [script] if script.cut else []
    return judged, cut


def _known_release(text: str) -> str:
    from quantctl.lint.megatron_flags import MAIN, nearest, releases

    if text != MAIN and not text[:1].isdigit():
        raise unknown("--release", text, releases())
    return nearest(text)


def _print(judged: list[Judged], errors_only: bool) -> None:
    from quantctl.lint import render
    from quantctl.lint.rule import Severity

    for one in judged:
        shown = [finding for finding in one.findings if finding.severity is Severity.ERROR or not errors_only]
        if shown or not errors_only:
            click.echo(render.title(one))
        if shown:
            click.echo(render.findings(shown))
    if len(judged) == 1 and not errors_only:
        click.echo()
        click.echo(render.overview(judged[0]))
    if not errors_only:
        output.say(render.summary(judged))
