"""`flashmoe plan`: sizes are those of the files, and the formula of docs/roofline.md is what is computed."""

import json
from dataclasses import replace

import numpy as np
import pytest

from flashmoe.cli.main import run
from flashmoe.engine.sampling import Sampling
from flashmoe.errors import FlashMoeError
from flashmoe.files.safetensors import read_header
from flashmoe.measure import prediction, roofline
from flashmoe.measure.disk import Rate
from flashmoe.measure.prediction import Description, predict
from flashmoe.measure.rehearsal import rehearse
from flashmoe.measure.roofline import Costs, PromptCosts, Rates
from flashmoe.measure.sizes import packed_sizes, published_sizes
from flashmoe.pack.info import info
from flashmoe.pack.shapes import SHAPES
from flashmoe.settings import Settings
from flashmoe.streaming.memory import MemoryPlan

RATES = Rates((Rate(1, 10e9),), 100e9, None)
DESCRIBED = Description(memory=48 * 10**9, disk=(Rate(1, 17.5e9),), bandwidth=400e9)


PROMPT = PromptCosts({"linear_attention": 1e-4, "full_attention": 2e-4}, 1e-5, ((4, 4e-5), (16, 2e-5), (64, 1e-5)))
COSTS = Costs(
    {"linear_attention": 1e-3, "full_attention": 2e-3}, 1e-5, 3e-3, 1e-4, 1e-6, 2e-4, 5e-3, 7e-3, 1e-4, PROMPT
)


@pytest.fixture(scope="module")
def large():
    return published_sizes("qwen3.5-397b-a17b")


@pytest.mark.parametrize("name", ["qwen3_5_moe_text", "qwen3_next", "qwen3_moe"])
def test_the_parts_of_a_packed_model_are_the_bytes_of_its_files(tiny_packed, name):
    directory = tiny_packed(name)
    model, known = packed_sizes(directory), info(directory, 0)
    assert model.experts == known.token_expert_bytes
    tensors = len(read_header(model.manifest.trunk.path).tensors)
    assert 0 <= known.token_trunk_bytes - model.trunk < 64 * tensors  # which are padded


def test_published_shapes_have_the_sizes_that_are_known_of_them(large):
    assert large.record_bytes == 7_077_888
    assert large.experts == 60 * 10 * 7_077_888
    assert large.manifest.expert_bytes == pytest.approx(217.4e9, rel=1e-3)
    assert large.delta / 1e6 == pytest.approx(189, abs=7)  # with the convolution's


@pytest.mark.parametrize("like", SHAPES)
def test_the_trunk_of_a_shape_is_what_is_held_less_the_embedding(like):
    model = published_sizes(like)
    embedding = model.head  # both are [vocab, hidden] at the same bits
    assert model.trunk + embedding == pytest.approx(model.manifest.trunk.bytes, rel=1e-3)


def test_decode_adds_up(large):
    found = roofline.decode(large, RATES, 0.5, 0)
    assert found.missed == large.experts / 2
    assert found.disk == pytest.approx(large.experts / 2 / 10e9)
    assert found.memory == pytest.approx((large.trunk + 2 * large.delta + large.experts) / 100e9)
    assert found.limit == max(found.disk, found.memory)
    assert found.before + found.beside == pytest.approx(found.memory)
    assert found.bookkeeping == found.sampling == 0  # nobody measured them
    assert found.predicted == found.before + max(found.bursts + found.last, found.beside)
    assert found.predicted >= found.limit


def test_measured_costs_take_the_place_of_bytes(large):
    found = roofline.decode(large, RATES, 0.5, 0, COSTS)
    assert found.before == pytest.approx(45 * 1e-3 + 15 * 2e-3 + 5e-3 + 1e-4)
    assert found.bookkeeping == pytest.approx(60 * 1e-5 + 300 * 1e-6)
    assert found.beside == pytest.approx(60 * 3e-3)
    assert found.last == pytest.approx(60 * (1 - 0.5**10) * 1e-4)
    reading = max(found.bursts + found.last, found.beside)
    assert found.predicted == found.before + found.bookkeeping + reading + found.sampling
    assert found.limit == roofline.decode(large, RATES, 0.5, 0).limit  # which no measurement moves
    filling = roofline.decode(large, RATES, 0.5, 0, COSTS, fresh=0.1)
    assert filling.filling == pytest.approx(60 * 2e-4)  # one expert a layer
    assert filling.predicted == pytest.approx(found.predicted + filling.filling)


def test_a_cold_arena_fills_with_what_was_wanted(large):
    c = large.config
    for share in (0.1, 0.6, 1.0):
        rng, seen = np.random.default_rng(0), np.zeros((200, c.experts), dtype=bool)
        found, fresh = [], []
        for token in range(60):
            wanted = np.argsort(rng.random(seen.shape), axis=1)[:, : c.top_k]
            if token >= 20:
                hits = np.take_along_axis(seen, wanted, axis=1).mean()
                full = seen.mean() >= share
                found.append(share if full else hits)
                fresh.append(0 if full else 1 - hits)
            np.put_along_axis(seen, wanted, True, axis=1)
        expected = roofline.cold_hits(c, share, prompt=20, tokens=41)
        assert expected == pytest.approx((np.mean(found), np.mean(fresh)), abs=0.01)
    assert roofline.cold_hits(c, 1.0, prompt=10_000, tokens=256) == pytest.approx((1, 0), abs=1e-6)


@pytest.mark.parametrize("name", ["qwen3_5_moe_text", "qwen3_next", "qwen3_moe"])
def test_every_kind_of_layer_is_rehearsed(tiny_packed, name):
    model = packed_sizes(tiny_packed(name))
    found = rehearse(model.config, (4, 8), 2 * model.head, model.manifest.expert_bytes, 1, Sampling())
    assert set(found.before) == set(model.config.layer_types)
    assert (
        min(*found.before.values(), found.fetch, found.beside, found.expert, found.fill, found.head, found.sampling) > 0
    )
    assert found.expert * model.config.top_k <= found.beside


def test_without_misses_only_memory_counts(large):
    found = roofline.decode(large, RATES, 1.0, 0)
    assert found.disk == found.bursts == found.last == 0
    assert found.predicted == found.limit == found.memory


def test_keys_and_values_cost_what_they_hold(large):
    with_cache, without = (roofline.decode(large, RATES, 1.0, n) for n in (30_000, 0))
    assert with_cache.needed - without.needed == 30_000 * roofline.POSITION


def test_guesses_move_reads_to_where_the_disk_was_idle(large):
    plain, guessing = (roofline.decode(large, RATES, 0.5, 0, guessing=guessing) for guessing in (False, True))
    idle = plain.before - large.head / RATES.bandwidth
    assert plain.bursts > idle
    assert guessing.ahead == pytest.approx(roofline.RIGHT_GUESSES * idle)
    assert guessing.predicted == pytest.approx(plain.predicted - guessing.ahead)
    assert roofline.decode(large, RATES, 1.0, 0, guessing=True).ahead == 0


def test_few_misses_read_at_the_depth_they_make(large):
    rates = replace(RATES, by_depth=(Rate(1, 1e9), Rate(2, 3e9), Rate(8, 7e9)))
    assert [rates.disk_at(d) for d in (0, 1, 2, 4, 8, 100)] == [1e9, 1e9, 3e9, 5e9, 7e9, 7e9]
    all_missed = roofline.decode(large, rates, 0.0, 0)
    assert all_missed.depth == large.config.top_k
    assert all_missed.bursts == all_missed.disk
    rare = roofline.decode(large, rates, 0.999, 0)
    assert rare.depth == pytest.approx(1, abs=0.01)
    assert rare.bursts == pytest.approx(7 * rare.disk, rel=0.02)


def test_prefill_is_bound_by_reading_every_expert_once_a_chunk(large):
    plan = MemoryPlan(48 * 10**9, 0, 0, 0, 5000, large.record_bytes, 60 * 512)
    rates = Rates((Rate(1, 7e9),), 1e15, 1e18)
    found = roofline.prefill(large, rates, plan, 8192)
    assert found.distinct == pytest.approx(512)
    assert found.tokens / found.limit == pytest.approx(264, abs=1)
    assert found.predicted == pytest.approx(found.limit * 61 / 60)


def test_prefill_in_memory_is_bound_by_arithmetic(large):
    plan = MemoryPlan(300 * 10**9, 0, 0, 0, 60 * 512, large.record_bytes, 60 * 512)
    found = roofline.prefill(large, Rates((Rate(1, 7e9),), 1e15, 1e12), plan, 1000)
    assert found.disk == 0
    operations = large.operations_before + large.operations_beside
    assert found.predicted == pytest.approx(1000 * operations / 1e12)


def test_prefill_takes_what_was_rehearsed_with_as_many_tokens_an_expert(large):
    plan = MemoryPlan(300 * 10**9, 0, 0, 0, 60 * 512, large.record_bytes, 60 * 512)
    found = roofline.prefill(large, RATES, plan, 1638, COSTS)  # 32 tokens an expert, between 16 and 64
    assert found.before == pytest.approx(1638 * (45 * 1e-4 + 15 * 2e-4))
    assert found.beside == pytest.approx(1638 * 60 * (1e-5 + 10 * 1.5e-5), rel=1e-3)
    cold = roofline.prefill(large, RATES, plan, 1638, COSTS, cold=True)
    assert (found.hit_rate, cold.hit_rate) == (1, 0)
    assert cold.predicted == pytest.approx(max(cold.disk, found.before + found.beside) + cold.disk / 60)


def test_a_prompt_token_takes_two_operations_a_weight(large):
    # 17 billion active parameters, of which head and embedding take no part.
    assert (large.operations_before + large.operations_beside) / 2 == pytest.approx(17e9 - 2 * 1.02e9, rel=0.1)


def test_the_published_machine_is_predicted_as_documented(tmp_path):
    four = published_sizes("qwen3.5-397b-a17b", experts_per_token=4)
    found = predict(four, replace(DESCRIBED, hit_rate=0.71), tmp_path, Settings(foresight=False))
    assert 1 / found.decode.limit == pytest.approx(35.5, abs=0.05)
    assert 1 / found.decode.predicted == pytest.approx(24.1, abs=0.05)
    even = predict(four, DESCRIBED, tmp_path, Settings(foresight=False))
    assert even.decode.hit_rate == pytest.approx(0.184, abs=0.001)
    assert 1 / even.decode.predicted == pytest.approx(10.8, abs=0.05)


def test_what_is_described_is_not_probed(large, monkeypatch, tmp_path):
    for probe in ("_disk", "_bandwidth", "_operations", "_costs"):
        monkeypatch.setattr(prediction, probe, lambda *_: pytest.fail("probed"))
    assert predict(large, DESCRIBED, tmp_path).rates.operations is None


def test_what_is_not_described_is_measured(tiny_packed, monkeypatch):
    monkeypatch.setattr(prediction, "_disk", lambda _: (Rate(1, 1e9), Rate(8, 2e9)))
    monkeypatch.setattr(prediction, "_bandwidth", lambda _: 3e9)
    monkeypatch.setattr(prediction, "_operations", lambda _: 4e9)
    monkeypatch.setattr(prediction, "_costs", lambda *_: COSTS)
    directory = tiny_packed("qwen3_5_moe_text")
    found = predict(packed_sizes(directory), Description(), directory)
    assert (found.rates.disk, found.rates.bandwidth, found.rates.operations) == (2e9, 3e9, 4e9)
    assert found.sources["disk"] == prediction.MEASURED
    assert found.sources["costs"] == prediction.REHEARSED
    assert found.decode.sampling == COSTS.sampling
    assert found.decode.hit_rate == 1  # it fits


def test_the_command_says_each_step_and_where_it_comes_from(capsys):
    options = ["--memory", "48G", "--disk", "17.5GB/s", "--bandwidth", "400GB/s", "--experts-per-token", "4"]
    assert run(["plan", "--like", "qwen3.5-397b-a17b", *options, "--hit-rate", "0.71"]) == 0
    said = capsys.readouterr().out
    for phrase in (
        "4 a token instead of its own 10",
        "17.50 GB/s, given",
        "hit rate 71.0% (given): 492.62 MB from disk",
    ):
        assert phrase in said
    assert "28.15 ms = max(disk, memory): 35.52 tokens/s" in said
    assert run(["plan", "--like", "qwen3.5-397b-a17b", *options, "--operations", "30T", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["decode"]["limit_tokens_per_second"] == pytest.approx(12.63, abs=0.01)
    assert found["prefill"]["predicted_tokens_per_second"] > 0


def test_a_disk_can_be_described_by_reads_in_flight(capsys):
    machine = ["--memory", "48G", "--bandwidth", "400GB/s", "--hit-rate", "0.71", "--experts-per-token", "4", "--json"]
    found = []
    for disk in ("17.5GB/s@8,2GB/s@1", "17.5GB/s"):
        assert run(["plan", "--like", "qwen3.5-397b-a17b", "--disk", disk, *machine]) == 0
        found.append(json.loads(capsys.readouterr().out))
    deep, flat = found
    assert [rate["depth"] for rate in deep["rates"]["by_depth"]] == [1, 8]
    assert deep["decode"]["disk"] == flat["decode"]["disk"]
    assert deep["decode"]["bursts"] > 2 * flat["decode"]["bursts"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Name either a packed model's directory or"),
        (["somewhere", "--like", "qwen3.5-35b-a3b"], "Name either"),
        (["nowhere"], "nowhere is not a packed model"),
        (["--like", "qwen3.5-35b-a3b", "--hit-rate", "1.5"], "a share from 0 to 1"),
        (["--like", "qwen3.5-35b-a3b", "--disk", "fast"], "'fast' is not a size"),
        (["--like", "qwen3.5-35b-a3b", "--disk", "0"], "disk must be more than 0"),
        (["--like", "qwen3.5-35b-a3b", "--disk", "7GB/s@many"], "write it like 7GB/s@8"),
        (["--like", "qwen3.5-35b-a3b", "--experts-per-token", "300"], "has 256 experts"),
        (["--like", "qwen3.5-397b-a17b", "--memory", "4G", "--disk", "1G", "--bandwidth", "1G"], "may use 4.00 GB"),
    ],
)
def test_what_cannot_be_planned_is_a_sentence(arguments, sentence, capsys):
    assert run(["plan", *arguments]) == 1
    assert sentence in capsys.readouterr().err


def test_a_hit_rate_must_be_a_share():
    with pytest.raises(FlashMoeError, match="from 0 to 1"):
        Description(hit_rate=-0.1)
