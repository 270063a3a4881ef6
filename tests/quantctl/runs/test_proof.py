"""What the ranks counted, held against the selectors."""

from __future__ import annotations

import json

import pytest

from quantctl.runs import modules, proof

NONE = dict.fromkeys(("linear", "lm_head", "qk", "pv"), "none")
CALLS = {"fprop": 4, "dgrad": 4, "wgrad": 4}


def write(run_dir, ranks: list[dict], imported: bool = True) -> None:
    proof.clear(run_dir)
    for rank, calls in enumerate(ranks):
        if imported:
            (run_dir / "proof" / f"import-{rank}-1.json").write_text(json.dumps({"rank": rank, "pid": 1}))
        (run_dir / "proof" / f"rank{rank}-1.json").write_text(json.dumps({"rank": rank, "pid": 1, "calls": calls}))


CASES = {
    "as asked": ({"linear": "mxfp8"}, [{"linear": {"mxfp8": CALLS}}], ()),
    "other spelling of the same": ({"linear": "mxfp8:scale=rceil"}, [{"linear": {"mxfp8": CALLS}}], ()),
    "nothing asked, nothing run": ({}, [{}], ()),
    "asked and not run": ({"linear": "mxfp8"}, [{}], ("linear should have run in mxfp8",)),
    "another format ran": (
        {"qk": "mxfp8"},
        [{"qk": {"mxfp4": CALLS}}],
        ("qk should have run in mxfp8", "qk ran in mxfp4, but its selector says mxfp8"),
    ),
    "run and not asked": ({}, [{"pv": {"hifp8": CALLS}}], ("pv ran in hifp8, but its selector says none",)),
    "attention fused where it could be": (
        {"attention": "auto"},
        [{"attention": {"unfused": {"a sliding window": 4}}}],
        (),
    ),
    "attention fused as asked": ({"attention": "fused"}, [{"attention": {"fused": {"torch sdpa": 4}}}], ()),
    "attention never fused": ({"attention": "fused"}, [{}], ("attention should have run fused",)),
    "one rank in another format": (
        {"linear": "mxfp8"},
        [{"linear": {"mxfp8": CALLS}}, {"linear": {"mxfp4": CALLS}}],
        ("linear ran in mxfp4, but its selector says mxfp8",),
    ),
}


@pytest.mark.parametrize(("selectors", "ranks", "problems"), CASES.values(), ids=CASES)
def test_judged(tmp_path, selectors, ranks, problems):
    write(tmp_path, ranks)
    verdict = proof.merge(tmp_path, NONE | selectors)
    assert verdict.ok == (not problems)
    assert len(verdict.problems) == len(problems)
    assert all(found.startswith(expected) for found, expected in zip(verdict.problems, problems, strict=True))
    assert json.loads((tmp_path / "proof.json").read_text())["ok"] == verdict.ok


def test_ranks_are_summed(tmp_path):
    write(tmp_path, [{"linear": {"mxfp8": CALLS}}] * 3)
    verdict = proof.merge(tmp_path, NONE | {"linear": "mxfp8"})
    assert verdict.calls == {"linear": {"mxfp8": dict.fromkeys(CALLS, 12)}}
    assert verdict.ranks == [0, 1, 2]


def test_how_attention_ran_is_told_beside_the_formats(tmp_path):
    ran = {"fused": {"torch sdpa": 3}, "unfused": {"a sliding window": 1}}
    write(tmp_path, [{"attention": ran}])
    shown = proof.lines(proof.merge(tmp_path, NONE | {"attention": "auto"}))
    assert shown == [
        "attention fused: torch sdpa 3",
        "attention unfused: a sliding window 1",
        "no quantized product was called",
    ]


def test_nobody_imported_the_staged_tree(tmp_path):
    write(tmp_path, [{}], imported=False)
    assert not proof.merge(tmp_path, NONE).ok


def test_a_forks_own_selector_is_said_to_be_unprovable(tmp_path):
    write(tmp_path, [{"qk": {"mxfp8": CALLS}}])
    verdict = proof.merge(tmp_path, NONE | {"linear": "fork-format", "qk": "mxfp8"}, ["linear"])
    assert verdict.ok
    assert "linear: not provable, a fork's own selector decides it" in proof.lines(verdict)


BYPASSED = {"modules": 4, "ran": 3, "bypassed": ["decoder.layers.0.mlp.linear_fc2"]}


@pytest.mark.parametrize(("linear", "ok"), [("mxfp8", False), ("none", True)])
def test_modules_that_ran_past_their_selector(tmp_path, linear, ok):
    write(tmp_path, [{"linear": {"mxfp8": CALLS}} if linear == "mxfp8" else {}] * 2)
    file = tmp_path / "proof" / "rank1-1.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"modules": {"linear": BYPASSED}}))
    verdict = proof.merge(tmp_path, NONE | {"linear": linear})
    assert verdict.ok == ok
    assert verdict.modules == {"linear": {"modules": 4, "ran": 3, "quantized": 2}}
    assert ok or verdict.problems == [
        "linear says mxfp8, but 1 of 3 modules went another way: decoder.layers.0.mlp.linear_fc2"
    ]


FAILED = {
    "before its first product": ([], "the command ended with exit status 1 before any product was counted"),
    "before a product of this site": (
        [{"qk": {"mxfp8": CALLS}}],
        "linear should have run in mxfp8, but no such product was called; the command ended with exit status 1 before",
    ),
}


@pytest.mark.parametrize(("ranks", "reason"), FAILED.values(), ids=FAILED)
def test_a_run_that_failed_has_one_reason(tmp_path, ranks, reason):
    """Transformer Engine's layers are not it."""
    write(tmp_path, ranks)
    verdict = proof.merge(tmp_path, NONE | {"linear": "mxfp8", "qk": "mxfp8"}, status=1)
    assert verdict.problems == [reason]


RULES = "mxfp8; layers 1: none; from 4: fprop.format=none"
FC, LATE = "decoder.layers.0.mlp.linear_fc1", "mxfp8; from 4: mxfp8:fprop.format=none"
AT_FIRST, BEHIND = {"mxfp8": CALLS}, {"mxfp8:fprop.format=none": CALLS}


def by_module(first: dict, second: dict) -> dict:
    return {
        FC: {"linear": {"says": "none", "calls": first}},
        FC.replace("0", "1"): {"linear": {"says": LATE, "calls": second}},
    }


MODULES = {
    "as its own literal says": ({"none": {"fprop": 4}}, AT_FIRST | BEHIND, ()),
    "stopped before a phase": ({"none": {"fprop": 4}}, AT_FIRST, ()),
    "another module's spec": (
        {"mxfp8": CALLS},
        AT_FIRST,
        ("decoder.layers.0.mlp.linear_fc1: linear ran in mxfp8, and its selector says none",),
    ),
    "not at all": (
        {"none": {"fprop": 4}},
        {},
        (
            f"linear should have run in {RULES}, but no such product was called",
            f"decoder.layers.1.mlp.linear_fc1: linear should have run in {LATE}, and no such product was called",
        ),
    ),
}


@pytest.mark.parametrize(("first", "second", "problems"), MODULES.values(), ids=MODULES)
def test_judged_by_module(tmp_path, first, second, problems):
    proof.clear(tmp_path)
    calls = {spec: products for spec, products in second.items() if spec != "none"}
    record = {"rank": 0, "pid": 1, "calls": {"linear": calls} if calls else {}, "by_module": by_module(first, second)}
    (tmp_path / "proof" / "import-0-1.json").write_text(json.dumps({"rank": 0}))
    (tmp_path / "proof" / "rank0-1.json").write_text(json.dumps(record))
    verdict = proof.merge(tmp_path, NONE | {"linear": RULES})
    assert len(verdict.problems) == len(problems), verdict.problems
    assert all(found.startswith(expected) for found, expected in zip(verdict.problems, problems, strict=True))


FORESEEN = {
    "the same": ({FC: "none", FC.replace("0", "1"): LATE}, ()),
    "another literal": (
        {FC: "mxfp4", FC.replace("0", "1"): LATE},
        (f"{FC}: linear was to run in mxfp4, and the ranks' model says none",),
    ),
    "a module that is not there": (
        {FC: "none", FC.replace("0", "1"): LATE, FC.replace("0", "2"): LATE},
        ("the flags ask for decoder.layers.2.mlp.linear_fc1, which the ranks' model does not have",),
    ),
    "a module that nobody knew": ({FC: "none"}, ()),
    "another model": ({"encoder.layers.0.mlp.linear_fc1": "mxfp4"}, ()),
}


@pytest.mark.parametrize(("before", "problems"), FORESEEN.values(), ids=FORESEEN)
def test_held_against_what_was_foreseen(before, problems):
    foreseen = {name: {"linear": text} for name, text in before.items()}
    found = by_module({"none": {"fprop": 4}}, AT_FIRST)
    assert tuple(modules.unforeseen(foreseen, found, NONE | {"linear": RULES})) == problems


def test_experts_are_foreseen_one_by_one_and_counted_together():
    expert = "decoder.layers.1.mlp.experts.local_experts.{}.linear_fc1"
    found = {expert.format("*"): {"linear": {"says": "mxfp8", "calls": AT_FIRST}}}
    foreseen = {expert.format(number): {"linear": "mxfp8"} for number in range(3)}
    assert modules.unforeseen(foreseen, found, NONE | {"linear": "mxfp8"}) == []
