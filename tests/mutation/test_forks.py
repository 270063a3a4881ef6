"""What forks do to a tree, drawn at random: refused by name, or set and taken back to the byte.

Every mutant is a stock release with one thing that a fork of Megatron did (a kind below), in random words, places and
newlines, and knows what has to come of it. A fiftieth of MUTANTS; FIRST_SEED=12 MUTANTS=50 runs one of them alone.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from textwrap import indent

import pytest
from excerpts import excerpt
from faults import run_in_child
from remembered import remember_insertion

from quantctl.errors import QuantctlError
from quantctl.patches import fused_attention
from quantctl.patches.registry import PATCHES
from quantctl.spec import names_of
from quantctl.stock import releases
from quantctl.stock.unpatch import scopes_of
from quantctl.tree import fit, verdict
from quantctl.tree.selectors import ATTENTION, LAYERS
from quantctl.tree.state import FILES, plan, read_state

MUTANTS = max(1, int(os.environ.get("MUTANTS", "350")) // 50)
FIRST_SEED = int(os.environ.get("FIRST_SEED", "0"))
CHUNKS = min(MUTANTS, 10)
RELEASES = ("0.12.3", "0.16.1", "0.19.0")
MLP = "megatron/core/transformer/mlp.py"
FORMATS = ("mxfp8", "mxfp4", "hifp8")
WORDS = ("mxfp8", "mxfp4", "hif8", "hifp8", "mxfp4_auto", "mine8", "bf16")
WHOLE_TREE_EVERY = 10
"""Every how many mutants the command line sets and restores the tree, in a process of its own."""


@dataclass
class Fork:
    """A tree with something of a fork's, and what has to come of it."""

    files: dict[str, str]
    """All of them, as the fork left them."""
    asked: dict[str, str] = field(default_factory=dict)
    """Role to value."""
    refusal: str | None = None
    """What refuses `asked`, as a regular expression; None: it is set."""
    accept: str = ""
    """Accepted by this name, it is set."""
    literals: dict[str, str] = field(default_factory=dict)
    """File to its text with `asked` set, where the fork's own literals decide."""
    strange: bool = False
    """Attention is no release's own: it stays unfused."""


Kind = Callable[[random.Random, dict[str, str]], Fork]


def names(rng: random.Random) -> str:
    return rng.choice(("Own", "Npu", "Quant", "Fused", "My")) + rng.choice(("Linear", "Matmul", "Gemm", "Product"))


def asked_of(rng: random.Random, *roles: str) -> dict[str, str]:
    return dict.fromkeys(roles, rng.choice(FORMATS))


def inserted(text: str, before: str, code: str) -> str:
    """`code` in front of the one line that begins with `before`."""
    assert text.count("\n" + before) == 1, before
    return text.replace("\n" + before, "\n" + code + before)


# -- kinds ------------------------------------------------------------------------------------------------------------


def second_linear_function(rng: random.Random, files: dict[str, str]) -> Fork:
    """Beside the stock one, as an autograd function, a plain one or a method."""
    name = names(rng)
    product = rng.choice(
        ("torch.matmul(x, w.t())", "x @ w.t()", "F.linear(x, w)", "x.matmul(w.t())", "w.mm(x).t()", "fp8_gemm_nt(x, w)")
    )
    form = rng.choice(
        (
            "class {0}(torch.autograd.Function):\n    @staticmethod\n    def forward(ctx, x, w):\n        return {1}\n",
            "def {0}(x, w):\n    return {1}\n",
            "class {0}:\n    def __call__(self, x, w):\n        y = {1}\n        return y * self.scale\n",
            "@torch.no_grad()\ndef {0}(x, w):\n    if w is not None:\n        return {1}\n",
        )
    )
    before = rng.choice(
        ("class ColumnParallelLinear(", "def linear_with_frozen_weight(", "class LinearWithFrozenWeight(")
    )
    files[LAYERS] = inserted(files[LAYERS], before, form.format(name, product) + "\n\n")
    return Fork(files, asked_of(rng, "linear"), rf"no selector decides.*\n  {re.escape(LAYERS)}:\d+: {name}\b", name)


def replaced_at_run_time(rng: random.Random, files: dict[str, str]) -> Fork:
    """A method, a function or its class, by whatever form of words."""
    patch = rng.choice([patch for patch in PATCHES if patch.required and patch.roles])
    target = rng.choice(sorted(scopes_of(patch)))
    module, (owner, _, method) = fit.TARGETS[target], target.partition(".")
    forms = ["register('{module}.{target}', mine)", "Manager.add('{module}.{target}', mine, force=True)"]
    if method:
        forms += ["{owner}.{method} = mine", "layers.{owner}.{method} = wraps({owner}.{method})(mine)"]
        forms += ["setattr({owner}, '{method}', mine)", "a.b.{owner}.{method} = b = mine"]
    line = rng.choice(forms).format(module=module, target=target, owner=owner, method=method)
    above = "import torch\n" * rng.randrange(5)
    body = f"def adapt():\n    {line}\n" if rng.random() < 0.5 else f"{line}\n"
    file = rng.choice(("mindspeed_llm/adaptor.py", "mine/core/features.py", "pretrain_gpt.py"))
    files |= {"pretrain_gpt.py": "", file: above + body}
    at = (above + body).splitlines().index(next(one for one in body.splitlines() if line in one)) + 1
    refusal = rf"{re.escape(file)}:{at} replaces {re.escape(target)} at run time"
    return Fork(
        files,
        asked_of(rng, patch.roles[0]) if patch.roles[0] != "attention" else {"attention": "fused"},
        refusal,
        target,
    )


def chain(rng: random.Random, words: list[str], value: str, body: str) -> str:
    """A fork's selector with a branch a word; `body` has {0} in the place of the word."""
    quote, spaces = rng.choice("'\""), rng.choice((" = ", "="))
    lines = [f"custom_quant_type{spaces}{quote}{value}{quote}"]
    for number, word in enumerate(words):
        lines += [
            f"{'elif' if number else 'if'} custom_quant_type == {quote}{word}{quote}:",
            *body.format(word).splitlines(),
        ]
    return "\n".join(lines) + "\n"


def literal(text: str, old: str, new: str) -> str:
    return re.sub(rf"(custom_quant_type ?= ?['\"]){re.escape(old)}(['\"])", rf"\g<1>{new}\g<2>", text)


def own_words(rng: random.Random, fork: Fork, file: str, words: list[str], value: str, *roles: str) -> Fork:
    """What is asked of a selector that has these branches: one of its words, or one that it does not have."""
    canonical = rng.choice(FORMATS)
    word = next((word for word in names_of(canonical) if word in words), None)
    asked = word if word is not None and rng.random() < 0.5 else canonical
    fork.asked = dict.fromkeys(roles, asked)
    if word is None:
        fork.refusal = rf"{re.escape(file)}:\d+: .*no branch of it asks for '{canonical}'"
    else:
        same = value in names_of(canonical)
        fork.literals[file] = fork.files[file] if same else literal(fork.files[file], value, word)
    return fork


def attention_elsewhere(rng: random.Random, files: dict[str, str]) -> Fork:
    """In a file of the fork's own, which replaces DotProductAttention.forward."""
    words = rng.sample(WORDS[:6], rng.randint(2, 4))
    value = rng.choice(words)
    file = rng.choice(("mindspeed_llm/core/attention.py", "mine/fa.py"))
    body = chain(rng, words, value, "    query, key, value = quantize(query, key, value, '{0}')")
    end = "return torch_npu.npu_fusion_attention(query, key, value)\n"
    files[file] = "def attend(query, key, value):\n" + indent(body + end, "    ")
    files |= {"pretrain_gpt.py": "", "mine/adaptor.py": "DotProductAttention.forward = attend\n"}
    return own_words(rng, Fork(files), file, words, value, "qk", "pv")


def linear_with_own_words(rng: random.Random, files: dict[str, str]) -> Fork:
    """Chains around the stock products of linear layers."""
    words = rng.sample(WORDS[:6], rng.randint(2, 5))
    value = rng.choice((*words, "bf16"))
    body = chain(rng, words, value, "    y = own_mm(a, b, '{0}')")

    def wrap(found: re.Match[str]) -> str:
        return indent(f"{body}else:\n    {found.group(2)}\n", found.group(1)).rstrip("\n")

    product = r"^( *)((?:output = torch\.matmul\(.*\)|grad_input = grad_output\.matmul\(weight\)))$"
    files[LAYERS], count = re.subn(product, wrap, files[LAYERS], flags=re.MULTILINE)
    assert count >= 3
    return own_words(rng, Fork(files), LAYERS, words, value, "linear")


def experts_elsewhere(rng: random.Random, files: dict[str, str]) -> Fork:
    """A selector in MLP.forward, beside the stock linear layers, which are patched."""
    words = rng.sample(WORDS[:6], rng.randint(2, 4))
    value = rng.choice((*words, "bf16"))
    body = chain(rng, words, value, "    intermediate_parallel = quantize(intermediate_parallel, '{0}')")
    line = "        # [s, b, h]\n"
    assert files[MLP].count(line) >= 1
    head, tail = files[MLP].split(line, 1)
    files[MLP] = head + indent(body, " " * 8) + line + tail
    return own_words(rng, Fork(files), MLP, words, value, "linear")


def own_computation(rng: random.Random, files: dict[str, str]) -> Fork:
    """Something between the products of attention, which fused attention would leave out."""
    where = rng.choice(
        (
            "        attention_scores = matmul_result.view(",
            "        context = torch.bmm(",
            "        attention_probs = attention_probs.view(",
        )
    )
    code = rng.choice(
        (
            "matmul_result = torch.tanh(matmul_result / 50.0) * 50.0",
            "if self.capped:\n    matmul_result = cap(matmul_result)",
            "value = value + 0",
            "with torch.no_grad():\n    self.seen = matmul_result",
            "assert torch.isfinite(matmul_result).all()",
            "query = query if self.scale is None else query * self.scale",
            "for hook in self.hooks:\n    hook(matmul_result)",
        )
    )
    files[ATTENTION] = inserted(files[ATTENTION], where, indent(code, " " * 8) + "\n")
    refusal = rf"{re.escape(ATTENTION)}:\d+: .*is no known release's own code"
    return Fork(files, {**asked_of(rng, "qk"), "attention": "fused"}, refusal, strange=True)


def harmless(rng: random.Random, files: dict[str, str]) -> Fork:
    """What computes the same is fused, and set."""
    where = "        attention_scores = matmul_result.view("
    code = rng.choice(
        ("        # the view changes\n", "\n\n", "        # custom_quant_type = 'mxfp8'\n", "\t\n", "        #\n")
    )
    files[ATTENTION] = inserted(files[ATTENTION], where, code)
    return Fork(files, {**asked_of(rng, "qk", "linear"), "attention": rng.choice(("fused", "auto"))})


KINDS: tuple[Kind, ...] = (
    second_linear_function,
    replaced_at_run_time,
    attention_elsewhere,
    linear_with_own_words,
    experts_elsewhere,
    own_computation,
    harmless,
)


# -- what must hold ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stock(megatron_tree) -> Callable[[str], dict[str, str]]:
    """Function from a release to its files that the editor looks at."""

    @lru_cache
    def read(release: str) -> dict[str, str]:
        beside = {file for patch in PATCHES for file, _ in patch.leaves_out}
        found = {}
        for file in dict.fromkeys(("megatron/core/__init__.py", *FILES, *sorted(beside))):
            if (path := megatron_tree(release) / file).is_file():
                found[file] = excerpt(path.read_text()) if file == LAYERS else path.read_text()
        return found

    return lambda release: dict(read(release))


@pytest.fixture(scope="module", autouse=True)
def _insert_once() -> None:
    """A file is patched once, however often a plan is made of it: that is most of the time."""
    remember_insertion()


def written(root: Path, files: dict[str, bytes]) -> None:
    for file, raw in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(raw)


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.py")}


def outcome(root: Path, fork: Fork, encode: Callable[[str], bytes], whole: bool) -> str:
    """What became of it; raises AssertionError for anything but what the fork has to come to."""
    before = {file: encode(text) for file, text in fork.files.items()}
    written(root, before)
    state = read_state(root)
    assert (releases.strange(fused_attention.PATCH, state.reader({})) is not None) == fork.strange
    options: list[str] = []
    if fork.refusal is not None:
        with pytest.raises(QuantctlError, match=fork.refusal):
            plan(state, fork.asked)
        if whole:
            assert run_in_child(["--megatron", str(root), "set", *flags(fork.asked)])[0] == 2
        assert contents(root) == before
        if fork.strange:
            fork.asked["attention"] = "auto"
        elif not fork.accept:
            return "refused by name"
        options = ["--accept-bypass", fork.accept] if fork.accept else []
    after = plan(state, fork.asked, options[1:])
    for file, text in fork.literals.items():
        assert after.get(file, before[file]) == encode(text)
    written(root, after)
    now = read_state(root)
    for role, value in fork.asked.items():
        assert now.values()[role] in names_of(value), role
    assert plan(now, fork.asked, options[1:]) == {}
    problems = verdict.problems(now, options[1:])
    assert [problem for problem in problems if not (fork.strange and "stays unfused" in problem)] == []
    written(root, before)
    if whole:
        assert run_in_child(["--megatron", str(root), "set", *flags(fork.asked), *options])[0] == 0
        assert contents(root) == before | after
        assert run_in_child(["--megatron", str(root), "restore"])[0] == 0
        assert contents(root) == before
    return f"set{' once accepted' * bool(options)}{' unfused' * fork.strange}"


def flags(values: dict[str, str]) -> list[str]:
    return [word for role, value in values.items() for word in (f"--{role}", value)]


def encoder(rng: random.Random) -> Callable[[str], bytes]:
    newline, mark = rng.choice(("\n", "\n", "\r\n")), rng.choice((b"", b"", b"", b"\xef\xbb\xbf"))
    return lambda text: mark + text.replace("\n", newline).encode()


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_forks(stock, chunk, tmp_path, record_property):
    outcomes: Counter[str] = Counter()
    for seed in range(FIRST_SEED + chunk, FIRST_SEED + MUTANTS, CHUNKS):
        rng = random.Random(seed)
        kind = KINDS[seed % len(KINDS)]
        fork = kind(rng, stock(rng.choice(RELEASES)))
        root = tmp_path / str(seed)
        try:
            found = outcome(root, fork, encoder(rng), seed % WHOLE_TREE_EVERY == 0)
        except Exception as error:
            raise AssertionError(f"seed {seed} ({kind.__name__}): {type(error).__name__}: {error}") from error
        shutil.rmtree(root)
        outcomes[f"{kind.__name__.replace('_', ' ')}: {found}"] += 1
    for name, count in outcomes.items():
        record_property(name, count)
