"""What patched products refuse, and what they leave unquantized. test_releases trains every release."""

from __future__ import annotations


def test_bias_gradient_is_not_quantized(patched, train):
    """With the straight-through backward only W and X are quantized, so the last layer's bias gradient stays stock's
    if the output gradient it sums is the unquantized one: compare bwd=quantized with bwd=high_precision."""
    last_bias = "decoder.layers.1.mlp.linear_fc2.bias"
    gradients = [
        train(patched("0.16.1", linear=f"mxfp4:bwd={bwd}"), ("--bias",))[0]["gradients"][last_bias]
        for bwd in ("quantized", "high_precision")
    ]
    assert gradients[0] == gradients[1]


def test_unknown_value_stops_the_run(patched, run_steps):
    tree = patched("0.16.1", linear="mxfp8")
    layers = tree / "megatron/core/tensor_parallel/layers.py"
    layers.write_text(layers.read_text().replace("_linear = 'mxfp8'", "_linear = 'mxpf8'"))
    done = run_steps(tree, ())
    assert done.returncode != 0
    assert "'mxpf8' is not a format spec" in done.stderr


def test_output_layer_out_of_reach_stops_the_run(patched, run_steps):
    """Transformer Engine's output layer computes its products itself, as any class does that is not Megatron's own."""
    done = run_steps(patched("0.16.1", lm_head="mxfp8"), ("--foreign-head",))
    assert done.returncode != 0
    assert "lm_head=mxfp8: the output layer is a Linear" in done.stderr


def test_logits_of_another_dtype_are_quantized_too(patched, train):
    """Megatron-LM's main lets Transformer Engine compute the output layer when its output is wider than its input."""
    (stock,) = train(patched("main"), ("--wide-logits",))
    assert stock["wide"] == {"operands": 2, "plain": 2, "quantized": 0}
    (step,) = train(patched("main", lm_head="mxfp8"), ("--wide-logits",))
    assert step["wide"] == {"operands": 2, "plain": 0, "quantized": 2}
    assert step["hits"] == {"lm_head": {"mxfp8": {"fprop": 1, "dgrad": 1, "wgrad": 1}}}
