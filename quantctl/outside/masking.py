"""Secrets in what is written down: a name that says so hides its value, and so does a value that can be nothing else.

Used wherever a command line or a variable is recorded: manifests, sweep records, the history of a tree, reports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

MASK = "***"

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
"""A word of a name: WANDB_API_KEY, --hf-token and apiKey have three, two and two."""
_ALWAYS = re.compile(
    r"(?:password|passwd|passphrase|sshpass|secret|credential|apikey|accesskey|secretkey|privatekey|authtoken|accesstoken)s?$"
)
"""A word that makes a name one of a secret wherever it stands; PGPASSWORD is one word."""
_LAST = {"key", "token", "pwd", "pass", "auth", "authorization", "bearer", "pat"}
"""The same for a last word only: --moe-token-dispatcher-type, --kv-channels and HF_TOKEN_PATH hold no secret."""
_OF_DATA = {
    "key": {
        *("text", "json", "jsonl", "data", "dataset", "label", "image", "video", "audio", "input", "output", "target"),
        *("prompt", "response", "question", "answer", "content", "column", "sort", "cache", "primary", "foreign"),
        *("id", "group", "config", "state", "dict", "q", "k", "query", "metric", "monitor", "chosen", "rejected"),
    },
    "token": {
        *("pad", "padding", "eos", "bos", "unk", "mask", "sep", "cls", "eod", "eot", "image", "img", "video", "audio"),
        *("special", "stop", "start", "end", "begin", "extra", "think", "tool", "fim", "prefix", "suffix", "middle"),
        *("per", "by", "new", "first", "last", "next", "max", "min", "num", "boi", "eoi", "pause", "separator"),
    },
    "pass": {"forward", "backward", "single", "multi", "per", "by", "first", "second", "two", "one", "bypass"},
    "auth": {"no", "disable", "use"},
    "bearer": set(),
}
"""Last word -> words before it that make it one of a dataset or a tokenizer."""

_VALUE = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bsk-[A-Za-z0-9_-]{16,}|\bgh[pousr]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}"
    r"|\bxox[abprs]-[\w-]{10,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[\w-]{30,}|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
    r"|\bnvapi-[\w-]{16,}|\bwandb_v\d_\w{16,}"
)
"""Values that are secrets by their form: of Hugging Face, OpenAI, GitHub, GitLab, Slack, AWS, Google, JWT, NVIDIA."""
_USER = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]{0,20}://[^\s/@:]*:)[^\s/@]+(?=@)")
"""scheme://user:password@host"""
_HEADER = re.compile(r"(?i)\b((?:bearer|basic)\s+)[\w.~+/=-]{6,}")
_QUOTED = r"""\\?"(?:[^"\\]|\\.)*"|'[^']*'"""
_NAME = re.compile(r"""([\w.-]+)(?:(\\?["']?\s*[:=]\s*)(?=\S))?""")
_OF_NAME = re.compile(rf"""{_QUOTED}|[^\s,;&"'{{}}()]+""")
"""NAME=value, name: value or "name": "value" within a word: of --export=ALL,A=b, of a URL's query, of JSON."""
_PIECE = re.compile(rf"""(?:{_QUOTED}|[^\s"';|&()])+""")
"""A word of a shell command that is itself one word, as behind `bash -c`."""
_DEPTH = 8
"""Commands within words of commands that are looked into."""
_FLAG = re.compile(r"--?([A-Za-z][\w.-]+)")


def is_secret_name(name: str) -> bool:
    """Whether a variable, flag or key of that name holds a secret."""
    words = [word.lower() for word in _WORD.findall(name)]
    if any(_ALWAYS.search(word) for word in words):
        # where a secret lies is none
        return words[-1] not in ("file", "path", "dir", "id", "name")
    if not words or words[-1] not in _LAST:
        return False
    if len(words) == 1:
        return words[0] not in ("pwd", "pass", "pat", "bearer")
    return words[-2] not in _OF_DATA.get(words[-1], ())


def masked_value(name: str, value: str) -> str:
    """The value of a variable, without what is secret in it."""
    return MASK if value and is_secret_name(name) else _text(value)


def _pairs(text: str) -> str:
    shown, at = [], 0
    while found := _NAME.search(text, at):
        shown.append(text[at : found.end()])
        at = found.end()
        if found[2] and is_secret_name(found[1]) and (value := _OF_NAME.match(text, at)):
            shown.append(MASK)
            at = value.end()
    return "".join(shown) + text[at:]


def _text(text: str) -> str:
    return _VALUE.sub(MASK, _pairs(_HEADER.sub(rf"\1{MASK}", _USER.sub(rf"\1{MASK}", text))))


def _word(word: str, depth: int) -> str:
    name, equals, value = word.partition("=")
    if equals and value and is_secret_name(name.strip("\"'")) and not re.search(r"\s", name):
        return f"{name}={MASK}"
    if depth == _DEPTH or not re.search(r"\s", word):
        return _text(word)
    if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'":
        return word[0] + _word(word[1:-1], depth + 1) + word[-1]
    spans = [found.span() for found in _PIECE.finditer(word)]
    if spans == [(0, len(word))]:
        return _text(word)
    shown, end = [], 0
    for (start, stop), piece in zip(spans, _masked((word[a:b] for a, b in spans), depth + 1), strict=True):
        shown += [word[end:start], piece]
        end = stop
    return _text("".join(shown) + word[end:])


def _masked(words: Iterable[str], depth: int) -> Iterator[str]:
    hides_next = False
    for word in words:
        flag = _FLAG.fullmatch(word)
        if hides_next and not word.startswith("--"):
            yield MASK
            flag = None
        else:
            yield word if flag else _word(word, depth)
        hides_next = flag is not None and is_secret_name(flag[1])


def masked(words: Iterable[str]) -> list[str]:
    """A command line with *** in place of its secrets; as many words as it had.

    Secret are the value of NAME=value, --name=value and --name value where the name says so, a password in a URL, and
    what has the form of a well-known kind of token; within a word that is a command or JSON, too. What was masked
    already stays as it is.
    """
    return list(_masked(words, 0))


def masked_pairs(values: Mapping[str, str]) -> dict[str, str]:
    """Names with their values, the secret ones masked."""
    return {name: masked_value(name, value) for name, value in values.items()}
