"""What people mistype, and what that prints: what is wrong, then what to do next; exit status 2, nothing changed."""

from __future__ import annotations

import shlex

import pytest

from quantctl.outside import packages

# TREE is a stock tree, NO_TREE a folder that holds none
FORMATS = "none, bf16, hif8, hif4, mxfp8, mxfp6, mxfp4, nvfp4, fp8, int8, hifp8, hifp4; quantctl list formats"
LISTED = "quantctl list modes recipes shows all; selectors are written 'linear=mxfp8:scale=floor qk=mxfp4'"
MISTAKES = {
    "a misspelt command": (
        "chekc",
        "unknown command 'chekc'",
        "did you mean check? quantctl --help explains them",
    ),
    "another tool's command": (
        "train",
        "unknown command 'train'",
        "quantctl --help explains them",
    ),
    "a command too many": (
        "check set",
        "quantctl check takes no 'set'",
        "one command at a time: quantctl check, then quantctl set",
    ),
    "options without their dashes": (
        "--megatron TREE set linear mxfp8 qk=mxfp4",
        "quantctl set takes no 'linear mxfp8 qk=mxfp4'",
        "did you mean --linear mxfp8?",
    ),
    "a mode without its option": (
        "--megatron TREE set FA_mxfp8",
        "quantctl set takes no 'FA_mxfp8'",
        "did you mean --mode FA_mxfp8?",
    ),
    "a tree without its option": (
        "check TREE",
        "quantctl check takes no 'TREE'",
        "did you mean --megatron TREE?",
    ),
    "a word too many": (
        "--megatron TREE restore abc",
        "quantctl restore takes no 'abc'",
        "quantctl restore --help explains it",
    ),
    "a misspelt mode": (
        "set --mode FA_linear_mxpf8",
        "unknown mode 'FA_linear_mxpf8'",
        f"did you mean FA_linear_mxfp8? {LISTED}",
    ),
    "a mode's halves the other way round": (
        "set --mode mxfp8_linear",
        "unknown mode 'mxfp8_linear'",
        LISTED,
    ),
    "a mode of another format": (
        "run --model llama32-1b --dataset wikipedia --mode FA_fp5",
        "unknown mode 'FA_fp5'",
        f"did you mean FA_fp8? {LISTED}",
    ),
    "a misspelt recipe": (
        "--megatron TREE set --mode te-nvpf4",
        "unknown mode 'te-nvpf4'",
        f"did you mean te-nvfp4? {LISTED}",
    ),
    "a misspelt model": (
        "run --model llama3.2-1b --dataset wikipedia --mode bf16",
        "unknown model 'llama3.2-1b'",
        "did you mean llama32-1b? choose from: llama31-8b, llama32-1b, deepseek2_lite",
    ),
    "a misspelt dataset": (
        "run --model llama32-1b --dataset wiki --mode bf16",
        "unknown dataset 'wiki'",
        "did you mean wikipedia? choose from: wikipedia, dolma",
    ),
    "a misspelt format": (
        "--megatron TREE set --linear mxpf8",
        "'mxpf8' is not a format spec: unknown format 'mxpf8'",
        f"did you mean mxfp8? choose from: {FORMATS}",
    ),
    "an option that the format lacks": (
        "--megatron TREE set --linear mxfp4:elem=e5m2",
        "'mxfp4:elem=e5m2' is not a format spec: 'elem=e5m2' is no option of mxfp4",
        "choose from: scale=..., round=..., block=..., headroom=..., hadamard=..., signs=..., hadamard_out=..., "
        "bwd=...; quantctl list formats",
    ),
    "a value that the option lacks": (
        "--megatron TREE set --linear mxfp8:scale=flor",
        "'mxfp8:scale=flor' is not a format spec: scale=flor",
        "choose from: scale=rceil, scale=floor, scale=even, scale=ceil; quantctl list formats",
    ),
    "a format in the place of a mode": (
        "exec --mode mxfp8:scale=floor -- true",
        "'mxfp8:scale=floor' is a format: of which products?",
        "name its selector: linear=mxfp8:scale=floor",
    ),
    "a misspelt selector": (
        "--megatron TREE check --expect linaer=mxfp8",
        "unknown selector 'linaer'",
        "did you mean linear? choose from: linear, lm_head, qk, pv, attention",
    ),
    "a selector twice": (
        "--megatron TREE set --mode 'linear=mxfp8 linear=mxfp4'",
        "'linear=mxfp8 linear=mxfp4' says linear twice",
        "name each selector once",
    ),
    "two modes where one is meant": (
        "--megatron TREE set --mode bf16,FA_mxfp8",
        "'bf16,FA_mxfp8' names 2 modes",
        "one is meant here: give a single one",
    ),
    "a misspelt training config": (
        "run --model llama32-1b --dataset wikipedia --mode bf16 --training-config smokey",
        "unknown training config 'smokey'",
        "did you mean smoke? choose from: standard, fast, smoke",
    ),
    "a misspelt platform": (
        "run --model llama32-1b --dataset wikipedia --mode bf16 --platform gpu",
        "unknown platform 'gpu'",
        "choose from: cuda, npu, cpu",
    ),
    "a misspelt launcher": (
        "run --model llama32-1b --dataset wikipedia --mode bf16 --launcher slrum",
        "unknown --launcher 'slrum'",
        "did you mean slurm? choose from: local, slurm",
    ),
    "a misspelt option": (
        "--megatron TREE set --linera mxfp8",
        "quantctl set has no option '--linera'",
        "did you mean --linear? quantctl set --help lists the options",
    ),
    "Megatron's flag in front of --": (
        "run --model llama32-1b --dataset wikipedia --mode bf16 --lr 0.1",
        "quantctl run has no option '--lr'",
        "it is a flag of Megatron's: write it behind --, as in quantctl run ... -- --lr ...",
    ),
    "no model": (
        "run --mode bf16",
        "quantctl run needs --model",
        "choose from: llama31-8b, llama32-1b, deepseek2_lite",
    ),
    "no mode": (
        "run --model llama32-1b --dataset wikipedia",
        "quantctl run needs --mode",
        "quantctl list modes shows all, such as FA_linear_mxfp8",
    ),
    "no data": (
        "run --model llama32-1b --mode bf16",
        "no data: neither --dataset nor --data was given",
        "give --dataset wikipedia or dolma, or --data PREFIX of your own",
    ),
    "several modes here": (
        "run --model llama32-1b --dataset wikipedia --mode bf16,FA_mxfp8",
        "several modes are for Slurm",
        "add --launcher slurm, or: quantctl sweep, which compares",
    ),
    "a path that is no tree": (
        "--megatron NO_TREE check",
        "--megatron names NO_TREE, which holds no megatron/core",
        "give a Megatron-LM checkout, an unpacked megatron-core wheel or a site-packages directory",
    ),
    "a path too deep in a tree": (
        "--megatron TREE/megatron/core check",
        "--megatron names TREE/megatron/core, which holds no megatron/core",
        "it lies in one that does: TREE",
    ),
    "a path that is not there": (
        "check --megatron nowhere",
        "--megatron names NO_TREE/nowhere, which holds no megatron/core",
        "give a Megatron-LM checkout, an unpacked megatron-core wheel or a site-packages directory",
    ),
    "an option without its value": (
        "--megatron TREE set mxfp8 --linear",
        "option '--linear' requires an argument",
        "quantctl list formats shows all, such as mxfp8",
    ),
    "a mode for a format": (
        "--megatron TREE set --linear linear_mxfp8",
        "'linear_mxfp8' is a mode, and --linear takes a format",
        "give mxfp8, or --mode linear_mxfp8",
    ),
    "a mode in the place of a command": (
        "exec linear_mxfp8 -- true",
        "'linear_mxfp8' is a mode, and no command",
        "give it as --mode linear_mxfp8",
    ),
    "a program that is not there": (
        "--megatron TREE exec --mode bf16 -- pyhton train.py",
        "cannot start 'pyhton': there is no such program",
        "name a program on PATH",
    ),
    "a script that is no program": (
        "--megatron TREE exec --mode bf16 -- TREE/megatron/core/package_info.py",
        "cannot start 'TREE/megatron/core/package_info.py': the file is not executable, or no path was given",
        "start what runs it, as in -- bash TREE/megatron/core/package_info.py",
    ),
    "a command in quotes": (
        "--megatron TREE exec --mode bf16 -- 'true and more'",
        "cannot start 'true and more': it is one word",
        "leave the quotes away: -- true and more",
    ),
    "nothing to inspect it with": (
        "inspect x.pt",
        "quantctl inspect needs --spec",
        "quantctl list formats shows all, such as mxfp8",
    ),
    "arguments the other way round": (
        "inspect mxfp8 --spec x.pt",
        "'x.pt' is not a format spec: unknown format 'x.pt'",
        f"choose from: {FORMATS}",
    ),
    "a report on nothing": (
        "report nowhere",
        "nowhere does not exist",
        "a run is a folder with manifest.json (quantctl exec writes it), a Megatron-LM log, or TensorBoard event files",
    ),
    "an operation that is not there": (
        "--megatron TREE restore --to deadbeef",
        "no operation of this tree starts with 'deadbeef'",
        "quantctl log lists them",
    ),
    "no command to run": (
        "exec --mode bf16",
        "no command was given",
        "write it behind --: quantctl exec --mode bf16 -- python train.py",
    ),
    "no selectors anywhere": (
        "--megatron TREE exec -- true",
        "no selector was given, and this tree is stock: it has none of its own",
        "give --mode, or set the tree's: quantctl set --linear mxfp8",
    ),
    "scripts and a command": (
        "lint a.sh -- python pretrain_gpt.py",
        "give scripts, or a command behind --, and not both",
        "quantctl lint train.sh, or: quantctl lint -- torchrun pretrain_gpt.py ...",
    ),
    "no tokenizer": (
        "data prepare x.jsonl --output d",
        "--tokenizer or --train-bpe: neither was given",
        "give one of them",
    ),
    "seeds that are no numbers": (
        "sweep --model llama32-1b --dataset dolma --seeds '1;2'",
        "--seeds 1;2: these are no numbers",
        "write them as 1,2,3",
    ),
    "a number out of range": (
        "run --model llama32-1b --dataset wikipedia --mode bf16 --iterations 0",
        "invalid value for '--iterations': 0 is not in the range x>=1",
        "quantctl run --help explains it",
    ),
    "slurm's options without slurm": (
        "run --model llama32-1b --dataset wikipedia --mode bf16 --sbatch=--nodes=2",
        "--sbatch is for Slurm",
        "add --launcher slurm",
    ),
    "a rule that is not there": (
        "lint --explain no-such",
        "unknown rule 'no-such'",
        "docs/lint.md explains them",
    ),
    "a kind that is not there": (
        "list mode",
        "unknown kind 'mode'",
        "did you mean modes? choose from: models, datasets, modes, recipes, formats, configs, platforms",
    ),
}


@pytest.mark.parametrize(("command", "message", "hint"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake(command, message, hint, called, megatron_tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def placed(text: str) -> str:
        return text.replace("NO_TREE", str(tmp_path)).replace("TREE", str(megatron_tree("0.16.1")))

    done = called(*map(placed, shlex.split(command)))
    said = [line for line in done.err.splitlines() if not line.startswith("tree: ")]
    assert said == [placed(f"quantctl: {message}"), placed(f"  {hint}")]
    assert (done.status, done.out, list(tmp_path.iterdir())) == (2, "", [])


def test_outside_of_any_tree(called, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("quantctl.tree.tree._installed_root", lambda: None)
    done = called("check")
    assert (done.status, done.out) == (2, "")
    assert done.err == (
        "quantctl: no Megatron tree found: no --megatron, no MEGATRON_LM_PATH, none in the parents of "
        f"{tmp_path}, no installed megatron-core\n  pass --megatron PATH, or: pip install megatron-core\n"
    )


def test_undo_before_anything_is_no_mistake(called, megatron_tree):
    done = called("undo", "--megatron", megatron_tree("0.16.1"))
    assert (done.status, done.out) == (0, "")
    assert done.err.endswith("\nnothing to undo on this tree\n")


MISSING = {
    "inspect x.pt --spec mxfp8": ("inspect needs torch and numpy, which are not installed", "kernels"),
    "inspect x.safetensors --spec mxfp8": (
        "inspect needs torch, numpy and safetensors, which are not installed",
        "kernels,safetensors",
    ),
    "report events.out.tfevents.1 --output o": (
        "this report needs matplotlib and tensorboard, which are not installed",
        "report",
    ),
    "bench --png x.png": ("bench needs torch, numpy and matplotlib, which are not installed", "kernels,report"),
    "smoke llama32-1b": ("smoke needs torch and numpy, which are not installed", "kernels"),
    "sweep --model llama32-1b --dataset wikipedia": (
        "a sweep with its report needs torch, numpy, tokenizers, megatron-core, tensorboard and matplotlib, "
        "which are not installed",
        "megatron,report",
    ),
    "data prepare a.parquet b.jsonl.zst --tokenizer t.json --output d": (
        "data prepare needs numpy, tokenizers, pyarrow and backports.zstd, which are not installed",
        "data",
    ),
    "lint a.sh": (
        "reading scripts (a command behind -- is judged without) needs tree-sitter and tree-sitter-bash, "
        "which are not installed",
        "lint",
    ),
}


@pytest.mark.parametrize("command", MISSING)
def test_all_that_is_missing_is_named_at_once(command, called, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.parquet", "b.jsonl.zst", "events.out.tfevents.1"):
        (tmp_path / name).touch()
    monkeypatch.setattr(packages, "is_there", lambda _: False)
    message, extras = MISSING[command]
    done = called(*shlex.split(command))
    assert done.status == 2
    assert f"quantctl: {message}\n" in done.err
    assert done.err.rstrip().endswith(f"[{extras}]'")


def test_without_a_clone_the_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "_CLONE", tmp_path)
    error = packages.lack("it", {"megatron": ("json", "no_such_module"), "kernels": ("megatron.no_such",)})
    assert error is not None
    assert error.message == "it needs no_such_module and megatron.no_such, which are not installed"
    assert error.hint.endswith(" -m pip install no_such_module megatron.no_such")


def test_another_python_is_asked(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho torch\n")
    python.chmod(0o755)
    error = packages.lack("it", {"kernels": ("torch", "numpy")}, str(python))
    assert error is not None
    assert error.message == f"it needs torch, which {python} does not have"
