import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from quantctl.data import corpus
from quantctl.errors import QuantctlError


def _run(*flags: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "quantctl.data.corpus", *map(str, flags)], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Two processes build the same folder at once."""
    folder = tmp_path_factory.mktemp("corpus") / "smoke"
    command = [sys.executable, "-m", "quantctl.data.corpus", "--output", str(folder)]
    builders = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for builder in builders:
        out, _ = builder.communicate(timeout=120)
        assert (builder.returncode, out) == (0, f"{folder}\n")
    return folder


def test_a_build_leaves_these_files_and_no_draft(built) -> None:
    tokenizer = ["tokenizer.json", "tokenizer_config.json"]
    assert sorted(p.name for p in built.iterdir()) == ["text_document.bin", "text_document.idx", *tokenizer]
    assert [p.name for p in built.parent.iterdir()] == ["smoke"]


def test_builds_are_equal_and_the_second_changes_nothing(built, tmp_path) -> None:
    other = corpus.build(tmp_path / "other")
    times = {p: p.stat().st_mtime_ns for p in other.iterdir()}
    for path in built.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name
    corpus.build(other)
    assert {p: p.stat().st_mtime_ns for p in other.iterdir()} == times


def test_the_dataset_holds_the_prose(built) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from tokenizers import Tokenizer

    texts = corpus.documents()
    tokenizer = Tokenizer.from_file(str(built / "tokenizer.json"))
    end = tokenizer.token_to_id(corpus.END_OF_DOCUMENT)
    dataset = IndexedDataset(str(built / corpus.PREFIX))
    assert tokenizer.get_vocab_size() == corpus.VOCABULARY
    assert len(dataset) == len(texts) > 70
    for text, ids in zip(texts, dataset, strict=True):
        assert list(ids).index(end) == len(ids) - 1
        assert tokenizer.decode(ids[:-1].tolist()) == text


def test_the_tokenizer_says_its_class_and_its_end(built) -> None:
    from tokenizers import Tokenizer

    config = json.loads((built / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert Tokenizer.from_file(str(built / "tokenizer.json")).token_to_id(config["eos_token"]) == 0


def test_transformers_load_it(built) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(built))
    assert (tokenizer.eos_token, tokenizer.eos_token_id, len(tokenizer)) == ("<|endoftext|>", 0, corpus.VOCABULARY)


def test_an_earlier_build_gets_its_configuration_and_keeps_its_name(built, tmp_path, monkeypatch) -> None:
    folder = Path(shutil.copytree(built, tmp_path / "smoke"))
    (folder / "tokenizer_config.json").unlink()
    monkeypatch.setattr(corpus, "documents", pytest.fail)
    corpus.build(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {p.name: p.read_bytes() for p in built.iterdir()}
    assert [p.name for p in tmp_path.iterdir()] == ["smoke"]


def test_where_builds_nothing(tmp_path) -> None:
    done = _run("--where", "--output", tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'nowhere'}\n")
    assert not (tmp_path / "nowhere").exists()


def test_where_is_light() -> None:
    code = (
        "import sys; from quantctl.data import corpus; corpus.main(['--where']);"
        "print([m for m in ('torch', 'numpy', 'megatron', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(corpus.default_folder()), "[]"]


def test_a_folder_with_something_else_is_refused(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(QuantctlError, match="no complete corpus"):
        corpus.build(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    assert _run("--output", tmp_path).returncode == 2


def test_the_folder_pins_the_text(monkeypatch) -> None:
    before = corpus.default_folder()
    monkeypatch.setattr(corpus, "documents", lambda: ["another text"])
    assert corpus.default_folder() != before
