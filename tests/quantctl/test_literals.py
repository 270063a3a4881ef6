"""Literals: those of the documentation, and random ones against a second reading of it."""

from __future__ import annotations

from contextlib import suppress
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from literals import examples
from random_literals import SHARES, is_literal, model, operands, right, rounded, spec, spec_at, text

from quantctl.errors import QuantctlError
from quantctl.modes import ROLES, choices, file_name, selection
from quantctl.spec import SITES, canonical, literal, products, resolve
from quantctl.spec.conditions import Phase, Range

quick = settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
seeds = st.integers(0, 2**32)
"""What is made of a number is made in a hundredth of the time of what hypothesis draws piece by piece."""


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.literal)
def test_what_is_documented(example):
    text = canonical(example.literal, example.site)
    assert canonical(text, example.site) == text
    assert selection(f"{example.site}={example.literal}") == {example.site: text}


def test_twenty_are_documented():
    assert len({canonical(example.literal, example.site) for example in examples()}) >= 20


def _meaning(text: str, site: str) -> dict[tuple[str, str], tuple[object, ...]]:
    return {
        slot: (one.spec.format, tuple(sorted(one.spec.options().items())), one.source)
        for slot, one in products(text, site).items()
    }


@quick
@given(seeds)
def test_the_narrower_scope_wins(seed):
    random = Random(seed)
    site = random.choice(SITES)
    for said in filter(lambda said: is_literal(said, site), (spec(random, site) for _ in range(8))):
        assert _meaning(said, site) == operands(said, site)


@quick
@given(seeds)
def test_one_form(seed):
    random = Random(seed)
    site = random.choice(SITES)
    said = right(random, site)
    one = canonical(said, site)
    assert canonical(one, site) == one
    assert literal(one, site) == literal(said, site)
    assert products(said.partition(";")[0], site) == products(literal(one, site).base, site)


@quick
@given(seeds)
def test_resolved_as_one_rule_after_another(seed):
    random = Random(seed)
    site = random.choice(SITES)
    said, steps, (modules, layers) = right(random, site), random.randint(1, 8), model(random)
    try:
        found = resolve(said, site, modules, layers=layers, steps=steps)
    except QuantctlError:
        return
    for module in random.sample(modules, min(5, len(modules))):
        schedule = found.schedules[module.name]
        for step in range(1, steps + 1):
            for training in (True, False):
                now = schedule.at(step, training=training)
                assert _meaning(now, site) == spec_at(said, site, module, layers, step, steps, not training), said


@quick
@given(seeds)
def test_modes_give_literals_back(seed):
    random = Random(seed)
    chosen = random.sample(SITES, random.randint(1, 3))
    said = {site: right(random, site) for site in chosen}
    wanted = {site: canonical(text, site) for site, text in said.items()}
    one = " ".join(f"{site}={text}" for site, text in wanted.items())
    assert selection(one) == wanted
    assert selection(random.choice([" ", ",", ", "]).join(f"{site}={text}" for site, text in said.items())) == wanted
    several = [one, "FA_mxfp8", f"qk={canonical(right(random, 'qk'), 'qk')}", "bf16"]
    assert choices(", ".join(several)) == several
    names = {file_name(choice) for choice in several}
    assert len(names) == len(set(several))
    assert max(map(len, names)) <= 80


@quick
@given(seeds)
def test_wrong_ones_are_refused_in_a_sentence(seed):
    random = Random(seed)
    site = random.choice(SITES)
    refusals = []
    for _ in range(5):
        try:
            canonical(text(random, site), site)
        except QuantctlError as error:
            refusals.append(error.message)
    assert not any("\n" in message or len(message) > 400 for message in refusals)


@quick
@given(st.text(alphabet=":;,.=*%[]!- \tlayers12fromevaluxp48", max_size=60), st.sampled_from(ROLES))
def test_any_text_is_a_literal_or_refused(text, role):
    for read in (lambda: canonical(text, role if role in SITES else "linear"), lambda: selection(f"{role}={text}")):
        with suppress(QuantctlError):
            read()


@pytest.mark.parametrize("share", SHARES)
def test_a_share_parts_layers_and_steps(share):
    for whole in (1, 2, 3, 4, 7, 12, 20, 61, 80):
        first = [*range(1, rounded(share, whole) + 1)]
        rest = [*range(len(first) + 1, whole + 1)]
        assert [*Range("", share).numbers(whole)] == [
            step for step in first if step in Phase("until", share).steps(whole)
        ]
        assert [*Range(share, "").numbers(whole)] == [
            step for step in rest if step in Phase("from", share).steps(whole)
        ]
        assert Phase("until", share).steps(whole).stop == Phase("from", share).steps(whole).start == len(first) + 1
