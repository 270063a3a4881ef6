"""What a run prints, writes and computes."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import re
import shutil
import signal
from pathlib import Path

import pytest

from quantctl.pretrain import checkpoint
from quantctl.tree.state import plan, read_state


@pytest.fixture(scope="module")
def base(train, tmp_path_factory):
    """Ten iterations with everything on: validation, events, a checkpoint at 5 and at 10; its folder.

    So are the flags that change nothing here: the other runs do without them and must compute the same.
    """
    folder = tmp_path_factory.mktemp("base")
    flags = f"--eval-interval 5 --eval-iters 2 --log-throughput --save-interval 5 --save {folder / 'ckpt'}"
    idle = (
        "--attention-backend unfused --use-mcore-models --no-bias-swiglu-fusion --no-bias-dropout-fusion "
        "--num-workers 4 --use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather "
        "--distributed-backend gloo --accumulate-allreduce-grads-in-fp32 --ckpt-format torch --recompute-activations"
    )
    return train(*flags.split(), *idle.split(), "--tensorboard-dir", folder / "events"), folder


def test_log_lines_are_megatrons(base) -> None:
    run, _ = base
    assert list(run.fields) == list(range(1, 11))
    assert list(run.fields[10]) == [
        "consumed samples",
        "elapsed time per iteration (ms)",
        "throughput per GPU (TFLOP/s/GPU)",
        "learning rate",
        "global batch size",
        "lm loss",
        "loss scale",
        "grad norm",
        "number of skipped iterations",
        "number of nan iterations",
    ]
    assert run.fields[10]["consumed samples"] == 40
    assert re.search(
        r"^ \[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\] iteration        1/      10 \| consumed samples:            4 \|"
        r" elapsed time per iteration \(ms\): \d+\.\d \| throughput per GPU \(TFLOP/s/GPU\): \d+\.\d \|"
        r" learning rate: 5\.000000E-03 \| global batch size:     4 \| lm loss: 5\.\d{6}E\+00 \| loss scale: 1\.0 \|"
        r" grad norm: \d+\.\d{3} \| number of skipped iterations:   0 \| number of nan iterations:   0 \|$",
        run.out,
        re.MULTILINE,
    )


def test_validation_lines_are_megatrons(base) -> None:
    run, _ = base
    lines = [line for line in run.out.splitlines() if "validation loss" in line]
    heads = [line.split(" |")[0] for line in lines]
    assert heads == [
        " validation loss at iteration 5",
        " validation loss at iteration 10",
        " validation loss at iteration 10 on validation set",
        " validation loss at iteration 10 on test set",
    ]
    for line in lines:
        value, perplexity = map(float, re.findall(r"(?:value|PPL): (\S+)", line))
        assert perplexity == pytest.approx(math.exp(value), rel=1e-5)


def test_the_header_says_what_runs(base) -> None:
    run, _ = base
    spec = importlib.util.find_spec("megatron.core")
    assert spec is not None
    assert spec.origin is not None
    version = importlib.metadata.version("megatron-core")
    assert f"tree        megatron-core {version}, {Path(spec.origin).parent}\n" in run.err
    # embedding (tied) + 2 x (qkv, proj, gated MLP, two norms) + last norm
    count = 256 * 32 + 2 * (32 * 64 + 32 * 32 + 3 * 32 * 64 + 2 * 32) + 32
    assert f"parameters  {count:,}\n" in run.err
    assert "vocabulary  256 (padded 256)\n" in run.err
    assert "10 iterations, 640 tokens\n" in run.err


def test_event_tags_are_megatrons(base, scalars) -> None:
    run, folder = base
    events = scalars(folder / "events")
    tags = {"learning-rate", "batch-size", "lm loss", "loss-scale", "grad-norm", "lm loss validation"}
    assert set(events) == tags | {f"{tag} vs samples" for tag in tags}
    assert list(events["lm loss"]) == list(range(1, 11))
    assert list(events["lm loss vs samples"]) == list(range(4, 44, 4))
    assert {i: float(f"{v:.6E}") for i, v in events["lm loss"].items()} == run.losses


def test_the_learning_rate_follows_the_cosine(base) -> None:
    run, _ = base
    # the line shows the rate after n iterations: 2 of warmup, then 8 of decay to 0
    for n, fields in run.fields.items():
        wanted = 0.01 * n / 2 if n <= 2 else 0.01 * (1 + math.cos(math.pi * (n - 2) / 8)) / 2
        assert fields["learning rate"] == pytest.approx(wanted, rel=1e-6, abs=1e-12)


def test_loss_starts_at_ln_v_and_falls(base) -> None:
    losses = base[0].losses
    assert losses[1] == pytest.approx(math.log(256), abs=0.05)  # logits of std 0.02 sqrt(32) = 0.11 shift it by std^2/2
    assert losses[10] < losses[1] - 0.5


def test_same_seed_same_run_to_the_last_bit(base, train, scalars, tmp_path) -> None:
    run = train("--tensorboard-dir", tmp_path, "--eval-interval", 5, "--eval-iters", 2, "--log-interval", 5)
    first, second = scalars(base[1] / "events"), scalars(tmp_path)
    # one line after the first iteration, then the means of five
    assert list(run.losses) == [1, 5, 10]
    assert run.losses[10] == pytest.approx(sum(first["lm loss"][i] for i in range(6, 11)) / 5, rel=1e-6)
    assert second["lm loss"] == first["lm loss"]
    assert second["grad-norm"] == first["grad-norm"]
    assert second["lm loss validation"] == first["lm loss validation"]


def test_resume_continues_the_same_curve_to_the_last_bit(base, train, scalars, tmp_path) -> None:
    run, folder = base
    assert (folder / "ckpt" / checkpoint.TRACKER).read_text() == "10"
    shutil.copytree(folder / "ckpt" / "iter_0000005", tmp_path / "iter_0000005")
    (tmp_path / checkpoint.TRACKER).write_text("5")
    (tmp_path / ".iter_0000010.draft" / "mp_rank_00").mkdir(parents=True)  # what a killed save leaves
    flags = f"--load {tmp_path} --save {tmp_path} --eval-interval 5 --eval-iters 2"
    resumed = train(*flags.split(), "--tensorboard-dir", tmp_path / "events")
    assert f" loading checkpoint from {tmp_path} at iteration 5" in resumed.out
    whole, rest = scalars(folder / "events"), scalars(tmp_path / "events")
    for tag in ("lm loss", "grad-norm", "learning-rate", "lm loss validation"):
        assert rest[tag] == {i: value for i, value in whole[tag].items() if i > 5}, tag
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "events") == [
        "iter_0000005",
        "iter_0000010",
        checkpoint.TRACKER,
    ]
    assert resumed.fields[10]["consumed samples"] == run.fields[10]["consumed samples"]


def test_resume_continues_stochastic_rounding_and_phases(train, stock_copy, scalars, tmp_path) -> None:
    tree = stock_copy("0.16.1")
    values = {
        "linear": "mxfp4:round=stochastic; layers 1: mxfp8; from 5: fprop.format=none; evaluation: none",
        "qk": "mxfp8:round=stochastic; until 50%: none",
    }
    for file, raw in plan(read_state(tree), values).items():
        (tree / file).write_bytes(raw)
    flags = ["--train-iters", 6, "--save-interval", 3, "--save", tmp_path / "ckpt"]
    train(*flags, "--tensorboard-dir", tmp_path / "whole", tree=tree)
    (tmp_path / "ckpt" / checkpoint.TRACKER).write_text("3")
    train(*flags, "--load", tmp_path / "ckpt", "--tensorboard-dir", tmp_path / "rest", tree=tree)
    whole, rest = scalars(tmp_path / "whole")["lm loss"], scalars(tmp_path / "rest")["lm loss"]
    assert rest == {i: value for i, value in whole.items() if i > 3}


def test_resume_with_another_model_names_the_flag(base, train) -> None:
    refused = train("--load", base[1] / "ckpt", "--rotary-base", 500000, status=2)
    assert "--rotary-base is 500000, and the checkpoint" in refused.err
    assert "was made with 10000" in refused.err


def test_load_from_nowhere_starts_from_random(base, train, tmp_path) -> None:
    run = train("--load", tmp_path, "--train-iters", 10, "--exit-interval", 3)
    assert f"WARNING: could not find the metadata file {tmp_path / checkpoint.TRACKER}" in run.out
    assert "will not load any checkpoints and will start from random" in run.out
    assert "exiting program at iteration 3" in run.out
    assert run.losses == {i: base[0].losses[i] for i in (1, 2, 3)}


def test_divergence_is_a_finding_and_omits_the_loss(train) -> None:
    run = train("--lr", "1e20", "--lr-warmup-iters", 0, status=1)
    last = max(run.fields)
    assert "training diverged" in run.err
    assert last < 10
    assert "lm loss" in run.fields[1]
    run = train("--lr", "1e20", "--lr-warmup-iters", 0, "--no-check-for-nan-in-loss-and-grad")
    assert len(run.fields) == 10
    assert "lm loss" not in run.fields[10]


def test_bf16_trains_with_fp32_master_weights(base, train, tmp_path) -> None:
    import torch

    run = train("--bf16", "--save", tmp_path)
    # one rounding of the weights to bf16 (2^-9) shifts the first loss by less than that part of the logits' spread
    assert run.losses[1] == pytest.approx(base[0].losses[1], abs=2**-9)
    assert run.losses[10] < run.losses[1] - 0.5
    saved = torch.load(tmp_path / "iter_0000010/mp_rank_00/model_optim_rng.pt", weights_only=True)
    weights = {name: w for name, w in saved["model"].items() if isinstance(w, torch.Tensor)}
    assert {w.dtype for w in weights.values()} == {torch.bfloat16}
    masters = saved["optimizer"]["masters"]
    assert {w.dtype for w in masters.values()} == {torch.float32}
    for name, master in masters.items():
        assert torch.equal(master.to(torch.bfloat16), weights[name]), name
    assert any(not torch.equal(master.to(torch.bfloat16).float(), master) for master in masters.values())


@pytest.fixture(scope="module")
def on_prose(train, prose):
    return train("--train-iters", 30, "--global-batch-size", 8, "--eval-iters", 2, data=prose)


def test_prose_is_learnt(on_prose) -> None:
    losses = on_prose.losses
    assert losses[1] == pytest.approx(math.log(2048), abs=0.05)
    assert losses[30] < losses[1] - 0.5
    assert "vocabulary  2,048 (padded 2,048)\n" in on_prose.err
    assert "validation loss at iteration 30 on validation set" in on_prose.out
    assert "on test set" not in on_prose.out  # --split leaves it empty


def test_an_older_release_computes_the_same(on_prose, train, prose, megatron_tree) -> None:
    tree = megatron_tree("0.12.3")
    run = train("--train-iters", 30, "--global-batch-size", 8, "--eval-iters", 2, data=prose, tree=tree)
    assert f"megatron-core 0.12.3, {tree}" in run.err
    assert run.losses == on_prose.losses


def test_tensor_parallel_computes_the_same(train) -> None:
    # Adam with epsilon 1 moves weights by lr x gradient and so does not amplify rounding, as lr x sign(gradient) does.
    flags = ("--adam-eps", 1, "--lr", 0.5, "--weight-decay", 0)
    one, two = train(*flags), train(*flags, "--tensor-model-parallel-size", 2, ranks=2)
    # Splitting changes the order of sums only. A sum of n products moves by at most n u of its terms' magnitude; a
    # pass has 7 products a layer and the head, n is at most 64, and logits are below |x| |w| = sqrt(32) x 0.02 sqrt(32)
    # in size. The loss moves by at most twice what a logit does, plus its own rounding; each step adds another pass.
    u, n, products, logit, loss = 2**-24, 64, 2 * 7 + 1, 0.64, math.log(256)
    one_pass = 2 * products * n * u * logit + 4 * u * loss
    assert list(two.losses) == list(one.losses)
    for i in one.losses:
        assert abs(two.losses[i] - one.losses[i]) <= i * one_pass + 1e-6, i  # + what seven digits in the log hide
        # norms are logged to three decimals, and weights that both ranks hold must count once
        assert two.fields[i]["grad norm"] == pytest.approx(one.fields[i]["grad norm"], abs=2e-3), i
    assert one.losses[10] < one.losses[1]


@pytest.mark.parametrize(
    ("ranks", "flags", "message", "hint"),
    [
        (1, "--tensor-model-parallel-size 2", "does not divide the number of processes, 1", "--nproc-per-node 2"),
        (3, "--tensor-model-parallel-size 2", "does not divide the number of processes, 3", "--nproc-per-node 2"),
        (
            2,
            "--num-experts 4 --expert-model-parallel-size 4",
            "--expert-model-parallel-size 4 x tensor parallel size 1 does not divide",
            "--nproc-per-node 4",
        ),
        (4, "", "--global-batch-size 2 is not divisible by 4 data-parallel ranks x --micro-batch-size 2", "of 8"),
    ],
    ids=["too few", "left over", "experts", "batch"],
)
def test_the_number_of_processes_fits_the_parallel_sizes(monkeypatch, ranks, flags, message, hint) -> None:
    from quantctl.errors import QuantctlError
    from quantctl.pretrain.arguments import parse
    from quantctl.pretrain.parallel import _check_world

    from_test = "--num-layers 2 --hidden-size 32 --num-attention-heads 4 --seq-length 16 --max-position-embeddings 32"
    more = "--micro-batch-size 2 --train-iters 10 --lr 0.01 --tokenizer-type NullTokenizer --mock-data"
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    with pytest.raises(QuantctlError) as refused:
        _check_world(parse(f"{from_test} {more} {flags}".split()))
    assert message in refused.value.message
    assert hint in refused.value.hint


def test_sigterm_saves_and_stops(start_training, tmp_path) -> None:
    with start_training("--train-iters", 100000, "--exit-signal-handler", "--save", tmp_path) as process:
        for line in process.stdout:
            if "iteration        3/" in line:
                process.send_signal(signal.SIGTERM)
                break
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "exiting program after receiving SIGTERM." in rest
    reached = int((tmp_path / checkpoint.TRACKER).read_text())
    assert (tmp_path / f"iter_{reached:07d}/mp_rank_00/model_optim_rng.pt").is_file()
