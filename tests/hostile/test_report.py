"""`quantctl report` on damaged, absurd and hostile runs: each is one row with its reason, and the others stand."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from hostile import assert_civil, run

from quantctl.modes import mode_selectors
from quantctl.report.run import Trouble

LINE = (
    " [2026-11-21 00:28:37] iteration {:8d}/      40 | consumed samples:           8 | "
    "elapsed time per iteration (ms): 100.0 | global batch size:     8 | lm loss: {:.6E} | "
    "number of skipped iterations:   0 | number of nan iterations:   0 |\n"
)
CURVE = {10: 7.0, 20: 6.0, 30: 5.0, 40: 4.0}
DEEP = '{"a":' * 100_000
DIGITS = "9" * 5000


def log(losses=CURVE, more=""):
    return "".join(LINE.format(*point) for point in losses.items()) + more


def manifest(mode="FA_mxfp4", seed=1, **changed):
    attempt = {"command": ["python", "-m", "quantctl.pretrain", "--seed", str(seed), "--seq-length", "128"]}
    attempt |= {"megatron_core": "0.16.1", "code": "1111", "packages": {"torch": "2.13.0"}, "exit_status": 0} | changed
    return {"selectors": mode_selectors(mode), "attempts": [attempt]}


def proof(**changed):
    return {"ok": True, "problems": [], "calls": {"qk": {"mxfp4": {"fprop": 10}}}} | changed


def record(**changed):
    row = {"iteration": 10, "site": "qk", "layer": 1, "module": "core", "product": "fprop", "operand": "query"}
    return row | {"spec": "mxfp4", "underflow": 0.1, "saturated": 0.0, "sqnr": 18.5} | changed


def put(folder: Path, name: str, content) -> None:
    """Bytes or text as they are, anything else as JSON."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(content)


def make(folder: Path, **files) -> Path:
    """A good run directory with some files replaced: manifest=..., log=..., proof=..., stats=..., or absent (None)."""
    names = {"manifest": "manifest.json", "log": "log.txt", "proof": "proof.json", "stats": "stats/rank0.jsonl"}
    folder.mkdir()
    for key, content in ({"manifest": manifest(), "log": log(), "proof": proof()} | files).items():
        if content is not None:
            put(folder, names[key], content)
    return folder


def with_attempt(**changed):
    return {"manifest": manifest(**changed)}


def swapped(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


WHOLE = json.dumps(manifest())
BAD = {  # name -> files, the reason
    "deep": ({"manifest": DEEP}, "manifest.json: it is nested too deeply"),
    "deep-value": ({"manifest": swapped(WHOLE, '"1111"', "[" * 100_000)}, "it is nested too deeply"),
    "empty": ({"manifest": ""}, "manifest.json: it is no JSON"),
    "cut": ({"manifest": WHOLE[:-20]}, "manifest.json: it is no JSON (line 1"),
    "list": ({"manifest": "[]"}, "manifest.json: it is a list, not an object"),
    "null": ({"manifest": "null"}, "manifest.json: it is null, not an object"),
    "nan": ({"manifest": "NaN"}, "manifest.json: it is a number, not an object"),
    "latin": ({"manifest": '{"selectors": "é"}'.encode("latin-1")}, "manifest.json: it is no UTF-8"),
    "nul-bytes": ({"manifest": b"\0" * 1000}, "manifest.json: it is no JSON"),
    "huge-manifest": ({"manifest": b" " * (17 * 2**20)}, "manifest.json: it has 17,825,792 bytes"),
    "no-attempts": ({"manifest": {"selectors": {}, "attempts": []}}, "manifest.json: it names no command"),
    "attempts-object": ({"manifest": {"selectors": {}, "attempts": {}}}, "attempts is an object, not a list"),
    "attempt-number": ({"manifest": {"selectors": {}, "attempts": [3]}}, "attempts[0] is a number, not an object"),
    "selectors-list": ({"manifest": manifest() | {"selectors": []}}, "selectors is a list, not an object"),
    "selector-number": ({"manifest": manifest() | {"selectors": {"qk": 4}}}, "selectors.qk is a number, not printable"),
    "selector-nul": ({"manifest": manifest() | {"selectors": {"qk": "mx\0"}}}, "selectors.qk is text, not printable"),
    "selector-newline": ({"manifest": manifest() | {"selectors": {"q\nk": "none"}}}, "a name in selectors is text"),
    "selector-surrogate": (
        {"manifest": swapped(WHOLE, '"qk": "mxfp4"', '"qk": "\\ud800"')},
        "selectors.qk is text, not printable",
    ),
    "selector-endless": ({"manifest": manifest() | {"selectors": {"qk": "x" * 10**6}}}, "selectors.qk is text"),
    "command-text": (with_attempt(command="python"), "attempts[0].command is text, not a list"),
    "command-numbers": (with_attempt(command=["python", 3]), "attempts[0].command[1] is a number, not text"),
    "command-null": (with_attempt(command=None), "it names no command (1 attempts)"),
    "packages-list": (with_attempt(packages=[1]), "attempts[0].packages is a list, not an object"),
    "package-object": (with_attempt(packages={"torch": {}}), "packages.torch is an object, not printable"),
    "status-text": (with_attempt(exit_status="0"), "attempts[0].exit_status is text, not a whole number"),
    "status-true": (with_attempt(exit_status=True), "exit_status is true or false, not a whole number"),
    "status-1e308": (with_attempt(exit_status=1e308), "exit_status is a number, not a whole number"),
    "status-10^400": (with_attempt(exit_status=10**400), "exit_status is a number, not a whole number"),
    "status-digits": (
        {"manifest": swapped(WHOLE, '"exit_status": 0', f'"exit_status": {DIGITS}')},
        "manifest.json: it holds a number of thousands of digits",
    ),
    "code-number": (with_attempt(code=7), "attempts[0].code is a number, not printable"),
    "version-list": (with_attempt(megatron_core=["0.16"]), "megatron_core is a list, not printable"),
    "finished-text": (with_attempt(finished="yes"), "attempts[0].finished is text, not true or false"),
    "seed-digits": ({"manifest": manifest(seed=DIGITS)}, "nothing to compare with: no bf16 run with no known seed"),
    "seed-squared": (
        {"manifest": manifest(seed="²")},
        "another experiment: a second run of FA_mxfp4 with no known seed",
    ),
    "proof-deep": ({"proof": DEEP}, "formats not proven: proof.json: it is nested too deeply"),
    "proof-list": ({"proof": []}, "formats not proven: proof.json: it is a list, not an object"),
    "proof-calls": ({"proof": proof(calls=[])}, "proof.json: calls is a list, not an object"),
    "proof-count": ({"proof": proof(calls={"qk": {"mxfp4": {"fprop": "9"}}})}, "calls.qk.mxfp4.fprop is text"),
    "proof-negative": ({"proof": proof(calls={"qk": {"mxfp4": {"fprop": -1}}})}, "fprop is a number, not a count"),
    "proof-10^400": ({"proof": proof(calls={"qk": {"mxfp4": {"fprop": 10**400}}})}, "fprop is a number, not a count"),
    "proof-problems": ({"proof": proof(ok=False, problems=[{}])}, "proof.json: problems[0] is an object, not text"),
    "proof-endless": ({"proof": proof(ok=False, problems=["x\n" * 10**6])}, "formats not proven: x\\nx\\n"),
    "stats-deep": ({"stats": DEEP}, "unreadable: statistics, rank0.jsonl: line 1: it is nested too deeply"),
    "stats-rubbish": ({"stats": b"\xff\xfe\0\n" * 99}, "statistics, rank0.jsonl: line 1: it is no UTF-8"),
    "stats-list": ({"stats": "[]\n"}, "rank0.jsonl: line 1: it is a list, not an object"),
    "stats-missing": ({"stats": '{"iteration": 1}\n'}, "rank0.jsonl: line 1: site is missing"),
    "stats-sqnr": ({"stats": record(sqnr="18")}, "line 1: sqnr is text, not a finite number"),
    "stats-1e308": ({"stats": record(underflow=1e308)}, "line 1: underflow is a number, not a finite number"),
    "stats-infinity": ({"stats": record(sqnr=float("inf"))}, "line 1: sqnr is a number, not a finite number"),
    "stats-layer": ({"stats": record(layer="1")}, "line 1: layer is text, not a count"),
    "stats-nul": ({"stats": record(module="m\0")}, "line 1: module is text, not printable"),
    "stats-kinds": (
        {"stats": "\n".join(json.dumps(record(operand=f"o{n}")) for n in range(99))},
        "more than 64 operands and specs of one run",
    ),
    "log-1e308": ({"log": log({10: 1e308, 20: 1e308, 30: 1e308, 40: 1e308})}, "no finite loss at iteration 10"),
    "log-digits": ({"log": swapped(log(), "      10/", f"{DIGITS}/") * 2}, "resumed: iterations were repeated"),
    "log-unicode": ({"log": swapped(log(), "      40/", "      ٤٠/")}, "incomplete: ended at iteration 30 of 40"),
    "log-empty": ({"log": ""}, "incomplete: no iteration was logged"),
    "log-binary": ({"log": bytes(range(256)) * 1000}, "incomplete: no iteration was logged"),
    "log-absent": ({"log": None}, "incomplete: no iteration was logged"),
    "log-skipped": (
        {
            "log": log({10: 7.0, 20: 6.0})
            + log({30: 0.0, 40: 0.0}).replace("skipped iterations:   0", "skipped iterations: 9")
        },
        "incomplete: the loss scaler skipped 2 of the last 2 logged iterations",
    ),
}


def _special(folder: Path) -> dict[str, str]:
    """Run directories whose files are none; name -> reason."""
    reasons = {}
    for name, file in (("manifest", "manifest.json"), ("proof", "proof.json"), ("log", "log.txt")):
        for kind, reason in (
            ("folder", "it is a folder"),
            ("pipe", "it is a pipe"),
            ("socket", "it is a socket"),
            ("loop", "too many levels of symbolic links"),
            ("device", "it is a device"),
        ):
            at = make(folder / f"{name}-{kind}", **{name: None}) / file
            if kind == "folder":
                at.mkdir()
            elif kind == "pipe":
                os.mkfifo(at)
            elif kind == "socket":
                _bind(at)
            else:
                at.symlink_to(at.name if kind == "loop" else "/dev/zero")
            reasons[f"{name}-{kind}"] = f"{file}: {reason}"
    (make(folder / "stats-folder") / "stats" / "rank0.jsonl").mkdir(parents=True)
    os.truncate(make(folder / "log-sparse") / "log.txt", 2**42)
    events = make(folder / "events-rubbish", log="") / "tensorboard"
    put(events, "events.out.tfevents.1.host", b"\x18\0\0\0\0\0\0\0rubbish" * 99)
    (make(folder / "events-folder", log="") / "tensorboard" / "events.out.tfevents.1.host").mkdir(parents=True)
    reasons |= {
        "stats-folder": "statistics, rank0.jsonl: it is a folder",
        "log-sparse": "log.txt: it has 4,398,046,511,104 bytes",
        "events-rubbish": "incomplete: no iteration was logged",
        "events-folder": "events.out.tfevents.1.host: it is a folder",
    }
    return reasons


def _bind(at: Path) -> None:
    """A socket's path is short: it is named from beside it."""
    before = os.getcwd()
    os.chdir(at.parent)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(at.name)
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Every bad run among two good ones: name -> what JSON says of it, the good rows, the rows without the bad ones."""
    base = tmp_path_factory.mktemp("runs")
    make(base / "good-bf16", manifest=manifest("bf16"), proof=proof(calls={}))
    make(base / "good-FA_mxfp4", log=log({k: v + 0.5 for k, v in CURVE.items()}), stats=record())
    alone = run(["--json", "report", base], base)
    reasons = {name: reason for name, (_, reason) in BAD.items()} | _special(base)
    for name, (files, _) in BAD.items():
        make(base / name, **files)
    ended = run(["--json", "report", base], base)
    return reasons, alone, ended


def test_the_whole_report_is_civil(reported):
    _, alone, ended = reported
    assert_civil(alone, 0)
    assert_civil(ended, 0)


def test_the_good_rows_are_as_without_the_bad_ones(reported):
    _, alone, ended = reported
    assert json.loads(ended.out)["modes"] == json.loads(alone.out)["modes"]
    assert [row["mode"] for row in json.loads(alone.out)["modes"]] == ["bf16", "FA_mxfp4"]


SPECIAL = [
    f"{name}-{kind}" for name in ("manifest", "proof", "log") for kind in ("folder", "pipe", "socket", "loop", "device")
]
SPECIAL += ["stats-folder", "log-sparse", "events-rubbish", "events-folder"]


@pytest.mark.parametrize("name", [*BAD, *SPECIAL])
def test_a_bad_run_is_one_marked_row(name, reported):
    reasons, _, ended = reported
    (found,) = [one for one in json.loads(ended.out)["runs"] if Path(one["path"]).name == name]
    marks = [f"{Trouble[mark['trouble'].upper()].value}: {mark['detail']}" for mark in found["marks"]]
    assert any(reasons[name] in mark for mark in marks), marks


NAMES = [b"$\\frac{", b"new\nline", b"\xff\xfe", "\u2028".encode(), b"\x1b[31mred", b"<b>&amp;", b"x" * 250]


def test_names_and_words_reach_the_page_as_they_are(tmp_path):
    """Files with odd names, modes of a fork's own words, and curves that do not fit into a picture."""
    base = tmp_path / "runs"
    base.mkdir()
    make(base / "good", manifest=manifest("bf16"), proof=proof(calls={}))
    for seed, name in enumerate(NAMES):
        make(base / os.fsdecode(name), manifest=manifest("bf16", seed + 2), log=log({2**60: 1e38, 2**61: -1e38}))
    odd = manifest() | {"selectors": mode_selectors("bf16") | {"qk": "$\\frac{<b>"}}
    make(base / "odd", manifest=odd, stats=record(module="$^", spec="$\\alpha", sqnr=-1e99, underflow=1e99))
    ended = run(["report", base, "--output", tmp_path / "out", "--title", "$\\x <"], tmp_path)
    assert_civil(ended, 0)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("qk=$\\frac{&lt;b&gt;") > 2
    assert "<b>qk=$\\frac{&lt;b&gt;</b>" in page


LOGS = {  # what a log alone holds, beside a good curve
    "a bar of 1 MB": "iteration 2/ 40 |" + " lm loss: |" * 90_000,
    "names of 1 MB": "iteration 2/ 40 | " + "a (" * 300_000,
    "a number of 1 MB": "iteration 2/ 40 | lm loss: " + "1" * 10**6 + " |",
    "validations of 1 MB": "validation loss at iteration 1 " * 40_000,
    "one word of 1 MB": "validation" * 100_000,
    "memory of 1 MB": "memory (MB) | max " * 60_000,
    "memory that is no number": "memory (MB) | max allocated: 1.2.3.4 | max resident: ...",
    "prefixes of 1 MB": " [a]" * 250_000 + "  log_interval ....... 3",
    "times of 1 MB": "1:" * 500_000,
    "brackets of 1 MB": "[" * 10**6 + "  lr ......... 3",
    "dashes of 1 MB": " --log-interval" * 60_000,
    "an interval of 5,000 digits": f"--log-interval {DIGITS}",
    "an argument of 5,000 digits": f"  seed ............ {DIGITS}\n  seq_length ...... {DIGITS}",
    "40 MB without a line": "x" * (40 * 2**20),
    "every control character": "".join(map(chr, range(32))) * 9999,
}


def test_logs_are_read_in_the_time_of_their_length(tmp_path):
    for number, text in enumerate(LOGS.values()):
        (tmp_path / f"{number:02}.log").write_text(f"{log()}{text}\n")
    ended = run(["--json", "report", tmp_path], tmp_path)
    assert_civil(ended, 0)
    runs = json.loads(ended.out)["runs"]
    assert len(runs) == len(LOGS)
    assert {(one["iterations"], one["final_loss"]) for one in runs} == {(40, 4.0)}


def test_a_log_of_many_iterations(tmp_path):
    with (tmp_path / "train.log").open("w") as file:
        file.writelines(LINE.format(n, 5 + 1 / n) for n in range(1, 100_001))
    ended = run(["--json", "report", tmp_path / "train.log"], tmp_path)
    assert_civil(ended, 0)
    assert json.loads(ended.out)["runs"][0]["iterations"] == 100_000


ARGUMENTS = {
    "absent": ["absent"],
    "a pipe": ["pipe"],
    "a device": ["/dev/zero"],
    "a name that is too long": ["x" * 5000],
    "no run but bad ones": ["bad"],
    "a reference that is not there": ["good", "--reference", "$\\frac"],
    "a reference of bytes": ["good", "--reference", os.fsdecode(b"\xff\n")],
    "an output that is a file": ["good", "--output", "good/log.txt"],
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_wrong_arguments(case, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    make(tmp_path / "good")
    make(tmp_path / "bad", manifest="")
    assert_civil(run(["report", *ARGUMENTS[case]], tmp_path), 2)
