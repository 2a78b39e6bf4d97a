"""info counts what is there."""

import pytest

from checkpoints import CONFIGS, random_weights, sized, write_hf
from flashmoe.files.safetensors import read_header
from flashmoe.pack.info import info
from flashmoe.pack.packer import pack
from flashmoe.pack.recipe import Recipe


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    base = tmp_path_factory.mktemp("info")
    config = CONFIGS["qwen3_5_moe_text"]
    pack(write_hf(base / "hf", config, random_weights(config)), base / "out", Recipe())
    return base / "out"


def test_sizes_are_those_of_the_files(packed):
    found = info(packed, memory=10**9)
    files = [p.stat().st_size for p in sorted((packed / "experts").iterdir())]
    assert found.expert_bytes + 4 * 4096 == sum(files)
    assert found.trunk_bytes == (packed / "trunk.safetensors").stat().st_size
    assert found.token_expert_bytes == 4 * 2 * found.largest_record_bytes
    assert found.share_that_fits == 1


def test_a_token_touches_the_trunk_but_one_row_of_the_embedding(packed):
    tensors = read_header(packed / "trunk.safetensors").tensors
    whole = sum(t.nbytes for t in tensors.values())
    table = sum(t.nbytes for name, t in tensors.items() if "embed_tokens" in name)
    assert info(packed, 10**9).token_trunk_bytes == whole - table + table // 320


def test_a_tied_table_is_touched_whole(tmp_path):
    config = {**sized("qwen3_moe", num_hidden_layers=1), "tie_word_embeddings": True}
    pack(write_hf(tmp_path / "hf", config, random_weights(config)), tmp_path / "out", Recipe())
    tensors = read_header(tmp_path / "out" / "trunk.safetensors").tensors
    assert info(tmp_path / "out", 10**9).token_trunk_bytes == sum(t.nbytes for t in tensors.values())


def test_what_fits_is_counted_in_whole_experts_beside_the_trunk(packed):
    whole = info(packed, 10**9)
    memory = whole.trunk_bytes + 7 * whole.largest_record_bytes + 5
    found = info(packed, memory)
    assert found.experts_that_fit == 7
    assert found.share_that_fits == pytest.approx(7 / 24)
    assert found.as_json()["experts_that_fit"] == 7
    assert "holds 7 experts: 29%" in str(found)
    assert "too little" in str(info(packed, 1000))
