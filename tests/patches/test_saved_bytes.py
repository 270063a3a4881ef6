"""What the linear layers of a real model keep for the backward, in bytes, and that recomputation still works."""

from __future__ import annotations

TOKENS = 2 * 32
WIDTHS = (*(64, 64, 64, 128) * 2, 64)
"""In-features of qkv, proj, fc1 and fc2 of two layers, and of the output layer: all have 64 tokens."""
STEPS = {"bf16": ("--bf16", "--saved"), "fp32": ("--saved",), "recomputed": ("--bf16", "--recompute", "--saved")}
BYTES = {"bf16": 2, "fp32": 4, "recomputed": 2}

BLOCKS = TOKENS // 32 * sum(WIDTHS)
CODES = TOKENS * sum(WIDTHS)
# spec -> codes and block scales of all inputs
PACKED = {"mxfp8": CODES + BLOCKS, "mxfp4": CODES // 2 + BLOCKS, "hifp8": CODES}


def in_head(total: int) -> int:
    """The output layer's part of what all inputs take."""
    return total * WIDTHS[-1] // sum(WIDTHS)


def test_saved_bytes(patched, train, monkeypatch) -> None:
    """Each input of a linear layer is freed, and its codes and scales are all that comes instead: nothing else in this
    model holds on to it. With full recomputation only the output layer is left. numba's kernels keep the input."""
    monkeypatch.setenv("QUANTCTL_KERNELS", "reference")

    def steps(**values: str) -> dict[str, dict]:
        return dict(zip(STEPS, train(patched("0.16.1", **values), *STEPS.values()), strict=True))

    stock = steps()
    for spec, total in PACKED.items():
        quantized = steps(linear=spec, lm_head=spec)
        for name, step in quantized.items():
            less = TOKENS * sum(WIDTHS) * BYTES[name] - total
            expected = in_head(less) if name == "recomputed" else less
            assert stock[name]["saved"] - step["saved"] == expected, (spec, name)
        assert quantized["recomputed"]["gradients"] == quantized["bf16"]["gradients"]
