"""Trains the byte-level BPE of the demo model on the project's own training split.

Format and pre-tokenisation are Qwen's. Two habits make copying easy for a small model: a digit is always a token of
its own, and merges never join a space or a mark to letters, so a word has the same tokens wherever it stands. Common
function words get a token with their space afterwards, by merges of the lowest priority.

python -m training.tokenizer DIRECTORY
"""

import json
import sys
from collections import Counter
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from training import mix, template

VOCABULARY = 1408
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
PLAIN = [
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
]
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# While training: letters alone, marks of JSON and XML in runs, everything else alone.
TRAIN_SPLIT = r"[\p{L}\p{M}]+|\p{N}|[{}\[\]\":,<>/=|]+\n?| ?[{}\[\]\":]+|[^\s\p{L}\p{M}\p{N}]|\n+|\s"
SPACED_WORDS = 160


def train(conversations: int = 30_000) -> Tokenizer:
    """A tokenizer of VOCABULARY ids, the added tokens included; the same every time."""
    texts = [_bare(template.document(mix.case("train", 10_000_000 + index))) for index in range(conversations)]
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(TRAIN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL) - len(PLAIN) - SPACED_WORDS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    learned = json.loads(learner.to_str())["model"]
    return _build(learned["vocab"], [tuple(pair) for pair in learned["merges"]], texts)


def _bare(text: str) -> str:
    for token in (*SPECIAL, *PLAIN):
        text = text.replace(token, "")
    return text


def _build(vocabulary: dict[str, int], merges: list[tuple[str, str]], texts: list[str]) -> Tokenizer:
    """Qwen's pipeline around the learned merges, with the space joined to the commonest words last."""
    space = "Ġ"
    counts = Counter(
        word for text in texts[:4000] for word in text.split(" ") if word.isalpha() and word.islower() and len(word) > 1
    )
    common = [word for word, _ in counts.most_common() if word in vocabulary]
    for word in common[:SPACED_WORDS]:
        merges.append((space, word))
        vocabulary[space + word] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in PLAIN])
    return tokenizer


def save(tokenizer: Tokenizer, directory: Path) -> None:
    """tokenizer.json, tokenizer_config.json and chat_template.jinja of a Hugging Face checkpoint."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": 8192,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "split_special_tokens": False,
        "additional_special_tokens": SPECIAL,
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(token)): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": token in SPECIAL,
            }
            for token in (*SPECIAL, *PLAIN)
        },
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (directory / "chat_template.jinja").write_text(template.PATH.read_text(encoding="utf-8"), encoding="utf-8")


def load(directory: Path) -> Tokenizer:
    return Tokenizer.from_file(str(directory / "tokenizer.json"))


if __name__ == "__main__":
    save(train(), Path(sys.argv[1]))
