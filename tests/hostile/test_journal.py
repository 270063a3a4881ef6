"""Damaged and hostile journals, histories and records: every command ends with a sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
from hostile import assert_civil, run, run_forked
from remembered import remember_insertion

from quantctl.tree.state import FILES, plan, read_state

STATE = {"blob": "0" * 40, "mode": 0o644}
ENTRY = {"path": FILES[0], "before": STATE, "after": STATE}
JOURNAL = {"operation": "0" * 40, "repository": "/nowhere", "ref": "refs/quantctl/trees/0", "token": "ab", "files": []}
NAME = "megatron/core/.quantctl-journal.json"


@pytest.fixture(scope="module")
def patched(megatron_tree, tmp_path_factory):
    """A small tree with one operation, and its state directory: copied for each test."""
    base = tmp_path_factory.mktemp("patched")
    for file in ("megatron/core/__init__.py", "megatron/core/package_info.py", *FILES):
        if (megatron_tree("0.16.1") / file).exists():
            (base / "tree" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(megatron_tree("0.16.1") / file, base / "tree" / file)
    remember_insertion()
    plan(read_state(base / "tree"), {})
    return base


@pytest.fixture
def tree(patched, tmp_path):
    return shutil.copytree(patched / "tree", tmp_path / "tree")


def said(tree, *arguments, start=run_forked):
    ended = start(["--megatron", tree, *arguments], tree)
    assert_civil(ended)
    return ended


JOURNALS = {
    "empty": b"",
    "torn": b'{"operation": "12',
    "NULs": bytes(4096),
    "a number": b"7",
    "a list": b"[]",
    "null": b"null",
    "deep": b"[" * 100_000,
    "long number": b'{"operation": ' + b"9" * 10_000 + b"}",
    "no fields": b"{}",
    "files is text": json.dumps(JOURNAL | {"files": "layers.py"}).encode(),
    "files is null": json.dumps(JOURNAL | {"files": None}).encode(),
    "operation is a list": json.dumps(JOURNAL | {"operation": []}).encode(),
    "a path out of the tree": json.dumps(JOURNAL | {"files": [ENTRY | {"path": "../../etc/passwd"}]}).encode(),
    "an absolute path": json.dumps(JOURNAL | {"files": [ENTRY | {"path": "/etc/passwd"}]}).encode(),
    "a token with folders": json.dumps(JOURNAL | {"token": "/../../x"}).encode(),
    "a mode that is none": json.dumps(JOURNAL | {"files": [ENTRY | {"before": STATE | {"mode": "rw"}}]}).encode(),
    "a blob that is an option": json.dumps(JOURNAL | {"files": [ENTRY | {"after": STATE | {"blob": "-x"}}]}).encode(),
    "another history": json.dumps(JOURNAL | {"files": [ENTRY]}).encode(),
    "not UTF-8": b'{"operation": "\xff\xfe"}',
    "huge": b" " * 2**24,
}


@pytest.mark.parametrize("content", JOURNALS.values(), ids=JOURNALS)
def test_a_journal_of_rubbish(tree, content):
    """Refused with the file's name, or what to run; nothing is changed."""
    before = (tree / FILES[0]).read_bytes()
    (tree / NAME).write_bytes(content)
    for arguments in (["check"], ["set", "--qk", "mxfp8"]):
        ended = said(tree, *arguments, start=run)
        assert ended.status == 2, ended.err
        assert "journal" in ended.err or "another user" in ended.err
    assert (tree / FILES[0]).read_bytes() == before
    assert (tree / NAME).read_bytes() == content


def _link(path):
    path.symlink_to("/etc/hostname")


KINDS = {"a folder": os.mkdir, "a FIFO": os.mkfifo, "a link": _link, "a dangling link": lambda p: p.symlink_to("no")}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_a_journal_that_is_no_file(tree, make):
    make(tree / NAME)
    for arguments in (["check"], ["restore"]):
        assert said(tree, *arguments).status == 2


def history(tree):
    log = json.loads(said(tree, "--json", "log").out)
    return log["repository"], log["ref"]


def _commit(repository, data: bytes, name: str = "operation.json") -> str:
    def git(*arguments, stdin=b""):
        identity = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
        done = subprocess.run(["git", "-C", repository, *identity, *arguments], input=stdin, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().strip()

    blob = git("hash-object", "-w", "--stdin", stdin=data)
    listed = git("mktree", stdin=f"100644 blob {blob}\t{name}\n".encode())
    return git("commit-tree", listed, "-m", "hello")


RECORD = {"kind": "set", "command": "x", "selectors": {}, "files": [], "megatron": "1", "quantctl": "1", "target": ""}
RECORDS = {
    "empty": b"",
    "no JSON": b"quantctl-operation: {}",
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "selectors are a list": json.dumps(RECORD | {"selectors": [1]}).encode(),
    "a command that is a number": json.dumps(RECORD | {"command": 7}).encode(),
    "a path out of the tree": json.dumps(
        RECORD | {"files": [ENTRY | {"path": "../x", "original": STATE, "edited": None}]}
    ).encode(),
    "files without fields": json.dumps(RECORD | {"files": [{}]}).encode(),
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_a_history_of_rubbish(tree, record):
    assert said(tree, "set", "--qk", "mxfp8").status == 0
    repository, ref = history(tree)
    subprocess.run(["git", "-C", repository, "update-ref", ref, _commit(repository, record)], check=True)
    for arguments in (["log"], ["restore"]):
        ended = said(tree, *arguments)
        assert ended.status == 2, ended.err
        assert "the history of this tree cannot be read" in ended.err


COMMANDS = {
    "record separator": "a\x1eb",
    "newline": "a\nb",
    "a line of data": 'x\nquantctl-operation: {"kind": "set"}\n',
    "a header": "x\n" + "0" * 40 + " 17",
    "escape sequences": "\x1b[31mred",
    "no UTF-8": os.fsdecode(b"\xff\xfe"),
    "U+2028": "a\u2028b",
}


@pytest.mark.parametrize("part", COMMANDS.values(), ids=COMMANDS)
def test_a_path_that_is_hard_to_record(tree, part):
    """The tree's path is in every recorded command line."""
    odd = tree.with_name(f"tree {part.replace('/', '_')}")
    tree.rename(odd)
    for arguments in (["set", "--qk", "mxfp8"], ["log"], ["restore"]):
        ended = said(odd, *arguments, start=run if part == COMMANDS["no UTF-8"] else run_forked)
        assert ended.status == 0, ended.err
