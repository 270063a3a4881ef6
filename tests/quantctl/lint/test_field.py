"""Launchers in the shape of public ones, and every way in which a training is handed to another shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantctl.lint.case import Setting
from quantctl.lint.judge import judge, read_script
from quantctl.lint.megatron_flags import table
from quantctl.tree.state import read_state

FIELD = Path(__file__).parent / "field"
BAD = "torchrun --nproc-per-node 8 pretrain_gpt.py --num-layers 2 --no-such-flag"
# script -> errors on a stock tree, what rules the formats
EXPECTED = {
    "false_alarm_array_in_string.sh": (set(), "transformer_engine layers"),
    "pkill_is_no_training.sh": (set(), "transformer_engine layers"),
    "sbatch_heredoc.sh": ({"flag-unknown", "eval-interval"}, "transformer_engine layers"),
    "string_blank_silent.sh": ({"norm-sequence-parallel", "save-interval"}, "every product in the training dtype"),
    "training_lost.sh": ({"flag-unknown", "eval-interval"}, "transformer_engine layers"),
    "until_loop.sh": ({"flag-unknown", "eval-interval"}, "transformer_engine layers"),
    "pretrain_linear_mxfp8.sh": (set(), "what they say is not known"),
    "pretrain_linear_mxfp8_by_sed.sh": (set(), "what they say is not known"),
    "swift_fp8.sh": (set(), "their own recipe: fp8 e4m3, blockwise"),
}


@pytest.fixture(scope="module")
def setting(megatron_tree) -> Setting:
    root = megatron_tree("0.16.1")
    return Setting("0.16.1", root, read_state(root))


@pytest.mark.parametrize("name", EXPECTED)
def test_a_public_launcher(name, setting):
    script = read_script(FIELD / name)
    (judged,) = judge(script, setting)
    errors = {finding.rule.id for finding in judged.findings if finding.severity.value == "error"}
    assert (errors, script.cut) == (EXPECTED[name][0], ())
    assert EXPECTED[name][1] in judged.rules


HANDED = {
    "sbatch --wrap": f'sbatch -N 2 --wrap "srun {BAD}"',
    "ssh": f'ssh -p 22 node1 "cd /x && {BAD}"',
    "ssh reads": f"ssh node1 bash -s <<EOF\n{BAD}\nEOF",
    "tmux": f'tmux new-session -d -s run "{BAD}"',
    "tmux keys": f'tmux send-keys -t run "{BAD}" C-m',
    "screen": f'screen -dmS run bash -c "{BAD}"',
    "srun": f"srun bash -c '{BAD}'",
    "docker": f"docker run --rm image bash -lc '{BAD}'",
    "until": f"until {BAD}; do sleep 1; done",
    "while not": f"while ! {BAD}; do sleep 1; done",
    "retries": f"for i in 1 2 3; do {BAD} && break; done",
    "retry": f'retry() {{ until "$@"; do sleep 1; done; }}\nretry {BAD}',
    "if": f"if ! {BAD}; then exit 1; fi",
    "cat in a substitution": f'CMD=$(cat <<EOF\n{BAD}\nEOF\n)\neval "$CMD"',
    "a file": f"cat > job.sh <<EOF\n#!/bin/bash\n{BAD}\nEOF\nsbatch job.sh",
    "a file first": f"cat <<EOF > job.sh\n{BAD}\nEOF",
    "tee": f"tee job.sh <<EOF\n{BAD}\nEOF",
    "bash reads": f"bash <<'EOF'\n{BAD}\nEOF",
    "a pipe": f'echo "{BAD}" | bash',
    "a substitution": f"log=$({BAD} 2>&1)",
    "background": f"nohup {BAD} > log 2>&1 &\nwait $!",
    "mpirun": f"mpirun -np 8 {BAD.replace('torchrun --nproc-per-node 8', 'python')}",
}


def _read(text: str, tmp_path: Path):
    path = tmp_path / "train.sh"
    path.write_text(text + "\n")
    script = read_script(path)
    return script, judge(script, Setting("0.16.1"))


@pytest.mark.parametrize("text", HANDED.values(), ids=HANDED)
def test_a_training_that_another_shell_starts(text, tmp_path):
    script, judged = _read(text, tmp_path)
    assert any(finding.rule.id == "flag-unknown" for one in judged for finding in one.findings)
    assert not script.cut


SAID = {
    "a wrapper of its own": (f'run_cmd "{BAD}"', "in one word, which is not read"),
    "a function that an argument names": (f'go() {{ {BAD}; }}\n"$@"', "a training is named where no way"),
    "Python": ("python launch.py", "launch.py, which is not looked into"),
    "a script that is elsewhere": ("bash ./run_all.sh", "run_all.sh is started, which does not lie"),
    "make": ("make train", "make starts what is not looked into"),
    "text that nobody knows": ('ssh node "$CMD"', "what ssh runs there is not known"),
    "references": ("declare -n A=B; torchrun pretrain_gpt.py", "declare -n"),
}


@pytest.mark.parametrize(("text", "sentence"), SAID.values(), ids=SAID)
def test_what_is_not_read_is_said(text, sentence, tmp_path):
    script, _ = _read(text, tmp_path)
    assert sentence in "; ".join(script.cut)


NONE = (
    "pkill -f pretrain_gpt.py",
    "pgrep -af 'torchrun .*pretrain_gpt.py'",
    "sha256sum pretrain_gpt.py",
    "cp pretrain_gpt.py backup.py",
    "sed -i s/a/b/ pretrain_gpt.py",
    "grep -n python pretrain_gpt.py",
    "quantctl lint -- torchrun pretrain_gpt.py --num-layers 2",
    "echo torchrun pretrain_gpt.py --num-layers 2",
    "ls",
)


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_training(text, tmp_path):
    script, judged = _read(text, tmp_path)
    assert (judged, script.cut) == ([], ())


@pytest.mark.parametrize("name", ["launch.py", "job.yaml", "Dockerfile", "Makefile"])
def test_other_languages_are_said(name, tmp_path):
    (tmp_path / name).write_text(f"{BAD}\n")
    script = read_script(tmp_path / name)
    assert judge(script, Setting("0.16.1")) == []
    assert "only shell scripts are read" in script.cut[0]


WHO = [
    ("0.16.1", "--transformer-impl local --spec megatron.core.models.gpt.gpt_layer_specs "
     "get_gpt_layer_with_transformer_engine_spec", "pretrain_gpt.py", "transformer_engine layers of --spec"),
    ("0.12.3", "--use-legacy-models", "pretrain_gpt.py", "legacy models have an attention of their own"),
    ("0.16.1", "--transformer-impl local --num-layers 2 --hidden-size 8 --train-iters 3", "pretrain_mamba.py",
     "transformer_engine layers of pretrain_mamba.py"),
    ("0.16.1", "--spec my.specs layer", "pretrain_gpt.py", "--spec decides"),
]  # fmt: skip


@pytest.mark.parametrize(("release", "flags", "program", "says"), WHO)
def test_who_builds_the_layers(release, flags, program, says):
    from quantctl.lint.judge import judge_command

    selectors = {"linear": "mxfp8", "qk": "mxfp8"}
    judged = judge_command(f"torchrun {program} {flags}".split(), Setting(release, selectors=selectors))
    assert says in judged.rules
    assert "--spec" in table(release)
