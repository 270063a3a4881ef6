"""Train one combination: the flags people know, handed to quantctl.

    python script/train_config.py --list
    python script/train_config.py --model llama32-1b --dataset wikipedia --quantization FA_mxfp8 --dry-run

`--list` is `quantctl list`; the rest is `quantctl run`. Everything else a run needs is in the environment variables
that the scripts name in their heads.
"""

from __future__ import annotations

import argparse


def main() -> None:
    """Translate the arguments and exit as quantctl does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="show models, datasets, modes and training configs")
    parser.add_argument("--model")
    parser.add_argument("--dataset")
    parser.add_argument("--quantization", help="one of the ten modes")
    parser.add_argument("--training-config", help="standard, fast or smoke")
    parser.add_argument("--dry-run", action="store_true", help="print the command and do nothing")
    args = parser.parse_args()
    try:
        from quantctl.launch.scripts import call_cli
    except ImportError as error:
        parser.error(f"quantctl is not installed for this Python ({error}): pip install -e . in the repository")
    if args.list:
        call_cli("list")
    call_cli(
        "run",
        *(
            word
            for option in ("model", "dataset", "quantization", "training_config")
            if (value := getattr(args, option)) is not None
            for word in (f"--{option.replace('_', '-')}", value)
        ),
        *(["--dry-run"] if args.dry_run else []),
    )


if __name__ == "__main__":
    main()
