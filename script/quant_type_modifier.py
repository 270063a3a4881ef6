"""See or change the formats in the tree in use: the flags people know, handed to quantctl.

    python script/quant_type_modifier.py --check
    python script/quant_type_modifier.py --linear-quant mxfp8 --qk-quant mxfp4
    python script/quant_type_modifier.py --restore

They become `quantctl check`, `quantctl set` and `quantctl restore`; a selector that is not named stays as it is. The
tree is that of `quantctl check`: MEGATRON_LM_PATH, else a parent of the current directory, else the installed
megatron-core.
"""

from __future__ import annotations

import argparse

SELECTORS = {"linear_quant": "--linear", "qk_quant": "--qk", "pv_quant": "--pv"}


def main() -> None:
    """Translate the arguments and exit as quantctl does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="show every selector")
    parser.add_argument("--restore", action="store_true", help="back to the bytes before quantctl touched the tree")
    parser.add_argument("--linear-quant", metavar="SPEC", help="format of the linear products, e.g. mxfp8 or none")
    parser.add_argument("--qk-quant", metavar="SPEC", help="format of Q K^T")
    parser.add_argument("--pv-quant", metavar="SPEC", help="format of P V")
    args = parser.parse_args()
    try:
        from quantctl.launch.scripts import call_cli
    except ImportError as error:
        parser.error(f"quantctl is not installed for this Python ({error}): pip install -e . in the repository")
    changes = [
        word
        for name, option in SELECTORS.items()
        if (value := getattr(args, name)) is not None
        for word in (option, value)
    ]
    wanted = [["set", *changes]] * bool(changes) + [["check"]] * args.check + [["restore"]] * args.restore
    if len(wanted) != 1:
        parser.error("give --check, --restore, or at least one of --linear-quant, --qk-quant, --pv-quant")
    call_cli(*wanted[0])


if __name__ == "__main__":
    main()
