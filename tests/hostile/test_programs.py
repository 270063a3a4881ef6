"""No program that somebody else's repository names is run, whatever quantctl is asked to do there."""

from __future__ import annotations

import os

import pytest
from hostile import assert_civil, run_forked
from small import small_tree

from quantctl.tree.selectors import ATTENTION, LAYERS

HOOKS = (
    *("reference-transaction", "post-index-change", "pre-commit", "commit-msg", "post-commit", "post-checkout"),
    *("fsmonitor-watchman", "pre-auto-gc", "post-rewrite", "pre-push", "update", "post-update", "sendemail-validate"),
)
PROGRAMS = (
    *("core.fsmonitor", "core.pager", "core.editor", "core.sshCommand", "core.askPass", "core.gitProxy"),
    *("core.alternateRefsCommand", "sequence.editor", "credential.helper", "diff.external", "gpg.program"),
    *("gpg.ssh.program", "gpg.x509.program", "uploadpack.packObjectsHook", "pager.log", "pager.status", "pager.branch"),
    *("filter.mark.clean", "filter.mark.smudge", "filter.mark.process", "diff.mark.command", "diff.mark.textconv"),
    *("merge.mark.driver", "trailer.mark.command", "mergetool.mark.cmd", "difftool.mark.cmd", "interactive.diffFilter"),
    *("hook.mark.command", "remote.origin.uploadpack", "remote.origin.vcs", "browser.mark.cmd", "man.mark.cmd"),
)
ALIASES = ("status", "log", "ls-files", "rev-parse", "check-ignore", "cat-file", "hash-object", "update-ref", "config")
SETTINGS = {
    "log.showSignature": "true",
    "commit.gpgSign": "true",
    "tag.gpgSign": "true",
    "hook.mark.event": "reference-transaction",
    "remote.origin.promisor": "true",
    "remote.origin.partialclonefilter": "blob:none",
    "remote.origin.url": "ext::sh -c 'touch MARK.ext'",
    "protocol.ext.allow": "always",
    "extensions.partialClone": "origin",
    "filter.mark.required": "false",
    "submodule.recurse": "true",
    "status.submoduleSummary": "true",
}


def arm(repository, folder, mark) -> None:
    """Let every program that the repository can name leave a file beside `mark`; `folder` is its git directory."""
    hooks = folder / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in HOOKS:
        (hooks / name).write_text(f"#!/bin/sh\ntouch {mark}.hook.{name}\n")
        (hooks / name).chmod(0o755)
    settings = {key: f"touch {mark}.{key}; cat" for key in PROGRAMS}
    settings |= {f"alias.{command}": f"!touch {mark}.alias.{command}" for command in ALIASES}
    settings |= {key: value.replace("MARK", str(mark)) for key, value in SETTINGS.items()}
    with (folder / "config").open("a") as config:
        for key, value in {**settings, "core.hooksPath": str(hooks)}.items():
            *section, name = key.split(".")
            head = f'{section[0]} "{section[1]}"' if len(section) > 1 else section[0]
            config.write(f'[{head}]\n\t{name} = "{value}"\n')
    # the same content at another time: git would ask the filters
    for file in repository.rglob("*.py"):
        os.utime(file, (1, 1))


@pytest.fixture
def armed(megatron_tree, tmp_path, git):
    """A checkout with a submodule, both full of programs; the second value lists the marks that they left."""
    root = small_tree(megatron_tree("0.16.1"), tmp_path / "tree")
    marks = tmp_path / "marks"
    marks.mkdir()
    git(tmp_path, "init", "--quiet", "library")
    attributes = "* filter=mark diff=mark merge=mark\n"
    for folder in (tmp_path / "library", root):
        (folder / ".gitattributes").write_text(attributes)
        (folder / "helper.py").write_text("y = 2\n")
    git(root, "init", "--quiet", "--initial-branch=main")
    for folder in (tmp_path / "library", root):
        git(folder, "add", "-A")
        git(folder, "commit", "--quiet", "-m", "stock")
    allow = ("-c", "protocol.file.allow=always")
    git(root, *allow, "submodule", "--quiet", "add", str(tmp_path / "library"), "third_party")
    git(root, "commit", "--quiet", "-m", "submodule")
    arm(root, root / ".git", marks / "tree")
    arm(root / "third_party", root / ".git/modules/third_party", marks / "submodule")
    return root, lambda: sorted(path.name for path in marks.iterdir())


def sign(root) -> None:
    """Give the newest commit of quantctl's history a signature that the configured program would be asked about."""
    from quantctl.history.git import Git

    git = Git(root)
    ref = git.text("for-each-ref", "--format=%(refname)", "refs/quantctl/main")
    header, _, rest = git.run("cat-file", "commit", ref).partition(b"\n\n")
    signature = b"\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----"
    signed = git.text("hash-object", "-t", "commit", "-w", "--stdin", stdin=header + signature + b"\n\n" + rest)
    git.run("update-ref", ref, signed)


def test_the_trap_works(armed, git):
    """Else the other test would show nothing."""
    root, marks = armed
    git(root, "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "status", "--porcelain")
    assert any("filter.mark" in name for name in marks())


def test_no_program_of_the_repository_runs(armed, tmp_path):
    root, marks = armed
    script = tmp_path / "train.sh"
    script.write_text("torchrun pretrain_gpt.py --num-layers 2\n")
    runs = tmp_path / "runs"
    commands = {
        "check": ["check"],
        "check a command": ["check", "--", "torchrun", "pretrain_gpt.py", "--num-layers", "2"],
        "patch": ["patch"],
        "list patches": ["patch", "--list"],
        "set": ["set", "--linear", "mxfp8"],
        "what set would do": ["set", "--qk", "mxfp8", "--diff"],
        "log": ["log"],
        "undo": ["undo"],
        "exec": ["exec", "--mode", "bf16", "--run-dir", runs, "--", "true"],
        "lint": ["lint", script],
        "generate": ["generate", "--check"],
        "restore": ["restore"],
        "signed log": ["log"],
    }
    for name, arguments in commands.items():
        if name == "signed log":
            sign(root)
        ended = run_forked(arguments, root)
        assert_civil(ended, 0, 1)
        assert marks() == [], name
    assert (root / LAYERS).read_bytes()
    assert "custom_quant_type" not in (root / ATTENTION).read_text()


def test_changes_are_counted_without_filters(armed):
    from quantctl.history.changes import changed_files

    root, marks = armed
    assert changed_files(root) == set()
    (root / "helper.py").write_text("y = 3\n")
    (root / LAYERS).unlink()
    (root / "third_party" / "helper.py").write_text("y = 3\n")
    assert changed_files(root) == {"helper.py", LAYERS, "third_party"}
    assert marks() == []
