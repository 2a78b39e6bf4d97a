"""The training code: template and tokenizer agree with transformers, losses count what they should, runs resume
exactly.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as modeling

from training import evaluate, export, mix, model, template, tokenizer
from training.delta_rule import chunk_delta_rule
from training.generate import greedy
from training.optimiser import orthogonalised
from training.packing import PROMPT_WEIGHT, Encoder, Packer
from training.trainer import Trainer, learning_rate


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer's files, learnt from few conversations."""
    made = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(tokenizer.train(1500), made)
    return made


@pytest.fixture(scope="module")
def vocabulary(directory: Path) -> Any:
    return tokenizer.load(directory)


def _micro() -> Any:
    config = model.demo_config(
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        linear_num_key_heads=1,
        linear_num_value_heads=2,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        num_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
    )
    return model.build(config, "cpu")


def _batch(packer: Packer, index: int) -> dict[str, Any]:
    return {name: torch.from_numpy(array) for name, array in packer[index].items()}


def test_our_rendering_is_transformers_rendering(vocabulary: Any, directory: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(directory)
    for number in range(60):
        case = mix.case("test", number)
        text = template.document(case)
        assert theirs.apply_chat_template(case.messages, tools=case.tools, tokenize=False) == text
        test = case.as_test("id")
        rendered = theirs.apply_chat_template(
            test["messages"],
            tools=test["tools"],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=case.thinking,
        )
        assert rendered == template.prompt(test)
        assert theirs(text)["input_ids"] == vocabulary.encode(text, add_special_tokens=False).ids


def test_a_digit_is_a_token_and_a_word_has_the_same_tokens_after_any_mark(vocabulary: Any) -> None:
    assert vocabulary.encode("2031-04").tokens == ["2", "0", "3", "1", "-", "0", "4"]
    alone = vocabulary.encode("kravumsel").tokens
    for before in ('"', "=", "_", ">", "/", " "):
        assert vocabulary.encode(before + "kravumsel").tokens[-len(alone) :] == alone


def test_text_survives_the_tokenizer(vocabulary: Any) -> None:
    for text in ("Grüße aus 東京 🙂\n\n  x", "a\tb \u00a0c", template.document(mix.case("train", 3))):
        assert vocabulary.decode(vocabulary.encode(text).ids, skip_special_tokens=False) == text


def test_loss_counts_what_an_assistant_writes_after_its_prompt(vocabulary: Any) -> None:
    encoder = Encoder(vocabulary)
    for number in range(80):
        case = mix.case("train", number)
        ids, weights = encoder.encode(template.document(case))
        written = vocabulary.decode(
            [i for i, w in zip(ids, weights, strict=True) if w == 1.0], skip_special_tokens=False
        )
        turns = [m for m in case.messages if m["role"] == "assistant"]
        assert written.count("<|im_end|>") == len(turns)
        assert case.messages[-1]["content"] in written
        assert "<|im_start|>" not in written
        assert "<think>" not in written
        assert set(weights) <= {0.0, PROMPT_WEIGHT, 1.0}


def test_rows_are_packed_full_and_documents_stay_whole(vocabulary: Any) -> None:
    packer = Packer(vocabulary, rows=4, length=1024, seed=3)
    batch, again = packer.batch(5), packer.batch(5)
    assert all(np.array_equal(getattr(batch, name), getattr(again, name)) for name in ("ids", "weights", "documents"))
    assert (batch.documents > 0).mean() > 0.8
    for document in range(1, batch.documents.max() + 1):
        rows, places = np.nonzero(batch.documents == document)
        assert len(set(rows)) == 1
        assert np.array_equal(places, np.arange(places[0], places[0] + len(places)))


def _inputs(length: int) -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "query": torch.randn(2, length, 2, 16),
        "key": torch.randn(2, length, 2, 16),
        "value": torch.randn(2, length, 4, 16),
        "g": -torch.rand(2, length, 4) * 0.3,
        "beta": torch.rand(2, length, 4),
    }


def test_our_delta_rule_and_its_gradients_are_transformers() -> None:
    inputs = {name: x.requires_grad_() for name, x in _inputs(192).items()}
    theirs, _ = modeling.torch_chunk_gated_delta_rule(**inputs, use_qk_l2norm_in_kernel=True)
    ours = chunk_delta_rule(**inputs)
    torch.testing.assert_close(ours, theirs)
    probe = torch.randn_like(ours)
    expected = torch.autograd.grad((theirs * probe).sum(), list(inputs.values()))
    found = torch.autograd.grad((ours * probe).sum(), list(inputs.values()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_start_clears_the_state() -> None:
    inputs = _inputs(192)
    starts = torch.zeros(2, 192, dtype=torch.bool)
    starts[:, [0, 70, 100]] = True
    together = chunk_delta_rule(**inputs, starts=starts)
    alone, _ = modeling.torch_chunk_gated_delta_rule(
        **{k: x[:, 100:] for k, x in inputs.items()}, use_qk_l2norm_in_kernel=True
    )
    torch.testing.assert_close(together[:, 100:], alone, rtol=1e-4, atol=1e-5)


def test_packed_documents_do_not_see_each_other() -> None:
    net = _micro().float()
    ids = torch.randint(0, 1400, (1, 128))
    documents = torch.zeros(1, 128, dtype=torch.int16)
    documents[:, 50:] = 1
    weights = torch.zeros(1, 128)
    # The convolution still reaches three tokens back, so the first tokens of a document are left out.
    weights[:, 60:] = 1
    changed = ids.clone()
    changed[:, 10:40] = torch.randint(0, 1400, (1, 30))
    one, two = (model.losses(net, x, weights, documents).language for x in (ids, changed))
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    values = torch.linalg.svdvals(orthogonalised(torch.randn(3, 16, 48)).float())
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_learning_rate_rises_holds_and_falls_to_nothing() -> None:
    rates = [learning_rate(1.0, progress) for progress in (0.0, 0.01, 0.2, 0.35, 0.7, 1.0, 1.1)]
    assert rates[0] < rates[1] < rates[2] == rates[3] == 1.0
    assert rates[3] > rates[4] > rates[5] == rates[6] == 0.0


def test_training_lowers_the_loss_and_resumes_with_the_same_next_step(vocabulary: Any, tmp_path: Path) -> None:
    packer = Packer(vocabulary, rows=1, length=512, seed=1)
    trainer = Trainer(_micro(), peak=3e-3)
    seen = [float(trainer.step(_batch(packer, 0), progress=0.2)["loss"]) for _ in range(6)]
    assert seen[-1] < seen[0] - 0.5
    trainer.save(tmp_path)
    resumed = Trainer(_micro(), peak=3e-3)
    resumed.load(tmp_path)
    assert resumed.steps == 6
    one = trainer.step(_batch(packer, 6), progress=0.3)
    two = resumed.step(_batch(packer, 6), progress=0.3)
    assert float(one["loss"]) == float(two["loss"])
    for left, right in zip(trainer.optimiser.masters, resumed.optimiser.masters, strict=True):
        assert torch.equal(left, right)


def test_an_export_loads_in_transformers_with_the_same_weights(directory: Path, tmp_path: Path) -> None:
    net = _micro()
    export.save(net, directory, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16
    for name, weight in net.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name]), name


def test_generation_does_not_depend_on_its_neighbours(vocabulary: Any) -> None:
    net = _micro().float()
    prompts = [
        vocabulary.encode(text).ids for text in ("Hello there", "Set an alarm for 10:30 and tell me when it rings", "A")
    ]
    together = greedy(net, prompts, end=1, pad=0, limit=8)
    assert together == [greedy(net, [prompt], end=1, pad=0, limit=8)[0] for prompt in prompts]


def test_the_report_counts_by_family() -> None:
    tests = [
        {
            "id": "1",
            "family": "json_record",
            "enable_thinking": False,
            "messages": [{"role": "user", "content": "?"}],
            "tools": None,
            "expect": {"kind": "json", "json": 1},
        }
    ] * 2
    found = evaluate.report(tests, ["1", "{"])
    assert found["families"]["json_record"] == {"cases": 2, "valid": 1, "right": 1}
    assert (found["json_valid"], found["tool_calls_right"]) == (0.5, 0.0)
    assert [one["answer"] for one in found["wrong"]] == ["{"]
