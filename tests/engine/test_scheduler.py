"""Requests that come and go: each is answered as if it were alone, and each ends."""

import threading
from queue import Queue
from unittest.mock import Mock

import numpy as np
import pytest

from engine.watch import Watch
from flashmoe.engine import scheduler as module
from flashmoe.engine.generation import generate
from flashmoe.engine.loader import load_engine
from flashmoe.engine.request import End, Failed, Progress, Request, Token
from flashmoe.engine.sampling import Sampling, log_probabilities
from flashmoe.engine.scheduler import QueueFullError, Scheduler
from flashmoe.errors import CapacityError, FlashMoeError
from flashmoe.settings import Settings
from oracle import VOCAB, some_tokens
from processes import HANG

SETTINGS = Settings(backend="cpu", threads=1, context=128, chunk_tokens=8, sequences=3)
PROMPTS = [some_tokens(length, seed=length) for length in (9, 40, 1, 14, 23, 5, 31)]
NEVER = frozenset()


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self):
        self.events, self.over = [], threading.Event()

    def __call__(self, event):
        self.events.append(event)
        if isinstance(event, End | Failed):
            self.over.set()

    def wait(self):
        assert self.over.wait(HANG)
        return self

    @property
    def tokens(self):
        return [e.token_id for e in self.events if isinstance(e, Token)]

    @property
    def last(self):
        return self.events[-1]


class Blocked(Heard):
    """A listener that holds the engine's thread at its first event until it is let go."""

    def __init__(self):
        super().__init__()
        self.reached, self.go = threading.Event(), threading.Event()

    def __call__(self, event):
        super().__call__(event)
        self.reached.set()
        assert self.go.wait(HANG)


@pytest.fixture
def engine(tiny_packed):
    with load_engine(tiny_packed("qwen3_5_moe_text"), SETTINGS) as engine:
        yield engine


@pytest.fixture
def scheduler(engine):
    scheduler = Scheduler(engine)
    yield scheduler
    scheduler.close()


def ask(scheduler, prompt, listener=None, **options):
    listener = listener or Heard()
    options = {"sampling": Sampling(), "max_tokens": 8, "stop_ids": NEVER, **options}
    return scheduler.submit(Request(prompt, **options), listener), listener


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, seed=5, presence_penalty=1.0)])
@pytest.mark.parametrize("beside", [1, 5, 256])
def test_answers_are_those_of_each_request_alone(engine, sampling, beside, monkeypatch):
    monkeypatch.setattr(module, "PROMPT_TOKENS_BESIDE_ANSWERS", beside)
    expected = [list(generate(engine, p, sampling, max_tokens=4 + i, stop_ids=NEVER)) for i, p in enumerate(PROMPTS)]
    scheduler = Scheduler(engine)
    try:
        asked = [ask(scheduler, p, sampling=sampling, max_tokens=4 + i)[1] for i, p in enumerate(PROMPTS)]
        assert [heard.wait().tokens for heard in asked] == expected
        assert {heard.last for heard in asked} == {End("length")}
    finally:
        scheduler.close()


def test_a_stop_token_ends_an_answer_and_is_not_given_out(engine):
    whole = list(generate(engine, PROMPTS[0], Sampling(), max_tokens=8, stop_ids=NEVER))
    stops = frozenset(whole[5:6])
    scheduler = Scheduler(engine)
    try:
        _, heard = ask(scheduler, PROMPTS[0], stop_ids=stops)
        assert heard.wait().tokens == whole[: whole.index(whole[5])]
        assert heard.last == End("stop")
    finally:
        scheduler.close()


def test_progress_is_told_as_a_prompt_is_read(scheduler):
    _, heard = ask(scheduler, PROMPTS[1], max_tokens=1)
    progress = [e for e in heard.wait().events if isinstance(e, Progress)]
    assert [p.done for p in progress] == [0, 8, 16, 24, 32, 40]
    assert {p.total for p in progress} == {40}


def test_a_long_prompt_does_not_hold_up_an_answer_on_its_way(engine, monkeypatch):
    """While a prompt of 100 tokens is read in pieces, one that answers gets a token with every piece."""
    monkeypatch.setattr(module, "PROMPT_TOKENS_BESIDE_ANSWERS", 4)
    order = Queue()
    scheduler = Scheduler(engine)
    try:
        first = Blocked()
        ask(scheduler, PROMPTS[0], first, max_tokens=100)
        assert first.reached.wait(HANG)

        class Ordered(Heard):
            def __call__(self, event):
                order.put((len(first.tokens), event))
                super().__call__(event)

        _, second = ask(scheduler, some_tokens(100), Ordered(), max_tokens=1)
        first.go.set()
        second.wait()
        pieces = [n for n, event in order.queue if isinstance(event, Progress)]
        # Read beside the answer from the third piece on at the latest, and then in pieces of 4.
        assert len(pieces) > 20
        assert pieces[-1] - pieces[0] > 20
    finally:
        scheduler.close()


def test_cancelling_ends_a_request_within_a_step(scheduler):
    blocked = Blocked()
    ticket, heard = ask(scheduler, PROMPTS[0], blocked, max_tokens=100)
    assert blocked.reached.wait(HANG)
    ticket.cancel()
    blocked.go.set()
    assert heard.wait().last == End("cancelled")
    assert len(heard.tokens) <= 1


def test_cancelling_ends_a_prompt_inside_a_step_that_nobody_else_waits_for(engine):
    class InLayer(Watch):
        """Cancels in the second layer of the first forward."""

        def routed(self, layer, x, ids, weights):
            super().routed(layer, x, ids, weights)
            if layer == 1:
                ticket.cancel()

    engine.observers.append(watch := InLayer())
    scheduler = Scheduler(engine)
    try:
        blocked = Blocked()
        ticket, heard = ask(scheduler, PROMPTS[1], blocked, max_tokens=50)
        blocked.go.set()
        assert heard.wait().last == End("cancelled")
        assert [layer for layer, *_ in watch.seen] == [0, 1]
        engine.observers.clear()
        answered = ask(scheduler, PROMPTS[0], max_tokens=2)[1].wait()
        assert answered.last == End("length")
    finally:
        scheduler.close()


def test_a_waiting_request_can_be_cancelled_and_makes_room_in_the_queue(engine):
    scheduler = Scheduler(engine, max_waiting=2)
    try:
        blocked = Blocked()
        ask(scheduler, PROMPTS[0], blocked)
        assert blocked.reached.wait(HANG)
        asked = [ask(scheduler, PROMPTS[2]) for _ in range(2)]
        with pytest.raises(QueueFullError, match="2 requests wait already"):
            ask(scheduler, PROMPTS[2])
        asked[0][0].cancel()
        asked.append(ask(scheduler, PROMPTS[2]))
        blocked.go.set()
        assert [heard.wait().last.reason for _, heard in asked] == ["cancelled", "length", "length"]
    finally:
        scheduler.close()


def test_closing_ends_what_runs_and_what_waits(engine):
    scheduler = Scheduler(engine)
    blocked = Blocked()
    asked = [ask(scheduler, PROMPTS[0], blocked, max_tokens=100)[1]]
    asked += [ask(scheduler, p, max_tokens=80)[1] for p in PROMPTS]
    assert blocked.reached.wait(HANG)
    blocked.go.set()
    scheduler.close()
    assert {heard.last for heard in asked} == {End("cancelled")}
    with pytest.raises(FlashMoeError, match="shutting down"):
        ask(scheduler, PROMPTS[0])


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"prompt": []}, FlashMoeError, "at least one token"),
        ({"prompt": [VOCAB]}, FlashMoeError, "not in the vocabulary"),
        ({"prompt": [1], "max_tokens": 128}, CapacityError, "do not fit the context of 128"),
        ({"prompt": [1], "max_tokens": -1}, FlashMoeError, "max_tokens must be"),
        ({"prompt": [1], "bias": {VOCAB: 1.0}}, FlashMoeError, f"logit_bias names token {VOCAB}"),
    ],
)
def test_what_cannot_run_is_refused_when_it_is_asked(scheduler, options, kind, message):
    with pytest.raises(kind, match=message):
        ask(scheduler, **options)


def test_a_request_that_fails_harms_no_other(scheduler):
    class Forbidding:
        def allowed(self):
            return np.zeros(VOCAB, dtype=np.bool_)

        def accept(self, token): ...

    class Broken(Forbidding):
        def allowed(self):
            raise ZeroDivisionError

    _, wrong = ask(scheduler, PROMPTS[1], constraint=Broken())
    _, stuck = ask(scheduler, PROMPTS[3], constraint=Forbidding())
    _, good = ask(scheduler, PROMPTS[0])
    assert isinstance(wrong.wait().last.error, ZeroDivisionError)
    assert "allows no token" in str(stuck.wait().last.error)
    assert len(good.wait().tokens) == 8


def test_a_forward_that_fails_ends_those_in_it_and_the_next_one_works(scheduler, engine, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(engine, "forward", Mock(side_effect=FlashMoeError("a record is short")))
        _, heard = ask(scheduler, PROMPTS[0])
        assert str(heard.wait().last.error) == "a record is short"
    _, heard = ask(scheduler, PROMPTS[0])
    assert heard.wait().last == End("length")


def test_a_constraint_and_a_bias_rule_what_comes(scheduler):
    class Rising:
        def __init__(self):
            self.next = 10

        def allowed(self):
            mask = np.zeros(VOCAB, dtype=np.bool_)
            mask[self.next] = True
            return mask

        def accept(self, token):
            assert token == self.next
            self.next += 1

    _, heard = ask(scheduler, PROMPTS[0], constraint=Rising(), sampling=Sampling(temperature=1.0, seed=1))
    assert heard.wait().tokens == list(range(10, 18))
    _, heard = ask(scheduler, PROMPTS[0], bias={7: 100.0})
    assert heard.wait().tokens == [7] * 8


def test_logprobs_are_those_of_the_logits(scheduler, engine):
    _, heard = ask(scheduler, PROMPTS[0], top_logprobs=3, sampling=Sampling(temperature=1.0, seed=2), max_tokens=4)
    heard.wait()
    rows = engine.logits([*PROMPTS[0], *heard.tokens])[len(PROMPTS[0]) - 1 :]
    for event, row in zip([e for e in heard.events if isinstance(e, Token)], rows, strict=False):
        values = log_probabilities(row)
        assert event.logprob.value == values[event.token_id]
        assert [t.token_id for t in event.top] == np.argsort(-values)[:3].tolist()
        assert np.exp(values).sum() == pytest.approx(1)


class Kept:
    """Prefixes that only notes what it is given."""

    nbytes = disk_bytes = 0

    def __init__(self, engine):
        self.engine, self.saved = engine, []

    def search(self, tokens): ...

    def begin(self, tokens, stored):  # noqa: ARG002
        return self.engine.new_sequence()

    def save(self, tokens, state):
        assert len(tokens) == state.length
        self.saved.append(tokens.tolist())


def test_states_are_saved_at_prefix_checkpoints_and_at_the_end(engine):
    kept = Kept(engine)
    scheduler = Scheduler(engine, kept)
    try:
        _, heard = ask(scheduler, PROMPTS[1], prefix_checkpoints=(3, 20), max_tokens=5)
        heard.wait()
    finally:
        scheduler.close()
    prompt = PROMPTS[1].tolist()
    assert kept.saved == [prompt[:3], prompt[:20], prompt + heard.tokens[:4]]


class OnSlowDisk:
    """A session cache whose searches wait until they are let go."""

    nbytes = disk_bytes = 0

    def __init__(self, cache):
        self.begin, self.save = cache.begin, cache.save
        self.cache, self.reached, self.go = cache, threading.Event(), threading.Event()
        self.slow = ()

    def search(self, tokens):
        found = self.cache.search(tokens)

        def wait():
            self.reached.set()
            assert self.go.wait(HANG)
            return found()

        return wait if len(tokens) in self.slow else found


@pytest.fixture
def on_slow_disk(engine, tmp_path):
    """With the state after the first 40 tokens of PROMPTS[1] on disk alone."""
    saving = engine.session_cache(tmp_path)
    state = engine.new_sequence()
    engine.prefill(state, PROMPTS[1])
    saving.save(PROMPTS[1], state)
    saving.flush()
    return OnSlowDisk(engine.session_cache(tmp_path))


def test_others_are_answered_while_a_state_is_read_from_a_slow_disk(engine, on_slow_disk):
    """One answers when the reading begins, one comes after: both end before it does. Then the state is the one used."""
    longer = np.append(PROMPTS[1], 3).astype(np.int32)
    expected = list(generate(engine, longer, Sampling(), max_tokens=8, stop_ids=NEVER))
    on_slow_disk.slow = (len(longer),)
    scheduler = Scheduler(engine, on_slow_disk)
    try:
        blocked = Blocked()
        ask(scheduler, PROMPTS[0], blocked, max_tokens=30)
        assert blocked.reached.wait(HANG)
        _, resumed = ask(scheduler, longer)
        blocked.go.set()
        assert blocked.wait().last == End("length")
        assert on_slow_disk.reached.wait(HANG)
        assert ask(scheduler, PROMPTS[2])[1].wait().last == End("length")
        assert resumed.events == []
        assert scheduler.stats.running == 1
        on_slow_disk.go.set()
        assert resumed.wait().tokens == expected
        assert resumed.events[0] == Progress(40, 41)
    finally:
        on_slow_disk.go.set()
        scheduler.close()


def test_what_is_cancelled_while_its_state_is_read_ends_and_frees_its_place(engine, on_slow_disk):
    on_slow_disk.slow = (len(PROMPTS[0]), len(PROMPTS[1]), len(PROMPTS[3]))
    scheduler = Scheduler(engine, on_slow_disk)
    try:
        asked = [ask(scheduler, PROMPTS[i]) for i in (0, 1, 3)]
        assert on_slow_disk.reached.wait(HANG)
        _, after = ask(scheduler, PROMPTS[2])
        for ticket, _ in asked:
            ticket.cancel()
        on_slow_disk.go.set()
        assert [heard.wait().last for _, heard in asked] == [End("cancelled")] * 3
        assert after.wait().last == End("length")
    finally:
        on_slow_disk.go.set()
        scheduler.close()


def test_a_search_that_fails_is_told_to_the_one_who_asked(engine, on_slow_disk):
    on_slow_disk.cache.search = lambda _tokens: lambda: 1 // 0
    scheduler = Scheduler(engine, on_slow_disk)
    try:
        _, heard = ask(scheduler, PROMPTS[0])
        assert isinstance(heard.wait().last.error, ZeroDivisionError)
    finally:
        scheduler.close()
