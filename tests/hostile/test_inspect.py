"""`quantctl inspect` on files that are endless, damaged, cyclic or no tensors: measured, or refused in a sentence."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import sys
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
from hostile import SECONDS, Ended, assert_civil

from quantctl.cli import _run
from quantctl.errors import exit_with

SPEC = ("--spec", "mxfp8")


@pytest.fixture
def inspect(monkeypatch, capsys):
    """`quantctl inspect` in this process, which has imported torch already: every case in a tenth of a second."""

    def ended(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["quantctl", "inspect", *arguments])
        before = resource.getrusage(resource.RUSAGE_SELF)
        # the default action of this signal ends the whole test run: a hang is seen
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        try:
            with pytest.raises(SystemExit) as stop:
                exit_with(_run)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        after = resource.getrusage(resource.RUSAGE_SELF)
        said = capsys.readouterr()
        grown = (after.ru_maxrss - before.ru_maxrss) * 1024
        return Ended(stop.value.code or 0, said.out, said.err, after.ru_utime - before.ru_utime, grown)

    return ended


def nested(depth):
    inner = {"t": torch.ones(4)}
    for _ in range(depth):
        inner = {"d": inner}
    return inner


def cycle():
    one: dict = {"t": torch.ones(4)}
    one["self"] = {"back": one}
    return one


def lattice():
    """Every level names the next one twice."""
    inner = {"t": torch.ones(4)}
    for _ in range(60):
        inner = {"a": inner, "b": inner}
    return inner


class Program:
    def __reduce__(self):
        return os.system, ("touch /tmp/never",)


CONTENT = {  # what is saved -> status, what is said
    "10^12 elements of stride 0": (lambda: torch.ones(1).expand(10**12), 2, "share or repeat their elements"),
    "10^12 in a dict": (lambda: {"a": torch.ones(3), "b": torch.ones(1).expand(10**6, 10**6)}, 2, "share or repeat"),
    "one storage, 10,000 names": (lambda: dict.fromkeys(map(str, range(10**4)), torch.ones(2**16)), 2, "share or"),
    "a few of stride 0": (lambda: torch.ones(1).expand(8, 64), 0, "8x64 float32"),
    "overlapping": (lambda: torch.arange(99.0).as_strided((32, 32), (1, 2)), 0, "32x32 float32"),
    "a dict that holds itself": (cycle, 0, "t 4 float32"),
    "3,000 dicts in each other": (lambda: nested(3000), (0, 2), ""),
    "900 dicts in each other": (lambda: nested(900), (0, 2), ""),
    "2^60 ways to one tensor": (lattice, 0, "t 4 float32"),
    "odd keys": (
        lambda: {0: torch.ones(1), None: torch.ones(1), (1,): torch.ones(1), b"\xff": torch.ones(1)},
        0,
        "0 1 float32",
    ),
    "a key of 5,000 digits": (lambda: {10**5000: torch.ones(1)}, (0, 2), ""),
    "a key that no terminal takes": (lambda: {"\ud800\x1b[31m\n": torch.ones(1)}, (0, 2), ""),
    "a key of 1 MB": (lambda: {"x" * 10**6: torch.ones(1)}, 0, "..."),
    "empty": (lambda: torch.empty(0), 0, "SQNR"),
    "empty along the axis": (lambda: torch.empty(3, 0), 0, "3x0 float32"),
    "empty across": (lambda: torch.empty(0, 2**40), (0, 2), ""),
    "no axis": (lambda: torch.tensor(3.0), 0, "one number float32"),
    "NaN alone": (lambda: torch.full((64,), torch.nan), 0, "SQNR"),
    "infinities": (lambda: torch.tensor([torch.inf, -torch.inf, 0.0]), 0, "SQNR"),
    "subnormals": (lambda: torch.full((64,), 1e-45), 0, "SQNR"),
    "float64 beyond float32": (lambda: torch.full((64,), 1e300, dtype=torch.float64), 0, "float64"),
    "float8": (lambda: torch.ones(64).to(torch.float8_e4m3fn), 0, "float8_e4m3fn"),
    "64 axes": (lambda: torch.ones([1] * 64), (0, 2), ""),
    "negated": (lambda: torch._neg_view(torch.ones(64)), 0, "64 float32"),
    "a parameter": (lambda: torch.nn.Parameter(torch.ones(64)), 0, "64 float32"),
    "integers": (lambda: torch.arange(64), 2, "holds no dense floating-point tensor"),
    "truth": (lambda: torch.ones(64, dtype=torch.bool), 2, "holds no dense floating-point tensor"),
    "complex": (lambda: torch.ones(64, dtype=torch.complex64), 2, "holds no dense floating-point tensor"),
    "sparse": (lambda: torch.eye(8).to_sparse(), 2, ""),
    "compressed rows": (lambda: torch.eye(8).to_sparse_csr(), 2, ""),
    "quantized": (lambda: torch.quantize_per_tensor(torch.ones(8), 0.1, 0, torch.qint8), 2, ""),
    "meta": (lambda: torch.empty(10**12, device="meta"), 2, ""),
    "words": (lambda: {"a": "b", "c": [1, 2]}, 2, "holds no dense floating-point tensor"),
    "a program": (lambda: {"t": torch.ones(4), "p": Program()}, 2, "cannot be read"),
}


@pytest.mark.parametrize("case", CONTENT)
def test_what_was_saved(case, inspect, tmp_path):
    made, status, says = CONTENT[case]
    try:
        torch.save(made(), tmp_path / "x.pt")
    except RecursionError:
        pytest.skip("pickle itself does not save it")
    ended = inspect(str(tmp_path / "x.pt"), *SPEC)
    assert_civil(ended, *(status if isinstance(status, tuple) else (status,)))
    assert says in " ".join((ended.out + ended.err).split())
    assert not Path("/tmp/never").exists()


def whole(path: Path) -> bytes:
    torch.save({"t": torch.ones(4096)}, path)
    return path.read_bytes()


def compressed(path: Path) -> None:
    """100 MB of zeros in 100 KB."""
    torch.save(torch.zeros(25 * 2**20), path)
    with zipfile.ZipFile(path) as old:
        entries = [(entry.filename, old.read(entry)) for entry in old.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in entries:
            new.writestr(name, content)


FILES = {  # how to make it -> what is said
    "absent": (lambda path: None, "no such file or directory"),
    "a folder": (os.mkdir, "it is a folder"),
    "a pipe": (os.mkfifo, "it is a pipe"),
    "a loop": (lambda path: os.symlink(path.name, path), "too many levels of symbolic links"),
    "a device": (lambda path: os.symlink("/dev/zero", path), "it is a device"),
    "nothing": (lambda path: path.touch(), "cannot be read"),
    "half of it": (lambda path: path.write_bytes(whole(path)[:9000]), "cannot be read"),
    "its end alone": (lambda path: path.write_bytes(whole(path)[-900:]), "cannot be read"),
    "flipped bytes": (lambda path: path.write_bytes(whole(path).replace(b"ctorch", b"cposix")), "cannot be read"),
    "compressed": (compressed, "compressed"),
    "a terabyte": (lambda path: path.touch() or os.truncate(path, 2**40), "cannot be read"),
    "an old pickle": (lambda path: path.write_bytes(pickle.dumps({"t": [1.0]}, 2)), "cannot be read"),
    "a pickle without end": (lambda path: path.write_bytes(b"\x80\x02" + b"(" * 10**6), "cannot be read"),
    "lists without end": (lambda path: path.write_bytes(b"\x80\x02" + b"]" * 10**6 + b"a" * 10**6 + b"."), "cannot be"),
    "another zip": (lambda path: zipfile.ZipFile(path, "w").close(), "cannot be read"),
    "text": (lambda path: path.write_text("torch\n" * 999), "cannot be read"),
}


def promising(path: Path) -> None:
    """A header of 10^12 numbers, and none of them."""
    with path.open("wb") as file:
        numpy.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**12,)})


OTHERS = {
    "an array without its numbers": ("x.npy", promising, "cannot be read"),
    "an array of objects": ("x.npy", lambda path: numpy.save(path, numpy.array([Program()])), "cannot be read"),
    "an array of words": ("x.npy", lambda path: numpy.save(path, numpy.array(["a"])), "holds no dense floating-point"),
    "another .npy": ("x.npy", whole, "cannot be read"),
    "another .safetensors": ("x.safetensors", whole, "cannot be read"),
    "a header without end": ("x.safetensors", lambda path: path.write_bytes(b"\xff" * 8 + b"{" * 99), "cannot be read"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_no_such_file_of_another_kind(case, inspect, tmp_path):
    name, make, says = OTHERS[case]
    make(tmp_path / name)
    ended = inspect(str(tmp_path / name), *SPEC)
    assert_civil(ended, 2)
    assert says in ended.err
    assert not Path("/tmp/never").exists()


@pytest.mark.parametrize("case", FILES)
def test_what_is_no_such_file(case, inspect, tmp_path):
    make, says = FILES[case]
    make(tmp_path / "x.pt")
    ended = inspect(str(tmp_path / "x.pt"), *SPEC)
    assert_civil(ended, 2)
    assert says in ended.err


OPTIONS = {
    "an axis of 5,000 digits": ("--axis", "9" * 5000),
    "an axis of another script": ("--axis", "²"),
    "an axis of 10^30": ("--axis", str(10**30)),
    "a spec of bytes": ("--spec", os.fsdecode(b"\xff\x1b")),
    "a spec without end": ("--spec", "mxfp8:" + "scale=floor," * 9999),
    "a key of bytes": ("--key", os.fsdecode(b"\xff\n")),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_wrong_options(case, inspect, tmp_path):
    whole(tmp_path / "x.pt")
    assert_civil(inspect(str(tmp_path / "x.pt"), *SPEC, *OPTIONS[case]), 2)
