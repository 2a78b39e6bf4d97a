"""A checkpoint whose text files no run could use is refused before anything is written."""

import json
import shutil
from pathlib import Path

import pytest

from checkpoints import CONFIGS, WRAPPED, random_weights, wrapped, write_hf
from flashmoe.cli.main import run
from random_checkpoint import write_text_files


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = wrapped(random_weights(CONFIGS["qwen3_5_moe_text"]))
    source = write_hf(tmp_path_factory.mktemp("pack") / "hf", WRAPPED, weights, shards=1)
    texts = tmp_path_factory.mktemp("texts")
    write_text_files(texts)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(texts / name, source / name)
    return source


def not_byte_level(text: str) -> str:
    return json.dumps({**json.loads(text), "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}})


@pytest.mark.parametrize(
    ("name", "damage", "sentence"),
    [
        ("tokenizer.json", lambda text: text[: len(text) // 2], "tokenizer.json is not a tokenizer"),
        ("tokenizer.json", not_byte_level, "tokenizer.json does not hold a byte-level tokenizer"),
        ("tokenizer_config.json", lambda _: "[]", "tokenizer_config.json must be a JSON object"),
        ("chat_template.jinja", lambda text: text + "{% for", "chat_template.jinja at line"),
        ("chat_template.jinja", lambda _: "{{ raise_exception('No.') }}", "chat_template.jinja does not accept"),
        ("chat_template.jinja", lambda _: "{{ messages[0].absent.more }}", "chat_template.jinja does not accept"),
        ("additional_chat_templates/tool_use.jinja", lambda _: "{% if", "tool_use.jinja at line 1"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--delete-source"]], ids=["kept", "deleted"])
def test_broken_text_files_are_found_before_the_first_byte(whole, tmp_path, capsys, name, damage, sentence, options):
    source = shutil.copytree(whole, tmp_path / "source")
    (source / name).parent.mkdir(exist_ok=True)
    (source / name).write_text(damage((source / name).read_text() if (source / name).exists() else ""))
    before = sorted(source.rglob("*"))
    assert run(["pack", str(source), str(tmp_path / "out"), *options]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
    assert sorted(source.rglob("*")) == before


@pytest.mark.parametrize("missing", ["tokenizer.json", "chat_template.jinja"])
def test_what_is_not_there_is_not_asked_for(whole, tmp_path, missing):
    source = shutil.copytree(whole, tmp_path / "source")
    (source / missing).unlink()
    assert run(["pack", str(source), str(tmp_path / "out")]) == 0
