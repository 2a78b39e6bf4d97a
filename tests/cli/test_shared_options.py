"""What several commands can be told, they are told by the same options."""

from collections import defaultdict
from dataclasses import fields

import click
import pytest

from flashmoe.cli.main import COMMANDS, group, run
from flashmoe.cli.shared_options import ENGINE, KEEPING, SAMPLING, SharingCommand
from flashmoe.settings import Settings

LOADING = ["run", "chat", "serve", "eval", "bench"]


def options_of(name):
    command = group.get_command(click.Context(group), name)
    return [p for p in command.params if isinstance(p, click.Option)]


@pytest.mark.parametrize("name", LOADING)
def test_every_command_that_loads_a_model_takes_all_options_of_the_engine(name):
    assert {id(option) for option in ENGINE.options} <= {id(option) for option in options_of(name)}


def test_conversations_and_sampling_are_told_alike():
    for names, shared in ((["chat", "serve"], KEEPING), (["run", "chat"], SAMPLING)):
        for name in names:
            assert {id(option) for option in shared.options} <= {id(option) for option in options_of(name)}


def test_an_option_of_the_same_name_is_the_same_object():
    by_word = defaultdict(set)
    for name in COMMANDS:
        for option in options_of(name):
            for word in option.opts:
                if option in (*ENGINE.options, *SAMPLING.options, *KEEPING.options):
                    by_word[word].add(id(option))
    for name in set(COMMANDS) - {"info"}:  # whose --memory is what it reckons with
        for option in options_of(name):
            for word in set(option.opts) & by_word.keys() - {"--seed"}:  # that of synth draws weights
                assert by_word[word] == {id(option)}, f"{name} has a {word} of its own"


def test_the_options_of_the_engine_are_settings_with_the_same_defaults():
    assert {option.name for option in ENGINE.options} <= {field.name for field in fields(Settings)}
    seen = []
    command = SharingCommand("x", groups=(ENGINE,), callback=lambda settings: seen.append(settings))
    command.main([], standalone_mode=False)
    assert seen == [Settings()]


@pytest.mark.parametrize("command", LOADING)
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--threads", "100000", "threads must be at most 1024, not 100000."),
        ("--threads", "0", "threads must be a whole number of at least 1"),
        ("--threads", "9" * 30, "more than any machine has"),
        ("--context", "9" * 30, "more than any machine has"),
        ("--memory", "9" * 400 + "GiB", "more than any machine has"),
        ("--memory", "plenty", "'plenty' is not a size"),
        ("--experts-per-token", "-1", "at least 1, not -1"),
    ],
)
def test_a_value_that_cannot_be_is_a_sentence_before_anything_is_loaded(
    command, option, value, message, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    prompt = ["-p", "x"] if command == "run" else []
    assert run([command, str(tmp_path / "nowhere"), option, value, *prompt]) == 1
    error = capfd.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
