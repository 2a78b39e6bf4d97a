"""A process forked from one with a model in it: a sentence, and nothing waits for threads that are not there."""

import pytest

from strange_files import run

_CHILD = """
import os, sys
import numpy as np
from pathlib import Path
from flashmoe.engine.loader import load_engine
from flashmoe.errors import FlashMoeError
from flashmoe.settings import Settings
from oracle import some_tokens

def in_child(engine, cache):
    state = engine.new_sequence()
    try:
        engine.prefill(state, some_tokens(20))
    except FlashMoeError as error:
        print(error, flush=True)
    try:
        engine.store.fetch(0, np.arange(2, dtype=np.int32)).__enter__()
        engine.store.in_memory(0)
    except RuntimeError as error:
        print(error, flush=True)
    cache.save(np.zeros(0, np.int32), state)
    cache.flush()
    with load_engine(Path(sys.argv[1]), SETTINGS) as own:
        print(np.array_equal(own.logits(some_tokens(20)), expected), flush=True)

SETTINGS = Settings(backend=sys.argv[2], threads=2, context=64)
with load_engine(Path(sys.argv[1]), SETTINGS) as engine:
    expected = engine.logits(some_tokens(20))
    cache = engine.session_cache(Path(sys.argv[3]))
    tokens = some_tokens(30)
    state = engine.new_sequence()
    engine.prefill(state, tokens)
    cache.save(tokens, state)
    child = os.fork()
    if child == 0:
        with engine:
            in_child(engine, cache)
        del engine
        sys.exit(0)  # ends the interpreter, and all objects with it
    assert os.waitpid(child, 0)[1] == 0
    print(np.array_equal(engine.logits(some_tokens(20)), expected))
    cache.flush()
"""


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_child_is_told_to_load_the_model_itself_and_can(backend, tiny_packed, tmp_path):
    lines = run(_CHILD, tiny_packed("qwen3_next"), backend, tmp_path / "sessions").splitlines()
    assert "this one was forked from it, without its threads. Load the model after forking" in lines[0]
    assert lines[-2:] == ["True", "True"], "of its own model, and of its parent's"
