"""Perplexity and divergence, against their definitions and torch."""

import numpy as np
import pytest
import torch

import flashmoe
from flashmoe.errors import FlashMoeError
from flashmoe.evaluation.divergence import DivergenceSum, check_comparable, divergence
from flashmoe.evaluation.perplexity import documents, perplexity, surprise, windows

TEXT = "The lighthouse keeper counted ships instead of sheep, and slept the better for it; été 雨."


def test_windows_hold_every_token_once_and_leave_out_what_foresees_nothing():
    assert windows(range(9), 4) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert windows(range(10), 4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert windows([5], 4) == []


def test_documents_are_told_apart_by_a_line_of_their_own():
    assert documents("a\n<|endoftext|>\nb\n\n<|endoftext|>\n") == ["a\n", "b\n\n"]
    assert documents("say <|endoftext|>\n") == ["say <|endoftext|>\n"]
    assert documents("") == []


def test_surprise_is_torchs_cross_entropy():
    random = np.random.default_rng(1)
    logits = random.normal(0, 30, (7, 50)).astype(np.float32)
    targets = random.integers(0, 50, 7)
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits).double(), torch.from_numpy(targets), reduction="none"
    )
    np.testing.assert_allclose(surprise(logits, targets), expected.numpy(), rtol=1e-9, atol=1e-9)


def test_perplexity_is_that_of_the_logits_and_counts_the_bytes_of_what_it_foresaw(spoken):
    tokens = spoken.tokenizer.encode(TEXT)
    sequences = windows(tokens, 16)
    seen = []
    found = perplexity(spoken.engine, spoken.tokenizer, sequences, seen.append)
    nats = sum(float(surprise(spoken.logits(s[:-1]), np.array(s[1:])).sum()) for s in sequences)
    assert found.nats == pytest.approx(nats)
    assert seen[-1] == found.tokens == sum(len(s) - 1 for s in sequences)
    assert found.perplexity == pytest.approx(np.exp(nats / found.tokens))
    foreseen = b"".join(spoken.tokenizer.token_bytes(i) for s in sequences for i in s[1:])
    assert found.bytes == len(foreseen)
    assert found.bits_per_byte == pytest.approx(nats / np.log(2) / len(foreseen))


def test_logits_come_in_blocks_that_joined_are_the_logits(spoken, monkeypatch):
    tokens = spoken.tokenizer.encode(TEXT)
    monkeypatch.setattr("flashmoe.engine.engine._BLOCK_BYTES", 3 * 4 * spoken.engine.config.vocab)
    blocks = list(spoken.engine.logit_blocks(tokens))
    assert max(map(len, blocks)) == 3
    np.testing.assert_array_equal(np.concatenate(blocks), spoken.logits(tokens))


def test_a_text_too_short_is_a_sentence(spoken):
    for measure in (
        lambda: perplexity(spoken.engine, spoken.tokenizer, [[5]]),
        lambda: divergence(spoken.engine, spoken.engine, [[5]]),
    ):
        with pytest.raises(FlashMoeError, match="too short"):
            measure()


def test_divergence_is_torchs_and_counts_agreement():
    random = np.random.default_rng(2)
    p, q = (random.normal(0, 5, (11, 40)).astype(np.float32) for _ in range(2))
    q[:6] = p[:6] + 1  # the same distributions
    total = DivergenceSum()
    total.add(p[:4], q[:4])
    total.add(p[4:], q[4:])
    found = total.result()
    log_p, log_q = (torch.log_softmax(torch.from_numpy(x).double(), -1) for x in (p, q))
    expected = torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    assert found.nats == pytest.approx(float(expected.mean()))
    assert found.error == pytest.approx(float(expected.std(correction=0)) / 11**0.5)
    assert found.agreed.of == 11
    assert found.agreed.count == int((p.argmax(-1) == q.argmax(-1)).sum()) >= 6


def test_a_model_does_not_diverge_from_itself_and_does_with_fewer_experts(spoken, speaking_model):
    sequences = windows(spoken.tokenizer.encode(TEXT), 16)
    own = divergence(spoken.engine, spoken.engine, sequences)
    assert (own.nats, own.agreed.value) == (0, 1)
    with flashmoe.load(speaking_model, backend="reference", context=64, experts_per_token=1) as fewer:
        assert divergence(spoken.engine, fewer.engine, sequences).nats > 0


def test_models_that_read_other_tokens_are_refused(spoken, other_tokenizer):
    with (
        flashmoe.load(other_tokenizer, backend="reference", context=64) as other,
        pytest.raises(FlashMoeError, match=r"tokenizers of .* differ"),
    ):
        check_comparable(spoken, other)
