"""Choose the formats of the attention products in the tree in use: the flags people know, handed to quantctl.

    python script/flash_attention_config.py --list
    python script/flash_attention_config.py --fa-quantization qk_mxfp8

A name holds the whole choice: qk_X quantizes QK and leaves PV alone (none), pv_X the reverse, qkpv_X both, and
none neither. It becomes `quantctl set --qk ... --pv ...`; the linear selectors stay as they are. The tree is that of
`quantctl check`: MEGATRON_LM_PATH, else a parent of the current directory, else the installed megatron-core.
"""

from __future__ import annotations

import argparse

SITES = {"qk": ("qk",), "pv": ("pv",), "qkpv": ("qk", "pv")}


def choices() -> dict[str, dict[str, str]]:
    """Name -> value of the two attention selectors."""
    from quantctl.modes import SCRIPT_FORMATS
    from quantctl.spec import NONE

    neither = dict.fromkeys(("qk", "pv"), NONE)
    named = {
        f"{key}_{name}": neither | dict.fromkeys(sites, name) for key, sites in SITES.items() for name in SCRIPT_FORMATS
    }
    return {NONE: neither} | named


def main() -> None:
    """Translate the arguments and exit as quantctl does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--list", action="store_true", help="print the names that --fa-quantization takes")
    action.add_argument("--fa-quantization", metavar="NAME", help="qk_mxfp8, pv_hifp8, qkpv_mxfp4, ... or none")
    args = parser.parse_args()
    try:
        from quantctl.launch.scripts import call_cli
    except ImportError as error:
        parser.error(f"quantctl is not installed for this Python ({error}): pip install -e . in the repository")
    known = choices()
    if args.list:
        print("\n".join(known))
        return
    if args.fa_quantization not in known:
        parser.error(f"unknown --fa-quantization {args.fa_quantization!r}; choose from: {', '.join(known)}")
    call_cli("set", *(word for site, name in known[args.fa_quantization].items() for word in (f"--{site}", name)))


if __name__ == "__main__":
    main()
