"""The demo model that ships: an ordinary checkpoint that transformers takes, and what a user's first commands show."""

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
from flashmoe.demo.packed import CHECKPOINT, model_directory
from flashmoe.evaluation.cases import read_cases
from flashmoe.evaluation.perplexity import documents
from flashmoe.pack.export import export
from flashmoe.pack.packer import pack
from flashmoe.pack.recipe import Recipe
from flashmoe.pack.verify import verify
from flashmoe.terminal.answering import Choices
from flashmoe.terminal.app import Chat
from flashmoe.terminal.tools import read_tools

ROOT = Path(__file__).parents[1]
TOKENS = 256
FILES = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    """An empty cache of the user's, and a working directory away from the source tree."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        yield


@pytest.fixture(scope="module")
def published() -> PreTrainedModel:
    model, loading = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32, output_loading_info=True)
    assert not any(loading.values()), loading
    return model.eval()


def test_it_is_an_ordinary_directory_in_pieces_that_a_repository_takes():
    files = {path.name: path.stat().st_size for path in CHECKPOINT.iterdir()}
    shards = {name: size for name, size in files.items() if name.endswith(".safetensors")}
    assert set(files) == FILES | set(shards) | {"model.safetensors.index.json", "README.md"}
    assert max(shards.values()) <= 15_000_000
    assert sum(shards.values()) <= 64_000_000
    config = json.loads((CHECKPOINT / "config.json").read_text())
    assert (config["model_type"], config["dtype"]) == ("qwen3_5_moe_text", "bfloat16")


def test_the_card_says_how_good_it_is():
    card = (CHECKPOINT / "README.md").read_text()
    assert re.search(r"tool calls fully right .*: \d+\.\d%", card)
    assert re.search(r"JSON valid: \d+\.\d%", card)


def test_an_answer_ends_with_the_turn():
    ends = GenerationConfig.from_pretrained(CHECKPOINT).eos_token_id
    assert ends == AutoTokenizer.from_pretrained(CHECKPOINT).convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])


@pytest.mark.parametrize("thinking", [True, False])
def test_transformers_makes_the_same_prompt(thinking: bool):
    tokenizer, template = AutoTokenizer.from_pretrained(CHECKPOINT), ChatTemplate.from_dir(CHECKPOINT)
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


@pytest.mark.parametrize(
    ("recipe", "kl"), [(Recipe(8, 16), 0.005), (Recipe(), 0.15)], ids=["as precise as a pack can be", "as it ships"]
)
def test_its_packs_foresee_text_as_the_checkpoint_does(
    recipe: Recipe, kl: float, published: PreTrainedModel, tmp_path: Path
):
    pack(CHECKPOINT, tmp_path / "packed", recipe)
    with flashmoe.load(tmp_path / "packed", context=2 * TOKENS) as model:
        ids = text_ids(model)
        assert Distance.between(model.logits(ids), logits(published, ids)).kl < kl


@pytest.mark.usefixtures("cache")
def test_its_logits_are_those_of_transformers_on_the_packed_weights(tmp_path: Path):
    export(model_directory("demo"), tmp_path / "exported", "float32")
    same_weights = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", dtype=torch.float32).eval()
    for backend, kl in (("reference", 1e-8), ("cpu", 2e-3)):
        with flashmoe.load("demo", backend=backend, context=2 * TOKENS) as model:
            ids = text_ids(model)
            assert Distance.between(model.logits(ids), logits(same_weights, ids)).kl < kl


@pytest.mark.usefixtures("cache")
def test_the_first_command_a_user_types_answers(capfd: pytest.CaptureFixture[str]):
    assert run(["run", "demo", "-p", "Hello!", "--no-thinking"]) == 0
    out, err = capfd.readouterr()
    assert len(out.split()) >= 3
    assert "tokens/s" in err
    assert verify(model_directory("demo"))[1] == []


@pytest.mark.usefixtures("cache")
def test_an_eighth_of_its_experts_in_memory_give_the_same_answer():
    question = {"role": "user", "content": "What is 37 + 48?"}
    answers = []
    for memory in ("8MB", "64MB"):
        with flashmoe.load("demo", memory=memory) as model:
            answers.append(model.generate([question], temperature=0, max_tokens=100).token_ids)
    assert answers[0] == answers[1]


@pytest.mark.usefixtures("cache")
def test_eval_info_and_bench_take_the_word(capfd: pytest.CaptureFixture[str]):
    assert run(["info", "demo", "--json"]) == 0
    assert run(["bench", "demo", "--tokens", "8", "--prompt-tokens", "8", "--repeats", "1", "--json"]) == 0
    capfd.readouterr()
    assert run(["eval", "demo", "--cases", str(CASES), "--limit", "12", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)["cases"]
    assert found["cases"] == 12
    assert found["all"]["right"]["count"] > 0


@pytest.mark.usefixtures("cache")
def test_the_trace_that_ships_is_of_this_model_and_can_be_simulated(capfd: pytest.CaptureFixture[str]):
    assert run(["simulate", "demo", "--cached", "25", "--policy", "lru", "--policy", "belady", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    config = json.loads((CHECKPOINT / "config.json").read_text())
    assert found["experts"] == config["num_experts"]
    assert found["layers"] == config["num_hidden_layers"]
    lru, belady = (point["hit_rate"] for point in found["points"])
    assert lru < belady


def example(name: str) -> str:
    """What it prints."""
    result = subprocess.run([sys.executable, ROOT / "examples" / name], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.usefixtures("cache")
def test_its_tool_call_is_right():
    assert example("tool_call.py").endswith("set_timer(minutes=25, label='tea')\nThe call is right.\n")


@pytest.mark.usefixtures("cache")
def test_the_python_example_runs():
    *_, completion, shape = example("ten_lines.py").splitlines()
    told = re.fullmatch(r".*\bfox\b.*\bowl\b.* \[(\d+(?:, \d+)*)\] stop", completion)
    assert told
    assert shape == f"({len(told[1].split(','))}, 1408)"


@pytest.mark.usefixtures("cache")
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


@pytest.mark.usefixtures("cache")
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
