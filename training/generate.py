"""Greedy generation for many prompts at once, with transformers' own cache. Prompts are padded on the left."""

from typing import Any

import torch


@torch.no_grad()
def greedy(model: Any, prompts: list[list[int]], end: int, pad: int, limit: int, rows: int = 512) -> list[list[int]]:
    """The continuation of each prompt without the end token, at most `limit` tokens.

    `rows` prompts at a time, those of similar lengths together.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    done: list[list[int]] = [[] for _ in prompts]
    for first in range(0, len(order), rows):
        chosen = order[first : first + rows]
        for index, continuation in zip(
            chosen, _batch(model, [prompts[i] for i in chosen], end, pad, limit), strict=True
        ):
            done[index] = continuation
    return done


def _batch(model: Any, prompts: list[list[int]], end: int, pad: int, limit: int) -> list[list[int]]:
    from transformers import DynamicCache

    device = next(model.parameters()).device
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    cache = DynamicCache(config=model.config)
    produced = []
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for step in range(limit):
        out = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1)
        following = out.logits[:, -1].argmax(-1).masked_fill(ended, end)
        produced.append(following)
        ended |= following == end
        # Asking the device every step would stall its queue.
        if step % 16 == 15 and bool(ended.all()):
            break
        ids = following.unsqueeze(1)
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], 1)
    rows = torch.stack(produced, 1).tolist()
    return [row[: row.index(end)] if end in row else row for row in rows]
