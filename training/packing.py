"""Training batches: conversations rendered, tokenised, weighted and packed into rows.

A batch is a pure function of (seed, index), so a resumed run goes on with the batch it would have seen, and worker
processes need no coordination. Torch is not imported here.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training import mix, template

PROMPT_WEIGHT = 0.1
"""Loss weight of tokens the model will not have to write. Repeated names in prompts teach copying early."""
_PER_BATCH = 100_000


@dataclass(frozen=True)
class Batch:
    """`ids` int64 [rows, length]; `weights` float32, of each token as a target (0 for padding and each document's first
    token); `documents` int16, different for neighbouring documents of a row.
    """

    ids: NDArray[np.int64]
    weights: NDArray[np.float32]
    documents: NDArray[np.int16]


class Encoder:
    """Text to ids and loss weights."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        names = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|endoftext|>", "assistant")
        self.start, self.end, self.think, self.thought, self.pad, self.assistant = (
            tokenizer.token_to_id(n) for n in names
        )

    def encode(self, text: str) -> tuple[list[int], list[float]]:
        """Weight 1 for what an assistant writes, from the end of the generation prompt to <|im_end|>.

        The prompt holds `<think>` when thinking is on, and the empty thinking block when it is off.
        """
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        weights = [PROMPT_WEIGHT] * len(ids)
        weights[0] = 0.0
        position = 0
        while position < len(ids) - 3:
            if ids[position] == self.start and ids[position + 1] == self.assistant:
                begin = position + 3
                if ids[begin] == self.think:
                    begin += 4 if ids[begin + 2] == self.thought else 2
                stop = ids.index(self.end, begin)
                weights[begin : stop + 1] = [1.0] * (stop + 1 - begin)
                position = stop
            position += 1
        return ids, weights


class Packer:
    """Batches by index, for a loader that reads them in order."""

    def __init__(
        self, tokenizer: Tokenizer, rows: int, length: int, seed: int, split: str = "train", family: str | None = None
    ) -> None:
        self.encoder = Encoder(tokenizer)
        self.split = split
        self.family = family
        self.rows = rows
        self.length = length
        self.seed = seed

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch = self.batch(index)
        return {"ids": batch.ids, "weights": batch.weights, "documents": batch.documents}

    def __len__(self) -> int:
        return 1 << 40

    def batch(self, index: int) -> Batch:
        """First fit over the rows. Ends when six documents running found no room; one longer than a row never does."""
        ids = np.full((self.rows, self.length), self.encoder.pad, np.int64)
        weights = np.zeros((self.rows, self.length), np.float32)
        documents = np.zeros((self.rows, self.length), np.int16)
        filled = [0] * self.rows
        placed, failures, number = 0, 0, (self.seed << 40) + index * _PER_BATCH
        while failures < 6:
            tokens, loss = self.encoder.encode(template.document(mix.case(self.split, number, self.family)))
            number += 1
            row = next((r for r in range(self.rows) if filled[r] + len(tokens) <= self.length), None)
            if row is None:
                failures += 1
                continue
            failures, placed = 0, placed + 1
            here = slice(filled[row], filled[row] + len(tokens))
            ids[row, here], weights[row, here], documents[row, here] = tokens, loss, placed
            filled[row] += len(tokens)
        return Batch(ids, weights, documents)
