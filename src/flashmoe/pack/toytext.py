"""A byte-level tokenizer and a chat template for models whose weights mean nothing, so that they run as any other.

Invariant: every id of the vocabulary decodes to some text. Knows the file formats, not the libraries that read them.
"""

import json
from typing import Any

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def _byte_symbols() -> list[str]:
    """The characters that stand for bytes 0..255 in byte-level vocabularies (Radford et al. 2019, GPT-2)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def text_files(vocab: int) -> dict[str, bytes]:
    """tokenizer.json, tokenizer_config.json, generation_config.json and chat_template.jinja for `vocab` ids.

    The bytes come first, the special tokens last, and between them words that no text contains.
    """
    first_special = vocab - len(SPECIAL)
    symbols = _byte_symbols()
    words = [*symbols, *(f"Ġw{i}" for i in range(len(symbols), first_special))]
    added = [
        {"id": first_special + i, "content": token, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for i, token in enumerate(SPECIAL)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {word: i for i, word in enumerate(words)}, "merges": []},
    }
    ends = [vocab - 1, first_special]
    return {
        "tokenizer.json": json.dumps(tokenizer, ensure_ascii=False).encode(),
        "tokenizer_config.json": json.dumps({"eos_token": SPECIAL[2], "pad_token": SPECIAL[0]}).encode(),
        "generation_config.json": json.dumps({"eos_token_id": ends}).encode(),
        "chat_template.jinja": TEMPLATE.encode(),
    }
