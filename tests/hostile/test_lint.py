"""`quantctl lint` on scripts and commands that grow, recurse, lie about their size or are none: bounded, and said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hostile import assert_civil, run

RELEASE = ("--release", "0.16.1")
TRAIN = "torchrun --nproc-per-node 8 pretrain_gpt.py --num-layers 2 --hidden-size 64 --micro-batch-size 1"
CUT, FINE = "not read to its end", ""

SCRIPTS = {  # text, what is said
    "doubling a variable": ("a=aaaaaaaa\n" + "a=$a$a\n" * 40 + f"{TRAIN} $a\n", CUT),
    "doubling by +=": ("a=aaaaaaaa\n" + 'a+="$a"\n' * 40, CUT),
    "doubling in one word": ("a=aaaaaaaa\n" + "a=$a$a\n" * 12 + f"b={'$a' * 5000}\n", CUT),
    "doubling an array": ("arr=(a b)\n" + 'arr=("${arr[@]}" "${arr[@]}")\n' * 40 + f'{TRAIN} "${{arr[@]}}"\n', CUT),
    "doubling by arr+=": ("arr=(a b)\n" + 'arr+=("${arr[@]}")\n' * 40, CUT),
    "an array of long words": ("a=aaaaaaaa\n" + "a=$a$a\n" * 12 + "b=(a)\n" + 'b+=("$a" "${b[@]}")\n' * 40, CUT),
    "doubling what eval gets": ("a=:\n" + 'a="$a; $a"\n' * 40 + 'eval "$a"\n', CUT),
    "eval of itself": ('a=\'eval "$a"; eval "$a"\'\neval "$a"\n', CUT),
    "a script that sources itself": ("source ./script.sh\nsource ./script.sh\n" + TRAIN, CUT),
    "a function that calls itself": ("f() { f; f; f; f; f; f; f; f; }\nf\n", CUT),
    "two that call each other": ("f() { g; g; }\ng() { f; f; }\nf\n" + TRAIN, CUT),
    "calls in calls": ("".join(f"f{n}() {{ {f'f{n + 1}; ' * 12}}}\n" for n in range(8)) + "f0\n", CUT),
    "ways": ('if [ "$A" = 1 ]; then B=1; else B=2; fi\n' * 2000 + TRAIN, FINE),
    "ways that differ": ("".join(f'[ "$A{n}" = 1 ] && B{n}=1\n' for n in range(5000)) + TRAIN, CUT),
    "exports for every command": ("".join(f"export A{n}=1\n" for n in range(2000)) + "ls\n" * 5000, CUT),
    "loops in loops": ("for a in b; do\n" * 400 + "x=1\n" + "done\n" * 400, FINE),
    "ifs in ifs": ("if true; then\n" * 5000 + "x=1\n" + "fi\n" * 5000, "nested too deeply"),
    "substitutions in substitutions": ("a=" + "$( " * 20_000 + " )" * 20_000 + "\n" + TRAIN, CUT),
    "defaults in defaults": ("a=" + "${b:-" * 5000 + "}" * 5000 + "\n" + TRAIN, CUT),
    "unclosed": ("$((" * 50_000, CUT),
    "subshells in subshells": ("( " * 5000 + ":" + " )" * 5000, "nested too deeply"),
    "braces": ("echo " + "{a,b}" * 5000 + "\n" + "a={1..999999999}\n" + TRAIN, FINE),
    "a sum of 100,000 numbers": ("a=$((" + "1+" * 100_000 + "1))\n" + TRAIN, FINE),
    "products without end": ("a=$((" + "(999999999999*" * 900 + "1" + ")" * 900 + "))\n" + f"{TRAIN} --seed $a", FINE),
    "a number of 5,000 digits": (f"a={'9' * 5000}\n[ $a -gt 3 ] && b=$((a + 1))\n{TRAIN} --seed $a", FINE),
    "digits of other scripts": (f"[ ² -gt ³ ] && echo $²\nf() {{ echo $\u0661; }}; f\n{TRAIN} --seed ²", CUT),
    "an index of 5,000 digits": (f"a=(1 2)\necho ${{a[{'9' * 5000}]}} ${'9' * 5000} ${{{'9' * 5000}}}\n", FINE),
    "lone surrogates": (f"{TRAIN} --seed $'\\ud800' --wandb-exp-name $'\\udfff\\x00'\n", FINE),
    "no UTF-8": (TRAIN.encode() + b" --wandb-exp-name \xff\xfe\x80 --\xff 3\n", FINE),
    "our own signs": (f"{TRAIN} --seed \ufdd0 --save \ufdd1 --load $'\\ufdd0'\n", FINE),
    "NUL": (f"{TRAIN} --seed \0 \0\0\n", FINE),
    "every control character": ("".join(map(chr, range(1, 32))) * 99 + TRAIN, FINE),
    "carriage returns": (TRAIN.replace(" ", " \\\r\n") + "\r\n", FINE),
    "an ELF file": (b"\x7fELF" + bytes(range(256)) * 2000, CUT),
    "no line end": (TRAIN + " --save " + "x" * 2_000_000, CUT),
    "trap without ERR": ("trap " * 200_000 + "\n" + TRAIN, CUT),
    "100,000 lines": ("x=1\n" * 100_000 + TRAIN, FINE),
    "100,000 comments": ("# nothing\n" * 100_000 + TRAIN, FINE),
    "100,000 commands": ("ls -l\n" * 100_000 + TRAIN, CUT),
    "2,000 trainings": (f"{TRAIN}\n" * 2000, "more than 100 training commands"),
    "10,000 flags": (f"{TRAIN} {' '.join(f'--flag-{n} {n}' for n in range(4000))}\n", "more flags that"),
    "a case of 10,000 arms": ("case $a in\n" + "".join(f"  {n}) b={n};;\n" for n in range(10_000)) + "esac\n", FINE),
    "a pattern of stars": (f"a={'a' * 5000}\ncase $a in {'*a' * 2000}b) b=1;; esac\n", FINE),
    "10 MB": ("# a comment of a line\n" * 500_000, "more than the 4,194,304 that are read"),
    "nothing": ("", "no training command found"),
}


def judge(path: Path, text: str | bytes, *more: str):
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
    return run(["lint", *RELEASE, *more, path.name], path.parent)


@pytest.mark.parametrize("case", SCRIPTS)
def test_scripts(case, tmp_path):
    text, says = SCRIPTS[case]
    ended = judge(tmp_path / "script.sh", text)
    assert_civil(ended)
    assert says in ended.out + ended.err
    assert (CUT in ended.err) == (says == CUT or "training commands" in says)
    if says in (CUT, "more than 100 training commands"):
        assert ended.status == 1


NO_SCRIPTS = {  # how to make it -> status, what is said
    "a pipe that nobody writes": (os.mkfifo, 0, "no training command found"),
    "a folder": (os.mkdir, 2, "it is a folder"),
    "a loop": (lambda path: os.symlink(path.name, path), 2, "too many levels of symbolic links"),
    "a device": (lambda path: os.symlink("/dev/zero", path), 2, "it is a device"),
    "absent": (lambda path: None, 2, "no such file or directory"),
    "a terabyte": (lambda path: path.touch() or os.truncate(path, 2**40), 2, "more than the 4,194,304 that are read"),
}


@pytest.mark.parametrize("case", NO_SCRIPTS)
def test_what_is_no_script(case, tmp_path):
    make, status, says = NO_SCRIPTS[case]
    make(tmp_path / "script.sh")
    ended = run(["lint", *RELEASE, "script.sh"], tmp_path)
    assert_civil(ended, status)
    assert says in ended.err


def test_a_name_of_any_bytes(tmp_path):
    name = os.fsdecode(b"\xff\n\x1b[31m.sh")
    (tmp_path / name).write_text(TRAIN)
    ended = run(["lint", *RELEASE, name], tmp_path)
    assert_civil(ended)
    assert "\\udcff\\n\\x1b[31m.sh:1: " in ended.out


SIZES = ("0", "-1", str(10**30), "9" * 5000, "1e308", "nan", "-inf", "²", "1_0", "", "\udcff", "x" * 4000)
NUMBERS = [
    "--num-layers",
    "--hidden-size",
    "--ffn-hidden-size",
    "--num-attention-heads",
    "--num-query-groups",
    "--kv-channels",
    "--seq-length",
    "--max-position-embeddings",
    "--micro-batch-size",
    "--global-batch-size",
    "--tensor-model-parallel-size",
    "--pipeline-model-parallel-size",
    "--context-parallel-size",
    "--expert-model-parallel-size",
    "--num-experts",
    "--train-iters",
    "--eval-interval",
    "--q-lora-rank",
    "--qk-head-dim",
    "--qk-pos-emb-head-dim",
    "--moe-ffn-hidden-size",
    "--mtp-num-layers",
    "--rotary-scaling-factor",
    "--rotary-base",
    "--moe-router-topk",
    "--seed",
    "--lr",
    "--norm-epsilon",
]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: ascii(size)[:12])
def test_absurd_sizes_of_every_flag(size, tmp_path):
    flags = [f"{name}={size}" for name in NUMBERS]
    flags += ["--group-query-attention", "--multi-latent-attention", "--transformer-impl=local", "--swiglu"]
    command = ["torchrun", f"--nproc-per-node={size}", "--nnodes", size, "pretrain_gpt.py", *flags]
    assert_civil(run(["lint", *RELEASE, "--linear", "mxfp8", "--name", f"llama32-1b-{size}", "--", *command], tmp_path))


def test_40_000_words_behind_the_dashes(tmp_path):
    command = ["pretrain_gpt.py", *(word for n in range(20_000) for word in (f"--flag-{n}", str(n)))]
    assert_civil(run(["lint", *RELEASE, "--", *command], tmp_path), 1)


@pytest.mark.parametrize("release", ["9" * 5000 + ".1", "²", "0." + "9" * 30, "-1", "0.16.1\n", "x" * 10**5])
def test_absurd_releases(release, tmp_path):
    assert_civil(run(["lint", "--release", release, "--", "pretrain_gpt.py"], tmp_path))
