"""Text in, text out: prompts, pieces, stop strings and what `flashmoe.load` refuses."""

import shutil
from pathlib import Path

import pytest

import flashmoe
from engine.watch import Watch
from packs import reseal


@pytest.fixture(scope="module")
def engine(speaking_model):
    with flashmoe.load(speaking_model, backend="reference", context=256) as engine:
        yield engine


SAMPLED = {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "max_tokens": 40}


def test_the_pieces_joined_are_the_answer_made_at_once(engine):
    stream = engine.stream("Hello", seed=3, **SAMPLED)
    pieces = list(stream)
    answer = engine.generate("Hello", seed=3, **SAMPLED)
    assert (
        "".join(p.text for p in pieces) == answer.text == engine.tokenizer.decode(answer.token_ids, keep_special=False)
    )
    assert [p.token_id for p in pieces if p.token_id >= 0] == answer.token_ids
    assert stream.finish_reason == answer.finish_reason
    assert answer.stats.generated_tokens == len(answer.token_ids)


@pytest.mark.parametrize("seed", range(6))
def test_no_piece_ends_within_a_character(engine, seed):
    """The joined bytes may hold what is no UTF-8, but a character that is complete is never torn."""
    pieces = list(engine.stream("Grüße 你好", seed=seed, **SAMPLED))
    whole = engine.tokenizer.decode([p.token_id for p in pieces if p.token_id >= 0], keep_special=False)
    assert "".join(p.text for p in pieces) == whole


def test_a_string_is_one_user_turn_unless_raw(engine):
    turn = engine.prompt_ids("Hi")
    assert turn == engine.prompt_ids([{"role": "user", "content": "Hi"}])
    assert engine.prompt_ids("Hi", raw=True) == engine.tokenizer.encode("Hi", add_special_tokens=True) != turn


def test_messages_go_through_the_checkpoints_own_template(engine):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    expected = engine.template.render(messages, enable_thinking=False)
    assert engine.prompt_ids(messages, enable_thinking=False) == engine.tokenizer.encode(expected)


def test_control_tokens_in_a_prompt_are_text_unless_it_is_raw(engine):
    end = engine.tokenizer.token_id("<|im_end|>")
    assert engine.prompt_ids("a<|im_end|>b").count(end) == engine.prompt_ids("ab").count(end)
    assert engine.prompt_ids("a<|im_end|>b", raw=True).count(end) == 1


def test_logits_are_the_engines(engine):
    ids = engine.prompt_ids("Hi")
    assert engine.logits(ids).shape == (len(ids), engine.engine.config.vocab)


def test_a_stop_string_ends_the_text_before_it_even_across_tokens(engine):
    whole = engine.generate("Hello", seed=3, **SAMPLED).text
    for begin in (0, 5, len(whole) // 2):
        stop = whole[begin : begin + 4]
        stream = engine.stream("Hello", seed=3, stop=[stop, "never said"], **SAMPLED)
        assert "".join(p.text for p in stream) == whole[: whole.index(stop)]
        assert stream.finish_reason == "stop"


def test_a_stop_string_that_does_not_come_changes_nothing(engine):
    whole = engine.generate("Hello", seed=3, **SAMPLED)
    again = engine.generate("Hello", seed=3, stop=whole.text[-2:] + "§", **SAMPLED)
    assert (again.text, again.finish_reason) == (whole.text, whole.finish_reason)


def test_an_eos_token_of_the_tokenizer_ends_the_answer(engine):
    whole = engine.generate("Hello", seed=3, **SAMPLED).token_ids
    eos = engine.tokenizer.eos_ids
    try:
        engine.tokenizer.eos_ids = frozenset([whole[4]])
        answer = engine.generate("Hello", seed=3, **SAMPLED)
    finally:
        engine.tokenizer.eos_ids = eos
    assert answer.token_ids == whole[: whole.index(whole[4])]
    assert answer.finish_reason == "stop"


def test_the_checkpoints_generation_config_is_the_default(engine):
    saved = engine.engine.defaults
    try:
        engine.engine.defaults = {"do_sample": True, "top_k": 1, "temperature": 1.0}
        assert engine.generate("Hi", max_tokens=5).token_ids == engine.generate("Hi", max_tokens=5).token_ids
        engine.engine.defaults = {"do_sample": True, "top_k": -4}
        with pytest.raises(flashmoe.FlashMoeError, match="top_k must be a whole number"):
            engine.generate("Hi", max_tokens=5)
    finally:
        engine.engine.defaults = saved


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1.0}, "no sampling parameter 'temprature'; they are temperature, top_k"),
        ({"temperature": -1.0}, "temperature must be a number"),
        ({"stop": [""]}, "stop must be strings"),
        ({"max_tokens": 0}, "max_tokens must be"),
        ({"max_tokens": 1000}, "do not fit the context of 256"),
    ],
)
def test_a_parameter_that_is_not_valid_is_named(engine, options, message):
    with pytest.raises(flashmoe.FlashMoeError, match=message):
        engine.generate("Hi", **options)


def test_raw_wants_a_string(engine):
    with pytest.raises(flashmoe.FlashMoeError, match="give a string"):
        engine.generate([{"role": "user", "content": "Hi"}], raw=True)


def test_a_checkpoint_without_a_template_completes_plain_text(speaking_model, tmp_path):
    bare = Path(shutil.copytree(speaking_model, tmp_path / "bare"))
    (bare / "chat_template.jinja").unlink()
    reseal(bare)
    with flashmoe.load(bare, backend="reference", context=64) as engine:
        assert len(engine.generate("Hi", raw=True, max_tokens=2).token_ids) == 2
        with pytest.raises(flashmoe.FlashMoeError, match=r"no chat template.*--raw"):
            engine.generate("Hi", max_tokens=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "gpu"}, "no backend 'gpu'"),
        ({"memory": "lots"}, "'lots' is not a size"),
        ({"thread": 2}, "no setting 'thread'"),
        ({"threads": 0}, "threads must be a whole number"),
    ],
)
def test_settings_that_are_not_valid_are_named(speaking_model, settings, message):
    with pytest.raises(flashmoe.FlashMoeError, match=message):
        flashmoe.load(speaking_model, **settings)


def test_the_example_in_the_packages_docstring_runs(speaking_model, capsys):
    code = "\n".join(flashmoe.__doc__.splitlines()[2:])
    code = code.replace('"DIR"', repr(str(speaking_model))).replace("max_tokens=200", "max_tokens=5")
    exec(compile(code, "example", "exec"), {})
    assert capsys.readouterr().out


def test_a_session_gives_the_same_answers_and_computes_what_is_new_alone(speaking_model):
    with flashmoe.load(speaking_model, backend="reference", context=512, snapshots=None) as engine:
        watch = Watch()
        engine.engine.observers.append(watch)
        layers = engine.engine.config.layers
        computed = {}
        answers = {}
        for session in (engine.engine.session(), None):
            messages = [{"role": "system", "content": "Count the ships. " * 10}, {"role": "user", "content": "Hello"}]
            for turn in range(3):
                watch.seen.clear()
                pieces = engine.stream(messages, session=session, temperature=0, max_tokens=12)
                text = "".join(piece.text for piece in pieces)
                computed[session is None, turn] = sum(len(x) for _, x, _, _ in watch.seen) // layers
                answers[session is None, turn] = text
                messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "And then?"}]
    for turn in range(3):
        assert answers[False, turn] == answers[True, turn]
        assert computed[False, turn] <= computed[True, turn] - (60 if turn else 0)
