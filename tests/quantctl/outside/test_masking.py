"""What is a secret in a command line or a variable, and what only looks like one."""

from __future__ import annotations

import shlex

import pytest

from quantctl.outside.masking import is_secret_name, masked, masked_value

SECRET = [
    "WANDB_API_KEY",
    "--wandb-key",
    "--hf-token",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "PGPASSWORD",
    "DB_PASSWD",
    "DB_PWD",
    "apiKey",
    "wandb.api_key",
    "NCCL_AUTH_TOKEN",
    "TORCH_SECRET",
    "token",
    "--key",
    "MY_CREDENTIALS",
    "--git-pat",
    "http.authorization",
]
PLAIN = [
    "--tokenizer-model",
    "--tokenizer-type",
    "TOKENIZERS_PARALLELISM",
    "--kv-channels",
    "--num-key-value-heads",
    "--moe-token-dispatcher-type",
    "--moe-token-drop-policy",
    "--moe-pad-expert-input-to-capacity",
    "--json-keys",
    "--text-key",
    "--eos-token",
    "--image-token",
    "--eod-mask-loss",
    "--max-tokens-to-oom",
    "--train-tokens",
    "--tokens-per-sample",
    "HF_TOKEN_PATH",
    "--credentials-file",
    "PWD",
    "OLDPWD",
    "--keep-last",
    "--pass",
    "--monkey",
    "KEYBOARD",
    "PATH",
    "--patch-dim",
    "--cp-comm-type",
    "--forward-pass",
    "--qk-layernorm",
    "AUTHOR",
]


@pytest.mark.parametrize("name", SECRET)
def test_names_of_secrets(name):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", PLAIN)
def test_names_that_only_look_like_it(name):
    assert not is_secret_name(name)


HUB = "hf_" + "aB3" * 11
COMMANDS = {
    "a variable": ("env WANDB_API_KEY=abc A=b python t.py", "env WANDB_API_KEY=*** A=b python t.py"),
    "a flag and its value": ("t.py --wandb-key abc --lr 1", "t.py --wandb-key *** --lr 1"),
    "a flag with its value": ("t.py --hf-token=abc=,d --lr=1", "t.py --hf-token=*** --lr=1"),
    "a single dash": ("t.py -api-key abc", "t.py -api-key ***"),
    "a value that begins with a dash": ("t.py --wandb-key -abc", "t.py --wandb-key ***"),
    "a flag without a value": ("t.py --wandb-key --lr 1", "t.py --wandb-key --lr 1"),
    "the last word": ("t.py --wandb-key", "t.py --wandb-key"),
    "an empty value": ("env HF_TOKEN= t.py", "env HF_TOKEN= t.py"),
    "a password in a URL": ("t.py --proxy http://me:pw@host:80/x", "t.py --proxy http://me:***@host:80/x"),
    "no password in a URL": ("t.py s3://bucket/a:b http://host:80/@x", "t.py s3://bucket/a:b http://host:80/@x"),
    "a query": ("curl https://h/x?a=1&api_key=abc&b=2", "curl https://h/x?a=1&api_key=***&b=2"),
    "a token by its form": (f"t.py --load {HUB} a/{HUB}", "t.py --load *** a/***"),
    "variables for Slurm": ("sbatch --export=ALL,HF_TOKEN=a,B=c", "sbatch --export=ALL,HF_TOKEN=***,B=c"),
    "a command in a word": (
        "bash -c 'export HF_TOKEN=\"a b\"; python t.py --wandb-key c --lr 1 && echo d'",
        "bash -c 'export HF_TOKEN=***; python t.py --wandb-key *** --lr 1 && echo d'",
    ),
    "JSON": ('t.py \'{"api_key": "abc", "lr": "1"}\'', 't.py \'{"api_key": ***, "lr": "1"}\''),
    "a setting of Hydra's": ("t.py +logger.api_key=abc lr=1", "t.py +logger.api_key=*** lr=1"),
    "quotes in quotes": (
        'sh -c "sh -c \'A=b HF_TOKEN=c t.py x\\"a b\\"\'"',
        'sh -c "sh -c \'A=b HF_TOKEN=*** t.py x\\"a b\\"\'"',
    ),
    "a header": ("curl -H 'Authorization: Bearer abcdef123'", "curl -H 'Authorization: *** ***'"),
    "Megatron-LM's own": (
        "pretrain_gpt.py --tokenizer-type NullTokenizer --kv-channels 128 --moe-token-dispatcher-type alltoall "
        "--data-path 0.5 a:b --split 99,1,0 --eos-token '</s>' --seed 1",
        None,
    ),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_commands(case):
    before, after = (shlex.split(text or COMMANDS[case][0]) for text in COMMANDS[case])
    assert masked(before) == after
    assert masked(after) == after


VALUES = {
    ("NCCL_NET_PLUGIN", "x"): "x",
    ("NCCL_AUTH_TOKEN", "x"): "***",
    ("PYTHONPATH", f"/a:{HUB}"): "/a:***",
    ("MASTER_ADDR", "http://u:p@h"): "http://u:***@h",
    ("HF_TOKEN", ""): "",
}


@pytest.mark.parametrize("case", VALUES, ids=str)
def test_variables(case):
    assert masked_value(*case) == VALUES[case]


@pytest.mark.parametrize("word", ["a" * 20_000, "a-" * 10_000, "a=" * 10_000, '"' * 9, "' '", '" x', "e://" * 5_000])
def test_absurd_words_take_no_time(word):
    assert len(masked([word, "--x", f"b {word}"])) == 3
