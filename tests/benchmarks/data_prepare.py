"""`quantctl data prepare` against Megatron-LM's tools/preprocess_data.py: same text, same tokenizer, same processes.

    python tests/benchmarks/data_prepare.py MEGATRON_LM_CHECKOUT [ROUNDS] [MEGABYTES]

Needs the packages that the tool imports (transformers, six, pydantic). Both are timed as whole processes, in turn;
prints the median, the spread, the median of the round-by-round ratios, and whether both wrote the same bytes.
"""

from __future__ import annotations

import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

from quantctl.data.bpe import train_bpe
from quantctl.data.corpus import documents

PROCESSES = (1, 2)


def _text(path: Path, megabytes: int) -> None:
    """Documents of up to 1,000 words drawn from Python's documentation."""
    words, draw, size = " ".join(documents()).split(), random.Random(0), 0
    with path.open("w") as file:
        while size < megabytes * 10**6:
            size += file.write(json.dumps({"text": " ".join(draw.choices(words, k=draw.randint(20, 1000)))}) + "\n")


def _seconds(command: list[str], environment: dict[str, str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - start


def main(checkout: Path, rounds: int, megabytes: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _text(folder / "text.jsonl", megabytes)
        tokenizer = folder / "tokenizer"
        tokenizer.mkdir()
        train_bpe(documents(), 8000, tokenizer / "tokenizer.json")
        (tokenizer / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"})
        )
        environment = {**os.environ, "PYTHONPATH": f"{checkout}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        size = (folder / "text.jsonl").stat().st_size / 1e6
        print(
            f"{size:.0f} MB of JSON lines, vocabulary 8,000; {platform.machine()}, {os.cpu_count()} cores, "
            f"Python {platform.python_version()}, tokenizers {version('tokenizers')}"
        )
        for processes in PROCESSES:
            times: dict[str, list[float]] = {"quantctl": [], "preprocess_data.py": []}
            for turn in range(rounds):
                ours, theirs = folder / f"ours{processes}{turn}", folder / f"theirs{processes}{turn}"
                workers = ["--workers", str(processes)]
                times["quantctl"].append(
                    _seconds(
                        [
                            sys.executable,
                            "-m",
                            "quantctl.cli",
                            "data",
                            "prepare",
                            str(folder / "text.jsonl"),
                            "--tokenizer",
                            str(tokenizer),
                            "--output",
                            str(ours),
                            *workers,
                        ],
                        environment,
                    )
                )
                times["preprocess_data.py"].append(
                    _seconds(
                        [
                            sys.executable,
                            str(checkout / "tools" / "preprocess_data.py"),
                            "--input",
                            str(folder / "text.jsonl"),
                            "--tokenizer-type",
                            "HuggingFaceTokenizer",
                            "--tokenizer-model",
                            str(tokenizer),
                            "--append-eod",
                            "--output-prefix",
                            str(theirs),
                            *workers,
                        ],
                        environment,
                    )
                )
                same = all(
                    Path(f"{ours}_text_document{ending}").read_bytes()
                    == Path(f"{theirs}_text_document{ending}").read_bytes()
                    for ending in (".bin", ".idx")
                )
            for who, seconds in times.items():
                print(
                    f"{processes} processes  {who:19} {median(seconds):6.2f} s  ({min(seconds):.2f} - "
                    f"{max(seconds):.2f})  {size / median(seconds):6.2f} MB/s"
                )
            ratios = [b / a for a, b in zip(*times.values(), strict=True)]
            print(f"{processes} processes  quantctl is {median(ratios):.2f} times as fast; same bytes: {same}")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).resolve(), *(int(word) for word in [*sys.argv[2:], "3", "20"][:2]))
