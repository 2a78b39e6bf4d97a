"""The checkpoint as it was published, through transformers in float32: logits of texts and greedy answers.

Knows nothing of packs. Needs the `test` extra.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, DynamicCache

Logits = NDArray[np.float32]


class Oracle:
    """bfloat16 weights, float32 arithmetic."""

    def __init__(self, checkpoint: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        # Gates that close leave denormals behind, which cost the CPU a hundred cycles each.
        torch.set_flush_denormal(True)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval().to(self.device)

    @torch.no_grad()
    def logits(self, token_ids: Sequence[int]) -> Logits:
        """[T, vocab] of a sequence of its own."""
        found: Logits = self.model(torch.tensor([token_ids], device=self.device)).logits[0].cpu().numpy()
        return found

    @torch.no_grad()
    def answers(
        self, prompts: Sequence[list[int]], max_tokens: int, ends: frozenset[int], rows: int = 60
    ) -> Iterator[tuple[int, list[int]]]:
        """Greedy: (index of the prompt, tokens without the one that ended them). Neighbours form a batch: cases of a
        family have answers of similar length, and a batch takes as long as its longest."""
        for begin in range(0, len(prompts), rows):
            found = self._batch(list(prompts[begin : begin + rows]), max_tokens, ends)
            yield from enumerate(found, begin)

    def _batch(self, prompts: list[list[int]], max_tokens: int, ends: frozenset[int]) -> list[list[int]]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        cache = DynamicCache(config=self.model.config)
        tokens: list[list[int]] = [[] for _ in prompts]
        running = set(range(len(prompts)))
        while running:
            out = self.model(
                input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            ids = out.logits[:, -1].argmax(-1, keepdim=True)
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], 1)
            for row, token in enumerate(ids[:, 0].tolist()):
                if row in running:
                    if token in ends:
                        running.discard(row)
                        continue
                    tokens[row].append(token)
                    if len(tokens[row]) == max_tokens:
                        running.discard(row)
        return tokens
