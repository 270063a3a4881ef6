"""Programs that bring their own way to Megatron: ms-swift's `megatron`, and MindSpeed on NPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SWIFT = """#!{python}
# stands where ms-swift 3.x has its `megatron` program: it trains on the clone that MEGATRON_LM_PATH names
import os, sys
sys.path.append(os.environ["MEGATRON_LM_PATH"])
import megatron.core
from megatron.core.tensor_parallel import layers
print(sys.argv[1:], os.environ["MEGATRON_LM_PATH"], megatron.core.__file__, layers.custom_quant_type_linear)
"""


def test_ms_swift_trains_on_the_staged_tree(quantctl, megatron_tree, tmp_path):
    program = tmp_path / "bin" / "megatron"
    program.parent.mkdir()
    program.write_text(SWIFT.format(python=sys.executable))
    program.chmod(0o755)
    environment = {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    arguments = ["--run-dir", tmp_path / "run", "--", "megatron", "pt", "--train_iters", "2"]
    done = quantctl("--megatron", megatron_tree("0.15.3"), "exec", "--linear", "hifp8", *arguments, env=environment)
    # the program trains nothing, and the proof says so
    assert done.status == 1
    assert "linear should have run in hifp8" in done.err
    words, (tree, core, value) = done.out[: done.out.index("]") + 1], done.out[done.out.index("]") + 1 :].split()
    assert words == "['pt', '--train_iters', '2']"
    assert "/staged/" in tree
    assert Path(core).is_relative_to(tree)
    assert value == "hifp8"


def test_mindspeeds_adaptor_comes_after_torch_and_before_the_trainer(tmp_path):
    """Programs that write down when they are imported stand for torch, torch_npu and MindSpeed."""
    for name in ("torch", "torch_npu", "mindspeed", "mindspeed/megatron_adaptor", "beside"):
        path = tmp_path / ("trainer" if name == "beside" else "site") / f"{name}.py"
        if name == "mindspeed":
            path = path.with_suffix("") / "__init__.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("print(__name__)\n")
    trainer = tmp_path / "trainer" / "pretrain_gpt.py"
    trainer.write_text("import sys, beside\nprint(__name__, sys.argv)\n")
    command = [sys.executable, "-m", "quantctl.launch.mindspeed", str(trainer), "--num-layers", "2"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert run().stdout.splitlines() == [
        *("torch", "torch_npu", "mindspeed", "mindspeed.megatron_adaptor", "beside"),
        f"__main__ {[str(trainer), '--num-layers', '2']}",
    ]
    (tmp_path / "site" / "torch_npu.py").unlink()
    done = run()
    assert done.returncode == 2
    assert "torch_npu does not import" in done.stderr
