"""The two READMEs say the same, show the published figures, and name what exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from quantctl.cli import COMMANDS, cli
from quantctl.errors import QuantctlError
from quantctl.sweep import publish

ROOT = Path(__file__).resolve().parents[1]
ENGLISH, CHINESE = ((ROOT / name).read_text() for name in ("README.md", "README.zh.md"))


def code(text: str) -> list[list[str]]:
    """The code blocks, without their comments."""
    blocks = re.findall(r"^```.*?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [[re.sub(r"\s+#.*", "", line) for line in block.splitlines()] for block in blocks]


def headings(text: str) -> list[int]:
    return [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]


def tables(text: str) -> list[int]:
    """Columns of every table row."""
    return [line.count("|") for line in text.splitlines() if line.startswith("|")]


def links(text: str) -> set[str]:
    found = set(re.findall(r"\]\(([^)]+)\)", text))
    return {link for link in found if not link.startswith("README")}


def in_prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def in_code_style(text: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", in_prose(text)))


@pytest.mark.parametrize("part", [code, headings, tables, links, in_code_style])
def test_the_chinese_readme_says_the_same(part) -> None:
    assert part(CHINESE) == part(ENGLISH)


def test_figures_in_the_text_are_the_same() -> None:
    def figures(text: str) -> list[str]:
        return re.findall(r"\d[\d,.]*\d", in_prose(text))

    # 1.2 million is 120 times ten thousand in Chinese
    assert set(figures(CHINESE)) - {"120"} | {"1.2"} == set(figures(ENGLISH))


@pytest.mark.parametrize("document", publish.DOCUMENTS, ids=str)
def test_documents_show_the_published_figures(document: Path) -> None:
    text = (ROOT / document).read_text()
    assert publish.updated(text, publish.tables(ROOT / publish.PUBLISHED)) == text


PAGES = [path.relative_to(ROOT) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("document", PAGES, ids=str)
def test_links_lead_somewhere(document: Path) -> None:
    folder = (ROOT / document).parent
    for link in re.findall(r"\]\(([^)#]+)\)", in_prose((ROOT / document).read_text())):
        assert (folder / link).exists(), link


def test_every_command_is_named_in_the_readme() -> None:
    internal = {"generate", "launch"}  # what contributors and the scripts call
    assert [name for name in COMMANDS.keys() - internal if f"quantctl {name}" not in ENGLISH] == []


def commands_in(text: str) -> dict[str, bool]:
    """Every command line of quantctl's in the text and in the code blocks, and whether it stands there whole."""
    lines = [line.removeprefix("$ ") for block in code(re.sub(r" \\\n *", " ", text)) for line in block]
    found = dict.fromkeys(in_code_style(text), False) | {line: "..." not in line.split(" -- ")[0] for line in lines}
    return {line: whole for line, whole in found.items() if line.startswith("quantctl ")}


@pytest.mark.parametrize("document", PAGES, ids=str)
def test_every_command_shown_is_one_that_there_is(document: Path) -> None:
    """Its words are read as the command line reads them: options, choices, how many there are."""
    for line, whole in commands_in((ROOT / document).read_text()).items():
        command, context, words = cli, None, [word for word in shlex.split(line)[1:] if word != "..."]
        words = words[: words.index("--")] if "--" in words else words
        try:
            while isinstance(command, click.Group):
                context = command.make_context("", words, parent=context)
                _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
            command.make_context("", words, parent=context)
        except click.MissingParameter:
            assert not whole, line
        except click.exceptions.Exit:
            assert "--help" in line
        except (click.ClickException, QuantctlError) as error:
            pytest.fail(f"{line}: {error}")
