"""Random specs, literals and models, and what they mean by a second, slow reading of docs/formats.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import Random

from quantctl.errors import QuantctlError
from quantctl.spec import FORMATS, GRADIENT, OPERANDS, PRODUCTS, canonical, literal
from quantctl.spec.formats import SITE_DEFAULTS
from quantctl.spec.resolution import Module

Slots = dict[tuple[str, str], tuple[object, ...]]
"""(product, operand) -> format, options, source."""


def slots(site: str) -> list[tuple[str, str]]:
    first, second = OPERANDS[site]
    return [
        *(("fprop", first), ("fprop", second), ("dgrad", GRADIENT), ("dgrad", second)),
        *(("wgrad", GRADIENT), ("wgrad", first)),
    ]


_NAMES = ("none", "bf16", "hif8", *FORMATS)


def _values(key: str) -> list[str]:
    if key == "format":
        return [*_NAMES]
    if key == "source":
        return ["original", "forward"]
    return sorted({value for options in FORMATS.values() for value in options.get(key, ())})


def options(random: Random, site: str, format_: str = "mxfp8", most: int = 3) -> list[str]:
    """Plain and scoped options, which need not go together."""
    words = {}
    for _ in range(random.randint(1, most)):
        product = random.choice([None, *PRODUCTS])
        operand = random.choice([None, None, *OPERANDS[site], GRADIENT])
        key = random.choice(["format", "format", "scale", "elem", "round", "round", "bwd", "source"])
        path = ".".join(filter(None, (product, operand, key)))
        if path != key:
            words[path] = random.choice(_values(key))
        elif key in FORMATS.get(format_, {}):
            words[path] = random.choice(FORMATS[format_][key])
    return [f"{path}={value}" for path, value in words.items()]


def spec(random: Random, site: str) -> str:
    format_ = random.choice(_NAMES)
    words = options(random, site, format_) if random.random() < 0.6 else []
    return format_ + (":" + random.choice([",", " , "]).join(words) if words else "")


NAMES = ("linear_fc1", "*.linear_fc2", "linear_fc[!1]", "mlp.*", "self_attention.linear_*", "*qkv", "linear_fc?", "*")
WORDS = ("attention", "mlp", "experts", "shared_experts", "mtp")
SHARES = ("0%", "10%", "12.5%", "33.3333%", "050%", "85.0%", "100%")


def _bound(random: Random) -> str:
    kind = random.choice("+-%")
    return random.choice(SHARES) if kind == "%" else f"{'-' if kind == '-' else ''}{random.randint(1, 5)}"


def _condition(random: Random) -> str:
    kind = random.choice(["layers", "layers", "name", "word", "from", "until", "evaluation"])
    if kind == "name":
        return random.choice(NAMES)
    if kind == "word":
        return random.choice(WORDS)
    if kind == "evaluation":
        return kind
    if kind != "layers":
        return f"{kind} {random.choice([str(random.randint(1, 10)), random.choice(SHARES)])}"
    forms = ["{0}", "{0}..", "..{1}", "{0}..{1}", "{0}-{1}"]
    ranges = [random.choice(forms).format(_bound(random), _bound(random)) for _ in range(random.randint(1, 2))]
    return "layers " + random.choice([",", ", "]).join(ranges)


def text(random: Random, site: str, most: int = 5) -> str:
    """A literal as somebody may write it, right or wrong."""
    said = spec(random, site)
    for _ in range(random.randint(0, most)):
        head = " ".join(_condition(random) for _ in range(random.choice([1, 1, 2])))
        value = ",".join(options(random, site, most=2)) if random.random() < 0.5 else spec(random, site)
        said += f"{random.choice([';', '; ', ' ;'])}{head}{random.choice([':', ' : ', ': '])}{value}"
    return said


def right(random: Random, site: str) -> str:
    """One that means something: what is refused is left out."""
    base, *rules = text(random, site).split(";")
    said = base if is_literal(base, site) else random.choice(tuple(FORMATS))
    for rule in rules:
        if is_literal(more := f"{said};{rule}", site):
            said = more
    return said


def is_literal(text: str, site: str) -> bool:
    try:
        literal(text, site)
    except QuantctlError:
        return False
    return True


# ---- what they mean ----


def operands(text: str, site: str) -> Slots:
    """What a spec without rules says of each operand, statement by statement."""
    name, _, rest = text.partition(":")
    alias = {"bf16": "none", "hif8": "hifp8"}
    base = alias.get(name.strip(), name.strip())
    said = dict(word.strip().split("=") for word in rest.split(",") if word.strip())
    plain = {key: value for key, value in said.items() if "." not in key}
    default = {"bwd": SITE_DEFAULTS.get(site, {}).get("bwd", "quantized")}
    found: Slots = {}
    for product, operand in slots(site):
        scopes = [(), (product,), (operand,), (product, operand)]

        def narrowest(key: str, least: int = 0, scopes: list[tuple[str, ...]] = scopes) -> tuple[int, str] | None:
            hits = [
                (len(scope), said[".".join((*scope, key))])
                for scope in scopes
                if len(scope) >= least and ".".join((*scope, key)) in said
            ]
            return max(hits, default=None)

        depth, format_, source = 0, base, "original"
        if product != "fprop" and base != "none":
            depth, bwd = narrowest("bwd") or (0, default["bwd"])
            format_ = base if bwd == "quantized" else "none"
            source = "forward" if bwd == "dequantized" and operand != GRADIENT else "original"
        own = narrowest("format", 1)
        anew = own is not None and own[0] >= depth and not (own[0] == depth and alias.get(own[1], own[1]) == format_)
        if own is not None and own[0] > depth:
            source = "original"
        if own is not None and own[0] >= depth:
            depth, format_ = own[0], alias.get(own[1], own[1])
            anew = True if own[0] > 0 else anew
        chosen = {}
        for key, values in FORMATS.get(format_, {}).items():
            if key == "bwd":
                continue
            start = values[0] if anew else plain.get(key, values[0])
            hit = narrowest(key, depth if anew else 1)
            chosen[key] = hit[1] if hit and hit[0] else start
        if product != "fprop" and operand != GRADIENT:
            told = narrowest("source", 1)
            if told:
                source = told[1]
        found[product, operand] = (format_, tuple(sorted(chosen.items())), source)
    return {
        slot: (one[0], one[1], "original" if found["fprop", slot[1]][0] == "none" else one[2])
        if slot[0] != "fprop" and slot[1] != GRADIENT
        else one
        for slot, one in found.items()
    }


def model(random: Random) -> tuple[list[Module], int]:
    """Modules of a model as Megatron names them, and how many layers it has."""
    layers = random.randint(1, 7)
    inside = ["self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2"]
    experts = ["mlp.experts.linear_fc1", "mlp.experts.local_experts.0.linear_fc2", "mlp.shared_experts.linear_fc1"]
    found = []
    for layer in range(layers):
        names = inside[:2] + experts if random.random() < 0.5 else inside
        found += [Module(f"decoder.layers.{layer}.{name}", layer + 1) for name in names]
    return [*found, Module("mtp.layers.0.transformer_layer.mlp.linear_fc2", None)], layers


def rounded(share: str, whole: int) -> int:
    """The first so many per cent of whole things, half up, counted one by one."""
    hundredth = round(float(share.rstrip("%")) * 10_000)
    return sum(1 for thing in range(1, whole + 1) if (2 * thing - 1) * 1_000_000 <= 2 * whole * hundredth)


def _in_layers(ranges: str, layer: int | None, layers: int) -> bool:
    def number(bound: str, behind: int) -> int:
        if bound.endswith("%"):
            return rounded(bound, layers) + behind
        return int(bound) if int(bound) > 0 else layers + 1 + int(bound)

    for part in ranges.split(","):
        first, dots, last = re.sub(r"^(\d+)-(\d+)$", r"\1..\2", part.strip()).partition("..")
        low = number(first, 1) if first else 1
        high = (number(last, 0) if last else layers) if dots else low
        if layer is not None and low <= layer <= high:
            return True
    return False


def _named(pattern: str, module: Module) -> bool:
    parts = module.name.split(".")
    if pattern in WORDS:
        if pattern == "attention":
            return any(part.endswith("attention") for part in parts)
        routed, shared = "experts" in parts, "shared_experts" in parts
        return {"mlp": "mlp" in parts and not routed and not shared, "mtp": "mtp" in parts}.get(
            pattern, {"experts": routed, "shared_experts": shared}.get(pattern, False)
        )
    glob = re.escape(pattern.removeprefix("*.")).replace(r"\*", ".*").replace(r"\?", ".")
    glob = re.sub(r"\\\[!(\w+)\\\]|\\\[\\!(\w+)\\\]", lambda hit: f"[^{hit[1] or hit[2]}]", glob)
    return any(re.fullmatch(glob, ".".join(parts[place:])) for place in range(len(parts)))


def _holds(head: str, module: Module, layers: int, step: int, steps: int, evaluates: bool) -> bool:
    words = re.sub(r"\s*,\s*", ",", head).split()
    while words:
        word = words.pop(0)
        if word == "layers":
            good = _in_layers(words.pop(0), module.layer, layers)
        elif word in ("from", "until"):
            bound = words.pop(0)
            last = rounded(bound, steps) if bound.endswith("%") else int(bound)
            good = step <= last if word == "until" else step >= last + bound.endswith("%")
        elif word == "evaluation":
            good = evaluates
        else:
            good = _named(word, module)
        if not good:
            return False
    return True


def _takes_the_place(scope: list[str], key: str, other: str) -> bool:
    *other_scope, other_key = other.split(".")
    if scope:
        return bool(other_scope) and {*scope} <= {*other_scope} and key in ("format", "bwd", other_key)
    return key == other_key or (key == "bwd" and bool({*other_scope} & {"dgrad", "wgrad"}))


def _laid_over(spec: str, amendment: str) -> str:
    name, _, rest = spec.partition(":")
    said = dict(word.split("=") for word in rest.split(",") if word)
    new = dict(word.split("=") for word in amendment.split(","))
    if name == "none" and not said and not any(key.endswith("format") for key in new):
        return spec
    for path in new:
        *scope, key = path.split(".")
        said = {other: value for other, value in said.items() if not _takes_the_place(scope, key, other)}
    words = [f"{key}={value}" for key, value in {**said, **new}.items()]
    return name + (":" + ",".join(words) if words else "")


def spec_at(
    text: str, site: str, module: Module, layers: int, step: int, steps: int, evaluates: bool
) -> Mapping[tuple[str, str], tuple[object, ...]]:
    """What a literal says of one module's operands at one step. Raises QuantctlError as the specs in it do."""
    base, *rules = text.split(";")
    spec = canonical(base, site)
    for rule in rules:
        head, _, value = rule.partition(":")
        if _holds(head, module, layers, step, steps, evaluates):
            value = re.sub(r"\s*,\s*", ",", value.strip())
            amends = "=" in value.partition(":")[0]
            spec = canonical(_laid_over(spec, value) if amends else value, site)
    return operands(spec, site)
