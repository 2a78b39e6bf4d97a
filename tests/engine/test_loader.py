"""Loading a packed model: what does not fit together or does not fit at all is a sentence."""

import json
import shutil
from dataclasses import replace

import pytest

from flashmoe.engine.loader import load_engine
from flashmoe.errors import CapacityError, FlashMoeError, FormatError
from flashmoe.settings import Settings
from oracle import some_tokens
from packs import reseal

REFERENCE = Settings(backend="reference")


@pytest.fixture
def packed(tiny_packed, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(tiny_packed("qwen3_next"), tmp_path / "packed")


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    reseal(path.parent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 8, "layer_types": None}, "has 4 layers, but config.json says 8"),
        ({"num_experts": 8}, "16 experts in layer 0, but config.json says 8"),
        ({"moe_intermediate_size": 128}, r"gate of \[64, 128\] in layer 0, but config.json says \[128, 128\]"),
        (
            {"vocab_size": 1024},
            r"embed_tokens as config\.json implies: for \[1024, 128\] there is U32 \[512, 16\]",
        ),
        ({"head_dim": 40}, r"does not hold .*q_proj as config\.json implies"),
        ({"linear_conv_kernel_dim": 3}, r"does not hold .*conv1d\.weight as config\.json implies"),
    ],
)
def test_files_of_different_models_are_told_apart(packed, changes, message):
    rewrite(packed / "config.json", **changes)
    with pytest.raises(FormatError, match=message):
        load_engine(packed, REFERENCE)


def test_a_missing_trunk_tensor_is_named(packed):
    trunk = packed / "trunk.safetensors"
    trunk.write_bytes(trunk.read_bytes().replace(b'"lm_head.weight"', b'"lm_head.heavy!"'))
    reseal(packed)
    with pytest.raises(FormatError, match=r"does not hold lm_head as config\.json implies: .* there is nothing\."):
        load_engine(packed, REFERENCE)


def test_a_truncated_experts_file_is_named(packed):
    path = packed / "experts" / "layer-002.safetensors"
    path.write_bytes(path.read_bytes()[:-4096])
    with pytest.raises(FlashMoeError, match=r"layer-002\.safetensors.*flashmoe verify"):
        load_engine(packed, REFERENCE)


def test_a_directory_that_is_no_packed_model_says_how_to_make_one(tmp_path):
    with pytest.raises(FormatError, match="flashmoe pack"):
        load_engine(tmp_path, REFERENCE)


def test_memory_that_does_not_hold_the_model_is_refused_with_both_figures(packed):
    with pytest.raises(CapacityError, match=r"needs .* MB of memory and may use 100\.00 kB"):
        load_engine(packed, Settings(backend="reference", memory=100_000))


def test_a_context_beyond_the_models_own_is_refused(packed):
    with pytest.raises(CapacityError, match="2000 tokens is more than the 1024"):
        load_engine(packed, Settings(backend="reference", context=2000))


def test_more_experts_per_token_than_there_are_is_refused(packed):
    with pytest.raises(FlashMoeError, match="experts_per_token is 17, but a layer of this model has 16"):
        load_engine(packed, Settings(backend="reference", experts_per_token=17))


def test_the_summary_says_when_answers_change(packed):
    with load_engine(packed, REFERENCE) as engine:
        assert "4 experts per token" in engine.summary
        assert "changes" not in engine.summary
    with load_engine(packed, Settings(backend="reference", experts_per_token=2)) as engine:
        assert "2 experts per token and not the model's 4, which changes its answers" in engine.summary


def test_the_plan_covers_the_context_it_promises(packed):
    with load_engine(packed, Settings(backend="reference", context=100, memory=10_000_000)) as engine:
        assert engine.limits.context == 100
        assert engine.plan.total <= 10_000_000
        with pytest.raises(CapacityError, match="101 tokens do not fit the context of 100"):
            engine.logits(some_tokens(101))


@pytest.mark.parametrize("context", [1, 64, 100, 128])
@pytest.mark.parametrize("bits", [16, 8])
def test_the_plan_counts_the_blocks_that_the_context_fills(bits, context, packed):
    with load_engine(packed, Settings(context=context, kv_bits=bits, sequences=1)) as engine:
        state = engine.new_sequence()
        engine.forward([(state, some_tokens(context))])
        blocks = sum(len(cache.blocks) * cache.block_bytes for cache in state.caches)
        fixed = sum(mixer.nbytes for mixer in state.recurrent)
        assert engine.plan.state == blocks + fixed


@pytest.mark.parametrize("bits", [16, 8])
def test_a_context_that_does_not_fit_is_refused_with_the_one_that_would(bits, packed):
    settings = Settings(backend="cpu", chunk_tokens=8, kv_bits=bits)
    with load_engine(packed, replace(settings, context=256)) as engine:
        plan = engine.plan
        fewest = min(2 * engine.config.top_k, plan.experts)
        memory = plan.total - (plan.slots - fewest) * plan.slot_bytes
    with pytest.raises(CapacityError, match=r"shorten --context to 256 tokens, which would fit\.$"):
        load_engine(packed, replace(settings, context=1000, memory=memory))
    load_engine(packed, replace(settings, context=256, memory=memory)).close()
    with pytest.raises(CapacityError, match=r"with --memory\.$"):
        load_engine(packed, replace(settings, context=1000, memory=100_000))


def test_other_bits_than_16_and_8_are_refused():
    with pytest.raises(FlashMoeError, match="kv_bits must be 16 or 8, not 4"):
        Settings(kv_bits=4)
