"""One parser for modes, selectors and lists of them."""

from __future__ import annotations

import doctest

import pytest

from quantctl import modes
from quantctl.errors import QuantctlError, near, unknown
from quantctl.modes import MODES, ROLES, all_choices, canonical_value, choices, file_name, same_value, selection
from quantctl.tree.selectors import SELECTORS

LISTS = {
    "bf16": ["bf16"],
    "bf16,FA_mxfp8": ["bf16", "FA_mxfp8"],
    " bf16, FA_mxfp8 ": ["bf16", "FA_mxfp8"],
    "linear=mxfp8": ["linear=mxfp8"],
    "linear=mxfp8 qk=mxfp4": ["linear=mxfp8 qk=mxfp4"],
    "linear=mxfp8,qk=mxfp4": ["linear=mxfp8 qk=mxfp4"],
    "linear=mxfp8:scale=floor,round=away,qk=mxfp4": ["linear=mxfp8:scale=floor,round=away qk=mxfp4"],
    "bf16,lm-head=mxfp8 attention=fused,mxfp4": ["bf16", "lm_head=mxfp8 attention=fused", "mxfp4"],
}


@pytest.mark.parametrize("text", LISTS)
def test_a_list(text):
    assert choices(text) == LISTS[text]
    assert all_choices([text, text]) == LISTS[text]


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_means_its_selectors(mode):
    assert selection(mode) == MODES[mode]


@pytest.mark.parametrize("text", ["linear=mxfp8:scale=rceil qk=bf16", "linear=mxfp8:scale=rceil,qk=bf16"])
def test_selectors_are_canonical(text):
    assert selection(text) == {"linear": "mxfp8", "qk": "none"}


def test_the_roles_are_those_of_the_selectors():
    assert tuple(SELECTORS) == ROLES
    for role, selector in SELECTORS.items():
        assert canonical_value(role, selector.default) == selector.default == selector.canonical(selector.default)


def test_the_module_says_what_it_does():
    assert doctest.testmod(modes).failed == 0


def test_a_mode_as_part_of_a_path():
    assert file_name("linear=mxfp8:scale=floor qk=mxfp4") == "linear-mxfp8_scale-floor_qk-mxfp4"


NEAR = {
    "mxpf8": ["mxfp8"],
    "FA_linear_mxpf8": ["FA_linear_mxfp8"],
    "fa-linear-hifp8": ["FA_linear_hifp8"],
    "xyz": [],
    "": [],
}


@pytest.mark.parametrize("word", NEAR)
def test_what_may_have_been_meant(word):
    assert near(word, MODES) == NEAR[word]


def test_a_wrong_word_is_repeated_on_one_line_and_not_without_end():
    assert unknown("mode", "a\nb\x1b[31m" + "c" * 1000, ["bf16"]).message.startswith(r"unknown mode 'a\nb\x1b[31mc")
    assert len(unknown("mode", "c" * 1000, ["bf16"]).message) < 100


def test_21_names_stand_on_no_line():
    with pytest.raises(QuantctlError) as refused:
        selection("nothing")
    assert len(str(refused.value.hint)) < 120


def test_values_of_one_meaning():
    assert same_value("linear", "mxfp8:dgrad.format=mxfp4,wgrad.format=mxfp4", "mxfp4:fprop.format=mxfp8")
    assert same_value(
        "linear", "mxfp4; layers 1: mxfp8:wgrad.format=none", "mxfp4; layers 1: mxfp8:wgrad.bwd=high_precision"
    )
    assert not same_value("linear", "mxfp8; layers 1: none", "mxfp8; layers 2: none")
    assert not same_value("linear", "mxfp8; layers 1: none", "int8.2")
    assert not same_value("attention", "fused", "auto")
