"""Whole literals through the command line: set, read back, expected; refused in one sentence with nothing changed."""

from __future__ import annotations

import pytest
from literals import examples

from quantctl.spec import canonical
from quantctl.tree.selectors import SELECTORS, locate, rewrite
from quantctl.tree.source import source_of


@pytest.fixture(scope="module")
def patched(tmp_path_factory, quantctl, megatron_tree):
    """A stock tree with literals set, and what was set."""
    import shutil

    tree = tmp_path_factory.mktemp("literals") / "megatron"
    shutil.copytree(megatron_tree("0.16.1"), tree)
    last = {example.site: example.literal for example in examples()}
    words = [word for site, text in last.items() for word in (f"--{site.replace('_', '-')}", text)]
    done = quantctl("--megatron", tree, "set", *words)
    assert done.status == 0, done.err
    return tree, last


def test_set_and_expected(patched, quantctl):
    tree, said = patched
    expected = ", ".join(f"{site}={text}" for site, text in said.items())
    done = quantctl("--megatron", tree, "check", "--expect", expected)
    assert done.status == 0, done.err
    assert all(canonical(text, site) in done.out for site, text in said.items())
    other = quantctl("--megatron", tree, "check", "--expect", "linear=mxfp4; layers 1: none qk=none")
    assert other.status == 1


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.literal)
def test_each_is_one_string_of_the_source(patched, example):
    tree, _ = patched
    source = source_of((tree / SELECTORS[example.site].file).read_bytes(), SELECTORS[example.site].file)
    after = rewrite(source, {example.site: example.literal})
    line = f"custom_quant_type_{example.site} = '{canonical(example.literal, example.site)}'"
    assert line.encode() in after.splitlines()
    assert locate(source_of(after, source.name))[example.site].value == canonical(example.literal, example.site)


REFUSED = {
    "mxfp8:input.round=away,fprop.round=stochastic": "input.round=away and fprop.round=stochastic",
    "mxfp8:weigth.round=away": "unknown scope 'weigth'",
    "mxfp8:query.round=away": "unknown scope 'query'",
    "none:gradient.round=stochastic": "gradient.round=stochastic says nothing",
    "none; layers 1: round=stochastic": "`layers 1: round=stochastic` says nothing",
    "mxfp4; layers 1-2: elem=e5m2": "`layers 1-2: elem=e5m2` where mxfp4 holds",
    "mxfp4; none": "'none' is no rule",
    "mxfp4; : none": "a rule without a condition",
    "mxfp4; layers 2-1: none": "2-1 begins behind its end",
    "mxfp4; layers 0: none": "'0' names no layers",
    "mxfp4; layer 3: none": "no module is called 3 and layer",
    "mxfp4; from 0: none": "from 0 is no step",
    "mxfp4; until 101%: none": "101% is more than all",
    "mxfp4; from now: none": "from now is no step",
    "mxfp4; linear_fc2: mxpf8": "unknown format 'mxpf8'",
    "mxfp4; linéar: none": "'linéar' is no condition",
    "mxfp4" + "; layers 1: none" * 300: "4,805 characters",
    "mxfp4" + ";" * 3900: "'' is no rule",
    "mxfp4; " + "*" * 3900 + ": none": "",
    "mxfp4; layers " + "1," * 1900 + "1: none": "",
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.items(), ids=range(len(REFUSED)))
def test_refused_with_nothing_changed(patched, called, text, reason):
    tree, _ = patched
    file = tree / SELECTORS["linear"].file
    before = file.read_bytes()
    done = called("--megatron", tree, "set", "--linear", text, "--check")
    assert done.status == (2 if reason else 1), done.err
    assert reason in done.err
    assert done.err.startswith("quantctl: ") or not reason
    assert len(done.err) < 600
    assert file.read_bytes() == before
