"""A prompt's own tokens with their probabilities: those of the logits, whatever runs beside, in bounded memory."""

from unittest.mock import Mock

import numpy as np
import pytest

from engine.test_scheduler import NEVER, PROMPTS, SETTINGS, Blocked, ask
from flashmoe.engine import engine as module
from flashmoe.engine.loader import load_engine
from flashmoe.engine.request import End, Failed, Progress, Scored, Token
from flashmoe.engine.sampling import log_probabilities
from flashmoe.engine.scheduler import Scheduler
from flashmoe.errors import FlashMoeError
from processes import HANG

LONG = PROMPTS[1]


@pytest.fixture
def engine(tiny_packed):
    with load_engine(tiny_packed("qwen3_5_moe_text"), SETTINGS) as engine:
        yield engine


@pytest.fixture
def scheduler(engine):
    scheduler = Scheduler(engine)
    yield scheduler
    scheduler.close()


def scored(heard):
    return [token for event in heard.events if isinstance(event, Scored) for token in event.tokens]


def test_each_token_of_a_prompt_has_the_probability_that_the_logits_before_it_say(engine):
    expected = np.stack([log_probabilities(row) for row in engine.logits(LONG)])
    scheduler = Scheduler(engine)
    beside = [ask(scheduler, prompt)[1] for prompt in PROMPTS[2:4]]
    _, heard = ask(scheduler, LONG, score_prompt=True, top_logprobs=3, max_tokens=2)
    for listener in (heard, *beside):
        listener.wait()
    scheduler.close()
    tokens = scored(heard)
    assert [token.token_id for token in tokens] == LONG.tolist()
    assert tokens[0] == Token(LONG[0])
    for row, token in zip(expected, tokens[1:], strict=False):
        assert token.logprob.value == row[token.token_id]
        assert [top.value for top in token.top] == sorted(row, reverse=True)[:3]
    assert len(heard.tokens) == 2


def test_a_prompt_alone_is_read_and_nothing_is_generated(scheduler):
    _, heard = ask(scheduler, LONG, score_prompt=True, top_logprobs=0, max_tokens=0)
    heard.wait()
    assert [token.token_id for token in scored(heard)] == LONG.tolist()
    assert heard.tokens == []
    assert heard.last == End("length")
    assert Progress(len(LONG), len(LONG)) in heard.events
    _, unscored = ask(scheduler, LONG, max_tokens=0)
    assert unscored.wait().events[-1] == End("length")
    assert scored(unscored) == []


def test_a_prompt_of_one_token_has_nothing_to_score(scheduler):
    _, heard = ask(scheduler, PROMPTS[2], score_prompt=True, top_logprobs=0, max_tokens=0)
    assert scored(heard.wait()) == [Token(int(PROMPTS[2][0]))]


def test_logits_are_held_for_a_few_rows_at_a_time(engine, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 3 * 4 * engine.config.vocab)
    rows, real = [], engine.decoder.logits
    monkeypatch.setattr(engine.decoder, "logits", lambda x: rows.append(len(x)) or real(x))
    scheduler = Scheduler(engine)
    _, heard = ask(scheduler, LONG, score_prompt=True, top_logprobs=1, max_tokens=0)
    assert len(scored(heard.wait())) == len(LONG)
    scheduler.close()
    assert max(rows) == 3
    assert sum(rows) == len(LONG) - 1


def test_scoring_neither_uses_nor_changes_saved_states(engine):
    prefixes = Mock(**{"search.return_value": None})
    scheduler = Scheduler(engine, prefixes)
    _, heard = ask(scheduler, LONG, score_prompt=True, top_logprobs=0, max_tokens=1, prefix_checkpoints=(8,))
    assert len(scored(heard.wait())) == len(LONG)
    scheduler.close()
    assert prefixes.method_calls == []


def test_a_stop_token_is_reported_with_the_end(engine):
    likeliest = int(engine.logits(LONG)[-1].argmax())
    scheduler = Scheduler(engine)
    _, heard = ask(scheduler, LONG, stop_ids=frozenset({likeliest}), top_logprobs=1)
    _, silent = ask(scheduler, LONG, stop_ids=frozenset({likeliest}))
    end, quiet = heard.wait().last, silent.wait().last
    scheduler.close()
    assert (end.reason, end.token.token_id) == ("stop", likeliest)
    assert end.token.logprob == end.token.top[0]
    assert quiet == End("stop")


def test_a_cancelled_request_stops_scoring(engine, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 4 * engine.config.vocab)
    scheduler = Scheduler(engine)
    ticket, heard = ask(scheduler, LONG, Blocked(), score_prompt=True, top_logprobs=0, max_tokens=0)
    assert heard.reached.wait(HANG)
    ticket.cancel()
    heard.go.set()
    assert heard.wait().last == End("cancelled")
    assert len(scored(heard)) <= 1
    scheduler.close()


def test_logits_that_are_not_numbers_fail_that_request_alone(engine, monkeypatch):
    real = engine.logits_of
    monkeypatch.setattr(engine, "logits_of", lambda x: (rows * np.nan for rows in real(x)))
    scheduler = Scheduler(engine)
    _, heard = ask(scheduler, LONG, score_prompt=True, top_logprobs=0, max_tokens=0)
    _, beside = ask(scheduler, PROMPTS[0], stop_ids=NEVER)
    assert isinstance(heard.wait().last, Failed)
    assert isinstance(heard.last.error, FlashMoeError)
    assert beside.wait().last == End("length")
    scheduler.close()
