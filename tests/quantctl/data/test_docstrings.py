"""The larger corpus: documentation in the sources of packages."""

from __future__ import annotations

import json

import pytest

from quantctl.data import docstrings
from quantctl.errors import QuantctlError

LONG = "Words about a function. " * 10


def test_documentation_becomes_documents(tmp_path, monkeypatch):
    package = tmp_path / "documented"
    package.mkdir()
    (package / "__init__.py").write_text(f'"""{LONG}"""\nclass A:\n    """Too short."""\n')
    (package / "b.py").write_text(f'def f():\n    """{LONG}"""\ndef g():\n    """{LONG}Second: caf\u00e9."""\n')
    (package / "bad.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = list(docstrings.documents(["documented"]))
    assert found == [
        {"text": LONG, "source": "documented/__init__.py"},
        {"text": f"{LONG}Second: caf\u00e9.", "source": "documented/b.py"},
    ]
    monkeypatch.setattr(docstrings, "documents", lambda: found)
    docstrings.main(["--lines", str(tmp_path / "lines.jsonl")])
    assert [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()] == found


def test_a_package_that_is_absent_is_named():
    with pytest.raises(QuantctlError, match="nowhere is not installed"):
        list(docstrings.documents(["nowhere"]))
