"""The resolved table says of each module what its schedule does: folded to read and for JSON, none lost or doubled."""

from __future__ import annotations

import doctest
import re

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from quantctl.errors import QuantctlError
from quantctl.spec import Module, names, outline, products, table
from quantctl.spec.names import fold, unfold
from quantctl.spec.outline import Outline, by_site, resolved

quick = settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("module", [names, outline])
def test_examples_in_docstrings(module):
    assert doctest.testmod(module).failed == 0


@quick
@given(
    st.sets(st.lists(st.sampled_from(["layers", "0", "1", "2", "12", "fc", "*"]), min_size=1, max_size=5).map(".".join))
)
def test_folded_names_unfold_to_themselves(found):
    folded = fold(found)
    assert sorted(unfold(folded)) == sorted(found)


@st.composite
def models(draw) -> Outline:
    layers, experts, depths = draw(st.integers(1, 5)), draw(st.integers(0, 3)), draw(st.integers(0, 2))
    dense = draw(st.integers(0, layers))
    fronts = [(f"decoder.layers.{number - 1}.", number) for number in range(1, layers + 1)]
    linear, attention = [], []
    for front, number in (*fronts, *((f"mtp.layers.{depth}.inner.", None) for depth in range(depths))):
        parts = ["self_attention.linear_qkv", "self_attention.linear_proj"]
        if number is not None and number <= dense:
            parts += ["mlp.linear_fc1", "mlp.linear_fc2"]
        else:
            parts += [f"mlp.experts.local_experts.{expert}.linear_fc1" for expert in range(experts)]
        linear += [Module(front + part, number) for part in parts]
        attention.append(Module(f"{front}self_attention.core_attention", number))
    head = (Module("output_layer", None),)
    return Outline(layers, {"linear": tuple(linear), "lm_head": head, "qk": tuple(attention), "pv": tuple(attention)})


SPECS = st.sampled_from(
    ["none", "mxfp8", "mxfp4:gradient.round=stochastic", "mxfp8:wgrad.format=none", "hifp8:bwd=dequantized"]
)
SAYS = SPECS | st.just("fprop.format=none")
WHERE = st.sampled_from(
    ["layers 1", "layers -1", "layers 50%..", "linear_proj", "self_attention.*", "experts", "mtp", "local_experts.0.*"]
)
WHEN = st.sampled_from(["", "", " from 3", " until 50%", " evaluation"])
RULES = st.lists(st.builds(lambda where, when, says: f"; {where}{when}: {says}", WHERE, WHEN, SAYS), max_size=3)


@quick
@given(models(), st.builds(lambda base, rules: base + "".join(rules), SPECS, RULES))
def test_the_table_says_of_each_module_what_its_schedule_does(model, text):
    selectors = {"linear": text, "qk": "mxfp8"}
    try:
        found = by_site(selectors, model, 10)
    except QuantctlError:
        assume(False)  # a rule that fits nothing
    said = resolved(selectors, model, 10)
    document = table.document(found, model, 10)
    for site, rows in document["sites"].items():
        told = {name: row["schedule"] for row in rows for name in unfold(row["modules"])}
        assert told == {name: sites[site] for name, sites in said.items() if site in sites}
        assert len(told) == sum(len(unfold(row["modules"])) for row in rows)
        for row in rows:
            for span in (*row["training"], *row["evaluation"]):
                for (product, operand), one in products(span["spec"], site).items():
                    assert span["products"][product][operand]["source"] == one.source
                    assert span["products"][product][operand]["format"].partition(":")[0] == one.spec.format
    assert re.findall(r"^\w+", "\n".join(table.lines(found, model)), re.MULTILINE) == ["linear", "qk"]


@quick
@given(models(), st.data())
def test_places_in_words_mean_the_modules_that_they_were_made_of(model, data):
    modules = model.modules["linear"]
    group = data.draw(st.lists(st.sampled_from(modules), min_size=1, unique=True))
    said = table.places(group, modules)
    if said[0].startswith("all "):
        assert len(group) == len(modules)
        return
    meant = {module for place in said for module in modules if _means(place, module, modules)}
    assert meant == set(group)


def _means(place: str, module: Module, modules: tuple[Module, ...]) -> bool:
    """The words, read again: `layers 1-2,4 self_attention.*, mlp.linear_fc1`, `mtp`, or names alone."""
    if len(modules) == 1:
        return place == module.name
    head, _, rest = place.partition(" ")
    numbers = ""
    if rest and rest[0].isdecimal():
        numbers, _, rest = rest.partition(" ")
    own = table._place(module)
    if own[0] != head or (numbers and str(own[1]) not in unfold([numbers])):
        return False
    if not rest:
        return True
    patterns = [re.escape(name).replace(r"\*", ".*") for written in rest.split(", ") for name in unfold([written])]
    return any(re.fullmatch(pattern, module.within) for pattern in patterns)
