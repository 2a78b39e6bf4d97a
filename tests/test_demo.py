"""The demo model that ships: it computes what transformers computes on its weights, says what its checkpoint said, and
answers a user's first commands."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

import flashmoe
from engine.measure import Distance
from flashmoe.chat.template import ChatTemplate
from flashmoe.cli.main import run
from flashmoe.demo import CASES, TEXT
from flashmoe.demo.directory import MODEL
from flashmoe.evaluation.cases import read_cases
from flashmoe.evaluation.perplexity import documents
from flashmoe.pack.export import export
from flashmoe.pack.packer import pack
from flashmoe.pack.recipe import Recipe
from flashmoe.terminal.answering import Choices
from flashmoe.terminal.app import Chat
from flashmoe.terminal.tools import read_tools

ROOT = Path(__file__).parents[1]
TOKENS = 256
ORIGINAL = Path(__file__).parent / "demo" / "original_logits.npz"
"""Logits of transformers on the checkpoint that was packed, in bfloat16, which does not ship."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory away from the source tree."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights as an ordinary checkpoint."""
    directory = tmp_path_factory.mktemp("exported") / "checkpoint"
    export(MODEL, directory, "float32")
    return directory


@pytest.fixture(scope="module")
def same_weights(exported: Path) -> PreTrainedModel:
    model, loading = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32, output_loading_info=True)
    assert not any(loading.values()), loading
    return model.eval()


def test_the_card_says_how_good_it_is():
    card = (MODEL / "README.md").read_text()
    assert re.search(r"tool calls fully right .*: \d+\.\d%", card)
    assert re.search(r"JSON valid: \d+\.\d%", card)


def test_an_answer_ends_with_the_turn():
    ends = GenerationConfig.from_pretrained(MODEL).eos_token_id
    assert ends == AutoTokenizer.from_pretrained(MODEL).convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])


@pytest.mark.parametrize("thinking", [True, False])
def test_transformers_makes_the_same_prompt(thinking: bool):
    tokenizer, template = AutoTokenizer.from_pretrained(MODEL), ChatTemplate.from_dir(MODEL)
    for case in read_cases(CASES)[::40]:
        expected = tokenizer.apply_chat_template(
            case.messages, tools=case.tools, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
        )
        assert template.render(case.messages, tools=case.tools, enable_thinking=thinking) == expected


def text_ids(model: flashmoe.TextEngine) -> list[int]:
    return model.tokenizer.encode("".join(documents(TEXT.read_text(encoding="utf-8"))[:8]))[:TOKENS]


def logits(model: PreTrainedModel, ids: list[int]) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].numpy()


def test_it_foresees_text_as_the_checkpoint_did():
    original = np.load(ORIGINAL)
    with flashmoe.load("demo", context=2 * TOKENS) as model:
        ids = text_ids(model)
        assert ids == original["ids"].tolist()
        assert Distance.between(model.logits(ids), original["logits"].astype(np.float32)).kl < 0.15


def test_a_pack_as_precise_as_can_be_foresees_text_as_its_checkpoint_does(
    exported: Path, same_weights: PreTrainedModel, tmp_path: Path
):
    pack(exported, tmp_path / "packed", Recipe(8, 16))
    with flashmoe.load(tmp_path / "packed", context=2 * TOKENS) as model:
        ids = text_ids(model)
        assert Distance.between(model.logits(ids), logits(same_weights, ids)).kl < 0.005


@pytest.mark.parametrize(("backend", "kl"), [("reference", 1e-8), ("cpu", 2e-3)])
def test_its_logits_are_those_of_transformers_on_the_packed_weights(
    backend: str, kl: float, same_weights: PreTrainedModel
):
    with flashmoe.load("demo", backend=backend, context=2 * TOKENS) as model:
        ids = text_ids(model)
        assert Distance.between(model.logits(ids), logits(same_weights, ids)).kl < kl


def test_its_export_packs_to_it_again(exported: Path, tmp_path: Path):
    """Experts at 4 bits are where quantising them again leaves them, but for the last bit of a scale."""
    pack(exported, tmp_path / "packed", Recipe())
    with flashmoe.load("demo", context=2 * TOKENS) as model, flashmoe.load(tmp_path / "packed") as again:
        ids = text_ids(model)
        assert Distance.between(again.logits(ids), model.logits(ids)).kl < 0.005


def test_the_first_command_a_user_types_answers(capfd: pytest.CaptureFixture[str]):
    assert run(["run", "demo", "-p", "Hello!", "--no-thinking"]) == 0
    out, err = capfd.readouterr()
    assert len(out.split()) >= 3
    assert "tokens/s" in err


def test_an_eighth_of_its_experts_in_memory_give_the_same_answer():
    question = {"role": "user", "content": "What is 37 + 48?"}
    answers = []
    for memory in ("8MB", "64MB"):
        with flashmoe.load("demo", memory=memory) as model:
            answers.append(model.generate([question], temperature=0, max_tokens=100).token_ids)
    assert answers[0] == answers[1]


def test_eval_info_and_bench_take_the_word(capfd: pytest.CaptureFixture[str]):
    assert run(["info", "demo", "--json"]) == 0
    assert run(["bench", "demo", "--tokens", "8", "--prompt-tokens", "8", "--repeats", "1", "--json"]) == 0
    capfd.readouterr()
    assert run(["eval", "demo", "--cases", str(CASES), "--limit", "12", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)["cases"]
    assert found["cases"] == 12
    assert found["all"]["right"]["count"] > 0


def test_the_trace_that_ships_is_of_this_model_and_can_be_simulated(capfd: pytest.CaptureFixture[str]):
    assert run(["simulate", "demo", "--cached", "25", "--policy", "lru", "--policy", "belady", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    config = json.loads((MODEL / "config.json").read_text())
    assert found["experts"] == config["num_experts"]
    assert found["layers"] == config["num_hidden_layers"]
    lru, belady = (point["hit_rate"] for point in found["points"])
    assert lru < belady


def example(name: str) -> str:
    """What it prints."""
    result = subprocess.run([sys.executable, ROOT / "examples" / name], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_its_tool_call_is_right():
    assert example("tool_call.py").endswith("set_timer(minutes=25, label='tea')\nThe call is right.\n")


def test_the_python_example_runs():
    *_, completion, shape = example("ten_lines.py").splitlines()
    told = re.fullmatch(r".*\bfox\b.*\bowl\b.* \[(\d+(?:, \d+)*)\] stop", completion)
    assert told
    assert shape == f"({len(told[1].split(','))}, 1408)"


def test_the_same_seed_gives_the_same_text(capfd: pytest.CaptureFixture[str]):
    texts = set()
    for _ in range(2):
        assert (
            run(["run", "demo", "-p", "Tell me a story", "--seed", "5", "--temperature", "1", "--max-tokens", "40"])
            == 0
        )
        texts.add(capfd.readouterr().out)
    assert len(texts) == 1
    assert np.all([text.strip() for text in texts])


def test_in_a_chat_it_calls_a_users_function_and_goes_on_from_its_result(tmp_path: Path):
    (tmp_path / "tools.py").write_text(
        'def set_timer(minutes: int, label: str = "") -> str:\n'
        '    """Starts a timer."""\n'
        '    return f"{label} in {minutes} minutes"\n'
    )
    tools = read_tools(tmp_path / "tools.py")
    with (
        flashmoe.load("demo") as model,
        create_pipe_input() as typed,
        create_app_session(input=typed, output=DummyOutput()),
    ):
        typed.send_text("Set a timer for 25 minutes with label tea.\ry\r\x04")
        chat = Chat(model, Console(file=io.StringIO()), Choices(max_tokens=200), tools=tools)
        chat.run()
    _, call, result, answer = chat.conversation.messages[:4]
    called = call["tool_calls"][0]["function"]
    assert called == {"name": "set_timer", "arguments": {"minutes": 25, "label": "tea"}}
    assert result["content"] == "tea in 25 minutes"
    assert answer["role"] == "assistant"
