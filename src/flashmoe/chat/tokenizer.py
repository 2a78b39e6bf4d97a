"""Text to token ids and back, whole or piece by piece.

Invariant: the pieces of a stream, joined, are what `decode` gives for all its tokens, at a cost linear in their number.
That holds because a byte-level vocabulary maps each token to its own bytes whatever its neighbours are; other kinds of
vocabulary are refused. Knows files and tokens, not models.
"""

import codecs
import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import tokenizers

from flashmoe.chat.documents import read_object_if_present, read_text, token_text
from flashmoe.chat.marking import ControlTokens, Rendered, is_control
from flashmoe.errors import FlashMoeError, FormatError

_PIECE = 8
"""Characters for each token that fits, of the pieces in which a long text is counted."""
_AT_A_CUT = 64
"""Tokens that a text may have less than its pieces, for each cut."""


@cache
def _byte_of_symbol() -> dict[str, int]:
    """The symbols in which byte-level vocabularies are written: Latin-1's printable characters stand for themselves,
    the other bytes, in rising order, for U+0100 onwards (Radford et al. 2019, GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


class StreamDecoder:
    """Tokens in, text out: a character appears once its last byte is here, never as U+FFFD before."""

    def __init__(self, tokenizer: "Tokenizer", keep_special: bool) -> None:
        self._tokenizer = tokenizer
        self._keep_special = keep_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that this token completes; often a word, sometimes nothing."""
        return self._utf8.decode(self._tokenizer.token_bytes(token_id, self._keep_special))

    def flush(self) -> str:
        """What the end of the stream leaves incomplete, as U+FFFD; the decoder may then be used afresh."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


class Tokenizer:
    """A checkpoint's byte-level tokenizer.

    vocab: number of ids it knows; a model may have more rows than that, and their ids decode to nothing.
    eos_ids: the ids that end an answer.
    special_tokens: named special tokens of tokenizer_config.json (`bos_token`, `eos_token`, ...), for templates.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        eos_ids: frozenset[int] = frozenset(),
        special_tokens: dict[str, str] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self.vocab = tokenizer.get_vocab_size(with_added_tokens=True)
        self.eos_ids = eos_ids
        self.special_tokens = special_tokens or {}
        self._added = {i: (token.content, token.special) for i, token in tokenizer.get_added_tokens_decoder().items()}
        self._bytes: dict[int, bytes] = {}
        self.control = ControlTokens({t: special for t, special in self._added.values() if is_control(t, special)})
        """The tokens that in a conversation only its template may write."""

    @classmethod
    def from_dir(cls, directory: Path | str) -> "Tokenizer":
        """Read tokenizer.json, and beside it tokenizer_config.json, generation_config.json and config.json if present.

        FlashMoeError when a file is missing, FormatError when one is damaged or the vocabulary is not byte-level.
        """
        directory = Path(directory)
        path = directory / "tokenizer.json"
        text = read_text(path)
        try:
            tokenizer = tokenizers.Tokenizer.from_str(text)
            decoder = json.loads(text).get("decoder")
        except Exception as error:  # the library raises nothing more exact
            raise FormatError(
                f"{path} is not a tokenizer ({error}); copy it again from the model's checkpoint."
            ) from error
        if not _is_byte_level(decoder):
            raise FormatError(f"{path} does not hold a byte-level tokenizer; Flash-MoE's models all use that kind.")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        config = read_object_if_present(directory / "tokenizer_config.json")
        special = {k: t for k, v in config.items() if k.endswith("_token") and (t := token_text(v)) is not None}
        return cls(tokenizer, _eos_ids(directory, tokenizer, special.get("eos_token")), special)

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids of a text; special tokens written in it (`<|im_start|>`) become their single ids.

        add_special_tokens: also what the tokenizer puts around a plain text (a BOS, where a model has one). A rendered
        template already holds its own.
        """
        _check_unicode(text)
        # A batch, unlike a single text, lets other threads run meanwhile, for a second or so a megabyte.
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return list(encoding.ids)

    def encode_prompt(self, prompt: Rendered) -> list[int]:
        """Token ids of a rendered conversation: as `encode`, but what runs over a seam is text."""
        if not prompt.seams:
            return self.encode(prompt.text)
        _check_unicode(prompt.text)
        (encoding,) = self._tokenizer.encode_batch([prompt.text], add_special_tokens=False)
        ids: list[int] = []
        begin, first, mended = 0, 0, False  # of the stretch since the last token that the template wrote
        tokens, places = encoding.ids, encoding.offsets
        for i, (token, (left, right)) in enumerate(zip(tokens, places, strict=True)):
            if token not in self._added:
                continue
            if bisect_right(prompt.seams, left) < bisect_left(prompt.seams, right):
                mended = True
                continue
            ids += self._as_text(prompt.text[begin:left]) if mended else tokens[first:i]
            ids.append(token)
            begin, first, mended = right, i + 1, False
        return ids + (self._as_text(prompt.text[begin:]) if mended else tokens[first:])

    def _as_text(self, text: str) -> list[int]:
        (encoding,) = self._plain.encode_batch_fast([text], add_special_tokens=False)
        return list(encoding.ids)

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """The same without added tokens."""
        plain = tokenizers.Tokenizer(self._tokenizer.model)
        for part in ("normalizer", "pre_tokenizer"):
            if (found := getattr(self._tokenizer, part)) is not None:
                setattr(plain, part, found)
        return plain

    def count_up_to(self, text: str, most: int) -> int:
        """How many tokens a text surely has, not counted any further once they are more than `most`: so a text that is
        far too long costs no more than one that fits. 0 for a short text."""
        length = _PIECE * max(most, _AT_A_CUT * 16)
        counted, place = 0, 0
        while len(text) > length and place < len(text) and counted <= most:
            counted += max(0, len(self.encode(text[place : place + length])) - _AT_A_CUT)
            place += length
        return counted

    def decode(self, token_ids: Iterable[int], *, keep_special: bool = True) -> str:
        """Text of a token sequence; bytes that are not UTF-8 become U+FFFD, ids outside the vocabulary nothing."""
        return b"".join(self.token_bytes(i, keep_special) for i in token_ids).decode("utf-8", "replace")

    def stream(self, *, keep_special: bool = False) -> StreamDecoder:
        """A decoder for tokens that come one at a time; special tokens (`<|im_end|>`) are left out unless kept."""
        return StreamDecoder(self, keep_special)

    def token_id(self, token: str) -> int | None:
        """The id of a token as it is written in the vocabulary, or of a special token."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def token_bytes(self, token_id: int, keep_special: bool = True) -> bytes:
        """The bytes that one id stands for; empty for an unknown id, or for a special one that is not kept."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._look_up(token_id)
        return b"" if not keep_special and self._added.get(token_id, ("", False))[1] else known

    def _look_up(self, token_id: int) -> bytes:
        if token_id < 0 or (token := self._tokenizer.id_to_token(token_id)) is None:
            return b""
        symbols = _byte_of_symbol()
        # An added token is plain text: where it holds a character that is no symbol, it stands for itself as a whole.
        if all(character in symbols for character in token):
            return bytes(symbols[character] for character in token)
        return bytes(token.encode())


def _is_byte_level(decoder: Any) -> bool:
    if not isinstance(decoder, dict):
        return False
    if decoder.get("type") == "Sequence":
        parts = decoder.get("decoders")
        return isinstance(parts, list) and len(parts) > 0 and all(map(_is_byte_level, parts))
    return decoder.get("type") == "ByteLevel"


def _eos_ids(directory: Path, tokenizer: tokenizers.Tokenizer, eos_token: str | None) -> frozenset[int]:
    """generation_config.json rules, else config.json; the tokenizer's own eos_token always counts, since text-only
    exports often come without the former and then name only <|endoftext|>, which ends no turn."""
    config = read_object_if_present(directory / "config.json")
    text_config = config.get("text_config")
    ids: set[int] = set()
    for path, source in (
        (directory / "generation_config.json", read_object_if_present(directory / "generation_config.json")),
        (directory / "config.json", config),
        (directory / "config.json", text_config if isinstance(text_config, dict) else {}),
    ):
        if not ids and (value := source.get("eos_token_id")) is not None:
            values = value if isinstance(value, list) else [value]
            if not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values):
                raise FormatError(f"{path}: eos_token_id must be a token id or a list of them, not {value!r:.60}.")
            ids |= set(values)
    if eos_token is not None and (token_id := tokenizer.token_to_id(eos_token)) is not None:
        ids.add(token_id)
    return frozenset(ids)


def _check_unicode(text: str) -> None:
    """Refuse half a surrogate pair, which Python makes of bytes that are not UTF-8 in arguments and JSON."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FlashMoeError(
            "The text is not UTF-8 (it holds half of a surrogate pair); convert or remove that part."
        ) from None
