"""Redirections of a command: here-documents, here-strings, files, and words that the grammar puts among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantctl.lint.words import Expander, source, spans
from quantctl.lint.world import MANY, UNKNOWN

if TYPE_CHECKING:
    from tree_sitter import Node


@dataclass(frozen=True)
class Redirections:
    words: tuple[str, ...] = ()
    """Arguments of the command: the grammar takes those behind `> file` for more of its targets."""
    text: str | None = None
    """What the command reads: a here-document or here-string; UNKNOWN for anything else that is redirected to it."""
    file: str | None = None
    """Where its output goes."""
    elsewhere: bool = False
    """Whether the output goes to a file, or to standard error."""
    behind: tuple[Node, ...] = ()
    """Statements that the grammar hangs below a here-document."""

    def __add__(self, other: Redirections) -> Redirections:
        return Redirections(
            self.words + other.words,
            other.text if other.text is not None else self.text,
            other.file if other.file is not None else self.file,
            self.elsewhere or other.elsewhere,
            self.behind + other.behind,
        )


def redirections(nodes: list[Node], expander: Expander) -> Redirections:
    """What these redirections of one command say together."""
    found = Redirections()
    for node in nodes:
        if node.type == "heredoc_redirect":
            found += _document(node, expander)
        elif node.type == "herestring_redirect":
            texts = spans([child for child in node.children[1:] if child.is_named], node)
            text = UNKNOWN if len(texts) != 1 or texts[0] is None else expander.value_of(texts[0])
            found += Redirections(text=text + "\n")
        elif node.type == "file_redirect":
            found += _file(node, expander)
    return found


def _file(node: Node, expander: Expander) -> Redirections:
    operator = next((child.type for child in node.children if child.type in _OPERATORS), "")
    texts = spans(node.children_by_field_name("destination"), node)
    target = "" if not texts or texts[0] is None else expander.value_of(texts[0])
    words: list[str] = []
    for text in texts[1:]:
        words += [MANY] if text is None else expander.words(text)
    if operator.startswith("<") and operator != "<>":
        # behind `<` words are a placeholder's rest: <path to data>
        return Redirections(text=UNKNOWN, words=() if operator == "<" else tuple(words))
    descriptor = node.child_by_field_name("descriptor")
    number = "1" if descriptor is None else source(descriptor)
    if number != "1" and operator not in ("&>", "&>>"):
        return Redirections(tuple(words))
    to_error = operator == ">&" and target == "2"
    back = operator == ">&" and target == "1"
    return Redirections(tuple(words), None, None if operator == ">&" else target, not back or to_error)


_OPERATORS = ("<", ">", ">>", "&>", "&>>", "<&", ">&", ">|", "<&-", ">&-", "<>")


def _document(node: Node, expander: Expander) -> Redirections:
    """`<<WORD`, with what the grammar hangs below it: arguments, other redirections, the rest of the line."""
    start = next((source(child) for child in node.children if child.type == "heredoc_start"), "")
    body = next((child for child in node.children if child.type == "heredoc_body"), None)
    text = "" if body is None else source(body)
    if body is not None:  # the grammar leaves blanks in front of the first line out
        before = (node.text or b"")[: body.start_byte - node.start_byte]
        text = before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace") + text
    if node.children[0].type == "<<-":
        text = "\n".join(line.lstrip("\t") for line in text.split("\n"))
    quoted = any(sign in start for sign in "'\"\\")
    found = Redirections(text=text if quoted else expander.document(text))
    arguments: list[Node] = []
    for child in node.children[1:]:
        if child.type in ("heredoc_start", "heredoc_body", "heredoc_end") or child.type in ("&&", "||"):
            continue
        if child.type.endswith("_redirect"):
            found += redirections([child], expander)
        elif child.type == "pipeline" or child.type in ("list", "command", "redirected_statement"):
            found += Redirections(behind=(child,))
        elif child.is_named and child.type != "file_descriptor":
            arguments.append(child)
    return found + Redirections(tuple(expander.sequence(arguments, node)))
