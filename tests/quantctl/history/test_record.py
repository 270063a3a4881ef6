"""Records hold any bytes, and those of quantctl 0.1 are still read."""

from __future__ import annotations

import json
import os

import pytest

from quantctl.errors import QuantctlError
from quantctl.history.record import FileRecord, FileState, Operation, data_of_commit, decode, encode, message

STATE = FileState("0" * 40, 0o644)
RECORDS = (FileRecord("a.py", STATE, STATE, STATE, ("1" * 40, "2" * 40)), FileRecord("b.py", STATE, STATE, None))


@pytest.mark.parametrize("command", ["x\x1ey", "x\nquantctl-operation: {}", os.fsdecode(b"\xff"), "\x00", "U+\u2028"])
def test_a_command_of_any_bytes(command):
    operation = Operation("1" * 40, 7, "set", command, {"qk": "mxfp8"}, RECORDS, "0.16.1", "0.1.0")
    assert decode("1" * 40, 7, encode(operation)) == operation
    assert message(operation).isascii() or message(operation).encode()


def test_a_record_of_the_version_before():
    data = {"kind": "set", "command": "x", "selectors": {}, "files": [], "megatron": "1", "quantctl": "0.1.0"}
    line = f"quantctl-operation: {json.dumps(data | {'target': ''})}"
    commit = f"tree 0\nauthor x\n\nx\nquantctl-operation: {{}}\x1e\n\nno selectors\n\n{line}\n"
    assert decode("1" * 40, 7, data_of_commit(commit.encode())).kind == "set"
    with pytest.raises(QuantctlError, match="holds no operation"):
        decode("1" * 40, 7, data_of_commit(b"tree 0\n\nhello\n"))
