import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models

from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.errors import FlashMoeError, FormatError

CONVERSATION = (
    "<|im_start|>user\nÇa coûte 3 €, ｎｅｔ?<|im_end|>\n<|im_start|>assistant\n<think>\n计算 👩‍👩‍👧 🇫🇷\n</think>\n\n"
    "Tак.<|im_end|>"
)
texts = st.text(st.characters(codec="utf-8"), max_size=80)
marks = st.sampled_from(["<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "<|endoftext|>"])
marked_texts = st.lists(st.one_of(texts, marks), max_size=6).map("".join)
ids = st.lists(st.integers(0, 1200), max_size=60)
"""Every id of the vocabulary, most single bytes among them, and the unused rows of a padded model."""


@given(text=marked_texts)
def test_decoding_an_encoding_gives_the_text_back(tokenizer: Tokenizer, text: str) -> None:
    # The tokenizer, like Qwen's, composes characters (NFC) before anything else.
    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)


@given(text=marked_texts)
def test_encoding_agrees_with_transformers(tokenizer: Tokenizer, oracle: Any, text: str) -> None:
    assert tokenizer.encode(text) == oracle.encode(text, add_special_tokens=False)


@given(token_ids=ids, keep_special=st.booleans())
def test_decoding_any_ids_agrees_with_transformers(
    tokenizer: Tokenizer, oracle: Any, token_ids: list[int], keep_special: bool
) -> None:
    known = [i for i in token_ids if i < tokenizer.vocab]
    expected = oracle.decode(known, skip_special_tokens=not keep_special, clean_up_tokenization_spaces=False)
    assert tokenizer.decode(token_ids, keep_special=keep_special) == expected


@given(token_ids=ids, keep_special=st.booleans())
def test_streamed_pieces_joined_are_the_decoding_of_all(
    tokenizer: Tokenizer, token_ids: list[int], keep_special: bool
) -> None:
    stream = tokenizer.stream(keep_special=keep_special)
    pieces = [stream.push(i) for i in token_ids]
    assert "".join(pieces) + stream.flush() == tokenizer.decode(token_ids, keep_special=keep_special)


@given(text=texts.filter(lambda t: "\ufffd" not in t))
def test_a_stream_of_whole_text_never_shows_a_replacement_character(tokenizer: Tokenizer, text: str) -> None:
    stream = tokenizer.stream()
    assert not any("\ufffd" in stream.push(i) for i in tokenizer.encode(text))
    assert stream.flush() == ""


def test_a_character_spread_over_tokens_appears_with_its_last_byte(tokenizer: Tokenizer) -> None:
    token_ids = tokenizer.encode("🦀")
    assert len(token_ids) > 1
    stream = tokenizer.stream()
    assert [stream.push(i) for i in token_ids] == [""] * (len(token_ids) - 1) + ["🦀"]


def test_the_end_of_a_stream_shows_what_stayed_incomplete_and_starts_afresh(tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream()
    first = tokenizer.encode("🦀")[0]
    assert stream.push(first) == ""
    assert stream.flush() == "\ufffd"
    assert stream.push(tokenizer.encode("a")[0]) == "a"


def test_special_tokens_in_a_text_become_single_ids(tokenizer: Tokenizer) -> None:
    token_ids = tokenizer.encode(CONVERSATION)
    for mark in ("<|im_start|>", "<|im_end|>", "<think>"):
        mark_id = tokenizer.token_id(mark)
        assert mark_id is not None
        assert token_ids.count(mark_id) == CONVERSATION.count(mark)


def test_a_stream_leaves_out_special_tokens_but_shows_thinking(tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream()
    text = "".join(stream.push(i) for i in tokenizer.encode("<|im_start|><think>so</think>yes<|im_end|>"))
    assert text == "<think>so</think>yes"


def test_an_added_token_that_is_not_written_in_byte_symbols_stands_for_its_own_text(tmp_path: Path) -> None:
    plain = tokenizers.Tokenizer(models.BPE({"a": 0}, []))
    plain.decoder = decoders.ByteLevel()
    plain.add_special_tokens(["<｜end of sentence｜>"])
    plain.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_dir(tmp_path)
    assert tokenizer.decode([0, 1]) == plain.decode([0, 1], skip_special_tokens=False) == "a<｜end of sentence｜>"


# The end of an answer -------------------------------------------------------------------------------------------------


def copy_with(text_dir: Path, tmp_path: Path, **changed: object) -> Path:
    """The text directory with some JSON files replaced (None: left out)."""
    for source in text_dir.iterdir():
        key = source.stem
        if key not in changed:
            (tmp_path / source.name).write_bytes(source.read_bytes())
        elif changed[key] is not None:
            (tmp_path / source.name).write_text(json.dumps(changed[key]))
    return tmp_path


@pytest.mark.parametrize(
    ("generation_config", "config", "tokenizer_config", "expected"),
    [
        ({"eos_token_id": [7, 9]}, {"eos_token_id": 8}, {}, {7, 9}),
        ({"eos_token_id": 7}, {}, {"eos_token": {"content": "<think>"}}, {7, "<think>"}),
        (None, {"eos_token_id": 8}, None, {8}),
        ({}, {"text_config": {"eos_token_id": 8}}, {"eos_token": "<|im_end|>"}, {8, "<|im_end|>"}),
        (None, None, {"eos_token": "<|im_end|>"}, {"<|im_end|>"}),
        (None, None, None, set()),
    ],
)
def test_the_end_ids_come_from_the_most_exact_file_and_the_tokenizer(
    text_dir: Path,
    tmp_path: Path,
    generation_config: object,
    config: object,
    tokenizer_config: object,
    expected: set[int | str],
) -> None:
    directory = copy_with(
        text_dir, tmp_path, generation_config=generation_config, config=config, tokenizer_config=tokenizer_config
    )
    tokenizer = Tokenizer.from_dir(directory)
    assert tokenizer.eos_ids == {tokenizer.token_id(e) if isinstance(e, str) else e for e in expected}


def test_an_end_id_that_is_no_id_is_named(text_dir: Path, tmp_path: Path) -> None:
    directory = copy_with(text_dir, tmp_path, generation_config={"eos_token_id": ["<|im_end|>"]})
    with pytest.raises(FormatError, match=r"generation_config\.json: eos_token_id must be a token id"):
        Tokenizer.from_dir(directory)


# Damaged files --------------------------------------------------------------------------------------------------------


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(FlashMoeError, match=r"tokenizer\.json cannot be read \(No such file"):
        Tokenizer.from_dir(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"model": {"type": "BPE"}}', b"[" * 100_000, b"\xff{}"])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_a_damaged_file_is_named(text_dir: Path, tmp_path: Path, name: str, content: bytes) -> None:
    directory = copy_with(text_dir, tmp_path)
    (directory / name).write_bytes(content)
    if name != "tokenizer.json" and content.startswith(b"{") and content.endswith(b"}"):
        Tokenizer.from_dir(directory)  # an object without what we look for is not damaged
    else:
        with pytest.raises(FormatError, match=name.replace(".", r"\.")):
            Tokenizer.from_dir(directory)


def test_a_vocabulary_that_is_not_byte_level_is_refused(tmp_path: Path) -> None:
    other = tokenizers.Tokenizer(models.BPE({"a": 0}, []))
    other.decoder = decoders.Metaspace()
    other.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(FormatError, match="byte-level"):
        Tokenizer.from_dir(tmp_path)


def test_half_a_surrogate_pair_is_refused_with_a_sentence(tokenizer: Tokenizer) -> None:
    with pytest.raises(FlashMoeError, match="surrogate"):
        tokenizer.encode("\ud83e")


@pytest.mark.parametrize(
    "text", ["a" * 5000, "東 🙂\n" * 2000, " " * 30_000, "<|im_start|>" * 3000, "Sea and sky. " * 3000]
)
@pytest.mark.parametrize("most", [1, 16, 300])
def test_a_text_that_is_far_too_long_is_counted_no_further_than_that(
    tokenizer: Tokenizer, text: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = len(tokenizer.encode(text))
    counted = tokenizer.count_up_to(text, most)
    assert counted <= exact
    encoded = []
    encode = Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, piece: encoded.append(len(piece)) or encode(self, piece))
    assert tokenizer.count_up_to(text * 50, most) > most
    assert sum(encoded) < len(text * 50)


def test_a_short_text_is_not_counted(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Tokenizer, "encode")
    assert tokenizer.count_up_to("a" * 80, 10) == 0
