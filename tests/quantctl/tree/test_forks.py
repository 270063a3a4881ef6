"""Selectors that forks bring along: found by the product they decide, edited in place, refused where that is unclear.

In the texts below a comment `# linear`, `# qk` or `# pv` behind an assignment says what quantctl must find there, and
`#? ...` gives the reason for which it must refuse; the code under test sees comments as little as the interpreter does.
"""

from __future__ import annotations

import json
import re
from textwrap import dedent, indent

import pytest

from quantctl.errors import QuantctlError
from quantctl.tree.selectors import ATTENTION, LAYERS, fork_of, locate, rewrite
from quantctl.tree.source import Source

CHAIN = """
custom_quant_type = 'mxfp8'  # linear
if custom_quant_type == 'mxfp4':
    output = mxfp_matmul(total_input, weight.t(), 'fp4_e2m1').to(torch.bfloat16)
elif custom_quant_type == 'mxfp8':
    output = mxfp_matmul(total_input, weight.t(), 'fp8_e4m3').to(torch.bfloat16)
elif custom_quant_type == 'hifp8':
    output = hifp_matmul(total_input, weight.t()).to(torch.bfloat16)
else:
    output = torch.matmul(total_input, weight.t())
if bias is not None:
    output = output + bias
return output
"""

BACKWARD = """
from quant.mxfp import mxfp_matmul
custom_quant_type = "mxfp8"  # linear
if custom_quant_type == "mxfp8":
    grad_input = mxfp_matmul(grad_output, weight, "fp8_e5m2")
elif custom_quant_type in ("mxfp4", "hifp8"):
    grad_input = other_matmul(grad_output, weight, fmt=custom_quant_type)
else:
    grad_input = grad_output.matmul(weight)
if ctx.gradient_accumulation_fusion:
    fused_weight_gradient_mlp_cuda.wgrad_gemm_accum_fp32(total_input, grad_output, weight.main_grad)
else:
    custom_quant_type = "mxfp8"  # linear
    if custom_quant_type == "mxfp8":
        grad_weight = mxfp_matmul(grad_output.t(), total_input, "fp8_e5m2")
    elif custom_quant_type in ("mxfp4", "hifp8"):
        grad_weight = other_matmul(grad_output.t(), total_input, fmt=custom_quant_type)
    else:
        grad_weight = grad_output.t().matmul(total_input)
return grad_input, grad_weight
"""

QK = """
custom_quant_type = 'hifp8'  # qk
if custom_quant_type == 'mxfp8':
    matmul_result = mxfp_baddbmm(
        matmul_input_buffer, query.transpose(0, 1), key.transpose(0, 1).transpose(1, 2), beta=0.0
    )
elif custom_quant_type == 'hifp8':
    matmul_result = hifp_baddbmm(matmul_input_buffer, query.transpose(0, 1), key.transpose(0, 1).transpose(1, 2))
else:
    matmul_result = torch.baddbmm(matmul_input_buffer, query, key, beta=0.0, alpha=self.softmax_scale)
attention_scores = matmul_result.view(*output_size)
attention_probs = self.scale_mask_softmax(attention_scores, attention_mask)
"""

PV = """
custom_quant_type = 'mxfp8'  # pv
if custom_quant_type == 'hifp8':
    context = hifp_matmul(attention_probs, value.transpose(0, 1))
elif custom_quant_type == 'mxfp8':
    context = mxfp_matmul(attention_probs, value.transpose(0, 1), 'fp8_e4m3')
else:
    context = torch.bmm(attention_probs, value.transpose(0, 1))
return context.view(*output_size)
"""


def function(*bodies: str, head: str = "def forward(self, ctx, grad_output, query, key, value):") -> str:
    return (
        f"class Layer:\n    {head}\n" + indent("\n".join(dedent(body).strip("\n") for body in bodies), " " * 8) + "\n\n"
    )


FOUND = {
    "a chain in forward": (LAYERS, function(CHAIN)),
    "forward, dgrad and wgrad": (LAYERS, function(CHAIN) + function(BACKWARD, head="def backward(ctx, grad_output):")),
    "beside the stock class": (
        LAYERS,
        function("output = torch.matmul(total_input, weight.t())") + function(CHAIN),
    ),
    "stock product in a branch of its own": (
        LAYERS,
        function("""
            custom_quant_type = 'none'  # linear
            if custom_quant_type == 'none':
                output = torch.matmul(total_input, weight.t())
            elif custom_quant_type == 'mxfp8':
                output = quantized(total_input, weight)
            else:
                raise ValueError(custom_quant_type)
        """),
    ),
    "operands quantized, one product": (
        LAYERS,
        function("""
            custom_quant_type = 'mxfp4'  # linear
            if custom_quant_type != 'none':
                total_input, weight = fake_quant(total_input), fake_quant(weight)
            output = F.linear(total_input, weight)
        """),
    ),
    "handed to the product": (
        LAYERS,
        function("""
            custom_quant_type = 'mxfp4'  # linear
            output = quant_matmul(total_input, weight.t(), custom_quant_type)
        """),
    ),
    "the product chosen first": (
        LAYERS,
        function("""
            custom_quant_type = 'mxfp4'  # linear
            product = mxfp_matmul if custom_quant_type == 'mxfp4' else torch.matmul
            output = product(total_input, weight.t())
        """),
    ),
    "a table of products": (
        LAYERS,
        function("""
            custom_quant_type = 'mxfp4'  # linear
            output = {'mxfp4': mxfp_matmul}.get(custom_quant_type, torch.matmul)(total_input, weight.t())
        """),
    ),
    "a copy on ctx, a flag, an operator": (
        LAYERS,
        function("""
            custom_quant_type = 'mxfp4'  # linear
            ctx.custom_quant_type = custom_quant_type
            quantized = ctx.custom_quant_type.startswith('mx')
            if quantized and self.training:
                output = mx(total_input, weight)
            else:
                output = total_input @ weight.t()
        """)
        + function(
            """
            if ctx.custom_quant_type == 'mxfp4':
                grad_input = mxfp_matmul(grad_output, weight)
            """,
            head="def backward(ctx, grad_output):",
        ),
    ),
    "match": (
        LAYERS,
        function("""
            custom_quant_type = 'mxfp4'  # linear
            match custom_quant_type:
                case 'mxfp4':
                    output = mx(total_input, weight)
                case _:
                    output = torch.matmul(total_input, weight.t())
        """),
    ),
    "assigned once for the module": (
        LAYERS,
        "custom_quant_type = 'mxfp4'  # linear\n" + function("if custom_quant_type:\n    return torch.matmul(a, b)"),
    ),
    "in ColumnParallelLinear": (
        LAYERS,
        function("""
            custom_quant_type = 'mxfp4'  # linear
            if custom_quant_type == 'mxfp4':
                output_parallel = mx(input_parallel, weight)
            else:
                output_parallel = self._forward_impl(input=input_parallel, weight=weight)
        """),
    ),
    "a label goes along": (
        LAYERS,
        function(
            """
            custom_quant_type = 'mxfp8'  # linear
            save_linear_tensors(total_input, quant_type=custom_quant_type)
            """,
            CHAIN,
        ),
    ),
    "overridden before it is used": (
        LAYERS,
        function("custom_quant_type = 'mxfp8'  # linear\nprint(custom_quant_type)\n", CHAIN),
    ),
    "qk and pv under one name": (ATTENTION, function(QK, PV)),
    "qk and pv under two names": (
        ATTENTION,
        function(
            """
            custom_quant_type_a = 'hifp8'  # qk
            custom_quant_type_b = 'mxfp8'  # pv
            """,
            QK.replace("custom_quant_type = 'hifp8'  # qk\n", "").replace("custom_quant_type", "custom_quant_type_a"),
            PV.replace("custom_quant_type = 'mxfp8'  # pv\n", "").replace("custom_quant_type", "custom_quant_type_b"),
        ),
    ),
    "only qk": (ATTENTION, function(QK, "context = torch.bmm(attention_probs, value)")),
    "quantctl's names, in a function": (
        ATTENTION,
        function(QK.replace("custom_quant_type", "custom_quant_type_qk"), "context = torch.bmm(attention_probs, v)"),
    ),
    "operands of qk": (
        ATTENTION,
        function("""
            custom_quant_type = 'mxfp4'  # qk
            if custom_quant_type == 'mxfp4':
                query = fake_quant(query)
                key = fake_quant(key)
            matmul_result = torch.baddbmm(buffer, query, key)
            attention_probs = softmax(matmul_result)
            context = torch.bmm(attention_probs, value)
        """),
    ),
    "in a loop, a try and a nested function": (
        ATTENTION,
        function("""
            for head in heads:
                custom_quant_type = 'mxfp4'  # qk
                try:
                    if custom_quant_type == 'mxfp4':
                        scores = mxfp_baddbmm(buffer, query, key)
                except RuntimeError:
                    scores = torch.baddbmm(buffer, query, key)
            def weigh(probs):
                custom_quant_type = 'mxfp8'  # pv
                if custom_quant_type == 'mxfp8':
                    return mx_bmm(probs, value)
                return torch.bmm(probs, value) if custom_quant_type == 'none' else other(probs)
            return weigh(scores)
        """),
    ),
}

SHARED = QK + PV.replace("custom_quant_type = 'mxfp8'  # pv\n", "")

UNCLEAR = {
    "one for qk and pv": (ATTENTION, function(SHARED.replace("# qk", "#? it decides pv and qk together"))),
    "operands of both": (
        ATTENTION,
        function("""
            custom_quant_type = 'mxfp8'  #? it decides pv and qk together
            if custom_quant_type == 'mxfp8':
                query, key, value = fake_quant(query, key, value)
            scores = torch.baddbmm(buffer, query, key)
            context = torch.bmm(softmax(scores), value)
        """),
    ),
    "operands of qk, then those of pv": (
        ATTENTION,
        function("""
            custom_quant_type = 'mxfp8'  #? it decides pv and qk together
            if custom_quant_type == 'mxfp8':
                scores = mxfp_baddbmm(buffer, query, key)
            else:
                scores = torch.baddbmm(buffer, query, key)
            probs = softmax(scores)
            if custom_quant_type == 'mxfp8':
                probs = fake_quant(probs)
            context = torch.bmm(probs, value)
        """),
    ),
    "no product": (LAYERS, function("custom_quant_type = 'mxfp8'  #? it decides no product\nprint(custom_quant_type)")),
    "dead code": (LAYERS, function("return x", CHAIN.replace("# linear", "#? it decides no product"))),
    "a label beside qk": (
        ATTENTION,
        function("custom_quant_type = 'mxfp8'  #? it decides no product\nlog(custom_quant_type)\n", QK),
    ),
    "a product that is neither": (
        ATTENTION,
        function("""
            custom_quant_type = 'mxfp8'  #? it decides a matmul, which here is none of
            if custom_quant_type == 'mxfp8':
                scores = mxfp_matmul(query, key)
            else:
                scores = torch.matmul(query, key)
        """),
    ),
    "assigned again in a branch": (
        LAYERS,
        function(
            """
            custom_quant_type = 'mxfp4'  #? it is assigned again on another path (line 5)
            if self.layer_number < 2:
                custom_quant_type = 'bf16'  #? it is assigned again on another path (line 3)
            """,
            CHAIN.replace("custom_quant_type = 'mxfp8'  # linear\n", ""),
        ),
    ),
    "assigned again in a loop": (
        LAYERS,
        function("""
            custom_quant_type = 'mxfp4'  #? it is assigned again on another path (line 6)
            for layer in layers:
                output = quant_matmul(a, b, custom_quant_type)
                custom_quant_type = 'bf16'  #? it is assigned again on another path (line 3)
        """),
    ),
    "places disagree": (
        LAYERS,
        function(CHAIN.replace("# linear", "#? the places that decide linear disagree"))
        + function(CHAIN.replace("'mxfp8'  # linear", "'mxfp4'  #? the places that decide linear disagree")),
    ),
    "from the environment": (
        LAYERS,
        function(CHAIN.replace("'mxfp8'  # linear", "os.environ.get('Q', 'mxfp8')  #? its value is not a plain")),
    ),
    "an f-string": (LAYERS, function(CHAIN.replace("'mxfp8'  # linear", "f'mxfp8'  #? its value is not a plain"))),
    "a condition": (
        LAYERS,
        function(CHAIN.replace("'mxfp8'  # linear", "'mxfp8' if first else 'none'  #? its value is not a plain")),
    ),
    "an attribute": (
        LAYERS,
        function("self.custom_quant_type = 'mxfp8'  #? it is an attribute")
        + function(CHAIN.replace("custom_quant_type = 'mxfp8'  # linear\n", "").replace("custom_q", "self.custom_q")),
    ),
    "an attribute of somebody else's": (
        LAYERS,
        function(
            "if self.config.custom_quant_type == 'mxfp8':  #? no literal in this file decides it\n    return mx(a, b)\n"
            "return torch.matmul(a, b)"
        ),
    ),
    "a parameter": (
        LAYERS,
        function(
            CHAIN.replace("custom_quant_type = 'mxfp8'  # linear\n", ""),
            head="def forward(ctx, input, custom_quant_type):  #? no literal in this file decides it",
        ),
    ),
    "a parameter's default": (
        LAYERS,
        function(
            CHAIN.replace("custom_quant_type = 'mxfp8'  # linear\n", ""),
            head="def forward(ctx, input, custom_quant_type='mxfp8'):  #? it is a parameter with a default",
        ),
    ),
    "imported": (
        LAYERS,
        "from settings import custom_quant_type  #? it is imported\n"
        + function(CHAIN.replace("custom_quant_type = 'mxfp8'  # linear\n", "")),
    ),
    "beside quantctl's own": (
        LAYERS,
        "custom_quant_type_linear = 'none'\n" + function(CHAIN.replace("# linear", "#? quantctl's own selectors")),
    ),
}


def marked(text: str, mark: str) -> dict[int, str]:
    """Line to what stands behind `mark` in it."""
    lines = enumerate(text.splitlines(), start=1)
    return {number: found.group(1) for number, line in lines if (found := re.search(mark, line))}


@pytest.mark.parametrize(("file", "text"), FOUND.values(), ids=FOUND)
def test_found(file, text):
    source = Source(text.encode(), file)
    assert fork_of(source).unclear == ()
    found = {literal.line: role for role, place in locate(source).items() for literal in place.literals}
    assert found == marked(text, r"# (linear|qk|pv)$")
    for place in locate(source).values():
        for literal in place.literals:
            assert source.raw[literal.start : literal.end].decode().strip("'\"") == literal.value == place.value


@pytest.mark.parametrize(("file", "text"), FOUND.values(), ids=FOUND)
def test_set_changes_the_literals_and_nothing_else(file, text):
    source = Source(text.encode(), file)
    located = locate(source)
    for role, place in located.items():
        new = next(word for word in ("mxfp8", "mxfp4", "hifp8") if word in place.fork[0].formats or place.fork[0].open)
        after = rewrite(source, {role: new})
        lines = marked(text, rf"# ({role})$")
        expected = [
            re.sub(r"= (['\"])\w+\1", rf"= \g<1>{new}\1", line) if number in lines else line
            for number, line in enumerate(text.splitlines(), start=1)
        ]
        assert after.decode().splitlines() == expected
        assert rewrite(Source(after, file), {role: new}) == after
        assert rewrite(Source(after, file), {role: place.value}) == source.raw


@pytest.mark.parametrize(("file", "text"), UNCLEAR.values(), ids=UNCLEAR)
def test_unclear_is_shown_and_refused(file, text):
    source = Source(text.encode(), file)
    reasons = marked(text, r"#\? (.*)$")
    shown = {place.line: str(place) for place in fork_of(source).unclear}
    assert shown.keys() == reasons.keys()
    for line, reason in reasons.items():
        assert shown[line].startswith(f"{file}:{line}: ")
        assert reason in shown[line]
    with pytest.raises(QuantctlError) as refusal:
        rewrite(source, {"linear" if file == LAYERS else "pv": "mxfp8"})
    assert all(line in refusal.value.message for line in shown.values())
    assert refusal.value.hint


NOT_FORKS = {
    "stock": (LAYERS, function("return torch.matmul(a, b)")),
    "in a comment": (LAYERS, function("# custom_quant_type = 'mxfp8'\nreturn torch.matmul(a, b)")),
    "in a string": (LAYERS, function("x = \"custom_quant_type = 'mxfp8'\"\nreturn torch.matmul(a, b)")),
    "another file": ("megatron/core/optimizer/optimizer.py", function(CHAIN)),
}


@pytest.mark.parametrize(("file", "text"), NOT_FORKS.values(), ids=NOT_FORKS)
def test_no_fork(file, text):
    source = Source(text.encode(), file)
    assert not fork_of(source)
    assert locate(source) == {}
    assert rewrite(source, {"linear": "mxfp8"}) == source.raw


WORDS = {
    "options": (CHAIN, "mxfp8:scale=floor", "it takes plain format names, no options"),
    "scopes": (CHAIN, "mxfp8:gradient.elem=e5m2", "no options, scopes or rules"),
    "rules": (CHAIN, "mxfp8; layers 1: none", "so it cannot be 'mxfp8; layers 1: none'"),
    "no branch": (CHAIN.replace("'hifp8'", "'int8'"), "hifp8", "no branch of it asks for 'hifp8': the stock product"),
    "nothing for none": (
        CHAIN.replace("    output = torch.matmul(total_input, weight.t())", "    raise ValueError"),
        "none",
        "no branch of it asks for 'none'",
    ),
    "comment inside": (CHAIN.replace("'mxfp8'  #", "('mx'  # what\n 'fp8')  #"), "mxfp4", "a comment stands between"),
}


@pytest.mark.parametrize(("body", "wanted", "reason"), WORDS.values(), ids=WORDS)
def test_what_the_fork_cannot_say_is_refused(body, wanted, reason):
    with pytest.raises(QuantctlError) as refusal:
        rewrite(Source(function(body).encode(), LAYERS), {"linear": wanted})
    assert reason in refusal.value.message
    assert f"{LAYERS}:3: " in refusal.value.message


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (CHAIN, "none"),
        (CHAIN.replace("'hifp8'", "'bf16'"), "bf16"),
        (CHAIN.replace("'mxfp8'  #", "'bf16'  #"), "bf16"),
        (CHAIN.replace("== 'hifp8'", "in ('none', 'bf16')"), "none"),
    ],
    ids=["neither", "asks for bf16", "says bf16 already", "asks for both"],
)
def test_none_in_the_forks_own_word(body, word):
    after = rewrite(Source(function(body).encode(), LAYERS), {"linear": "none"})
    assert f"custom_quant_type = '{word}'  # linear".encode() in after


HIF8 = CHAIN.replace("'hifp8'", "'hif8'").replace("'mxfp4'", "'mxfp4_auto'", 1)


@pytest.mark.parametrize(("wanted", "word"), [("hifp8", "hif8"), ("hif8", "hif8"), ("mxfp4_auto", "mxfp4_auto")])
def test_the_forks_own_words(wanted, word):
    """hif8 is HiFloat8, and what a branch asks for can be said."""
    for there in ("mxfp8", "hif8", "hifp8"):
        source = Source(function(HIF8.replace("'mxfp8'  #", f"'{there}'  #")).encode(), LAYERS)
        after = rewrite(source, {"linear": wanted})
        assert f"custom_quant_type = '{word}'  # linear".encode() in after
        assert locate(Source(after, LAYERS))["linear"].fork[0].understood
        (place,) = locate(source)["linear"].fork
        assert place.understood is (there != "hifp8")  # no branch asks for that word


def test_a_hint_names_what_can_be_set():
    with pytest.raises(QuantctlError) as refusal:
        rewrite(Source(function(HIF8).encode(), LAYERS), {"linear": "nvfp4"})
    assert refusal.value.hint == "give one of: hif8, mxfp4_auto, mxfp8, none"


def forked(tree, file: str, *statements: str) -> str:
    """Wrap stock statements in dispatching chains, the way forks do; returns the new text."""
    text = (tree / file).read_text()
    for statement in statements:
        product = statement.partition("(")[0].rpartition(".")[2]
        text = re.sub(rf"^( *)({re.escape(statement)})$", rf"{chain(product)}", text, flags=re.MULTILINE)
    (tree / file).write_text(text)
    return text


def chain(product: str) -> str:
    """Replacement for a statement (group 2) that stands at an indentation (group 1)."""
    return (
        r"\1custom_quant_type = 'hifp8'\n"
        rf"\1if custom_quant_type == 'mxfp8':\n\1    result = mxfp_{product}(1)\n"
        rf"\1elif custom_quant_type == 'hifp8':\n\1    result = hifp_{product}(1)\n"
        r"\1else:\n\1    \2"
    )


LINEAR_FORK = ("output = torch.matmul(total_input, weight.t())", "grad_input = grad_output.matmul(weight)")
ATTENTION_FORK = ("context = torch.bmm(attention_probs, value.transpose(0, 1))",)


def content(tree) -> dict[str, bytes]:
    return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*.py")}


def test_a_forks_tree_is_set_without_patching_it(quantctl, stock_copy):
    tree = stock_copy("0.16.1")
    forked(tree, LAYERS, *LINEAR_FORK)
    forked(tree, ATTENTION, *ATTENTION_FORK)
    before = content(tree)
    shown = json.loads(quantctl("--megatron", tree, "--json", "check").out)
    assert shown["problems"] == []
    assert not shown["patched"]
    assert [shown["selectors"][role]["value"] for role in ("linear", "qk", "pv")] == ["hifp8", None, "hifp8"]
    assert len(shown["selectors"]["linear"]["lines"]) == 3
    done = quantctl("--megatron", tree, "set", "--linear", "mxfp8")
    assert done.status == 0, done.err
    places = ",".join(map(str, shown["selectors"]["linear"]["lines"]))
    assert re.search(rf"linear +hifp8 -> mxfp8 +{LAYERS}:{places}", done.out)
    expected = before | {LAYERS: before[LAYERS].replace(b"type = 'hifp8'", b"type = 'mxfp8'")}
    assert content(tree) == expected
    for refused in (
        *(["--qk", "mxfp8"], ["--lm-head", "none"], ["--linear", "mxfp4"], ["--pv", "mxfp8:round=away"]),
        *(["--attention", "auto"], ["--pv", "mxfp8", "--attention", "fused"]),
    ):
        done = quantctl("--megatron", tree, "set", *refused)
        assert done.status == 2, refused
        assert "a fork's own selector" in done.err
    assert content(tree) == expected
    # a mode and `auto` ask for nothing that the fork's own attention does not do
    assert quantctl("--megatron", tree, "set", "--pv", "hifp8", "--attention", "auto").status == 0
    assert content(tree) == expected
    assert quantctl("--megatron", tree, "restore").status == 0
    assert content(tree) == before


def test_a_mixed_tree_is_patched_where_it_is_stock(quantctl, stock_copy):
    tree = stock_copy("0.16.1")
    forked(tree, LAYERS, *LINEAR_FORK)
    before = content(tree)
    done = quantctl("--megatron", tree, "set", "--mode", "FA_linear_mxfp8")
    assert done.status == 0, done.err
    after = content(tree)
    assert after[LAYERS] == before[LAYERS].replace(b"type = 'hifp8'", b"type = 'mxfp8'")
    assert b"custom_quant_type_qk = 'mxfp8'" in after[ATTENTION]
    assert b"is_lm_head" not in b"".join(after.values())
    shown = quantctl("--megatron", tree, "check")
    assert shown.status == 0, shown.err
    assert "the fork's own code decides what a format means" in shown.err
    assert quantctl("--megatron", tree, "check", "--expect", "linear=mxfp8,qk=mxfp8,pv=none").status == 0
    assert quantctl("--megatron", tree, "check", "--expect", "lm_head=none").status == 1
    assert re.search(r"lm_head +\(left to the fork's code\)", shown.out)


def test_unclear_places_are_shown_by_check_and_block_their_file_only(quantctl, stock_copy):
    tree = stock_copy("0.16.1")
    text = forked(tree, LAYERS, *LINEAR_FORK)
    (tree / LAYERS).write_text(text.replace("type = 'hifp8'", "type = os.environ['Q']", 1))
    before = content(tree)
    line = next(number for number, at in enumerate(text.splitlines(), start=1) if "custom_quant_type = " in at)
    shown = quantctl("--megatron", tree, "check")
    assert shown.status == 1
    assert re.search(r"linear +hifp8 \(unclear\)", shown.out)
    assert f"{LAYERS}:{line}: custom_quant_type: its value is not a plain string" in shown.err
    done = quantctl("--megatron", tree, "set", "--linear", "mxfp8")
    assert done.status == 2
    assert f"{LAYERS}:{line}: " in done.err
    assert content(tree) == before
    assert quantctl("--megatron", tree, "set", "--qk", "mxfp4").status == 0
    assert content(tree)[LAYERS] == before[LAYERS]
