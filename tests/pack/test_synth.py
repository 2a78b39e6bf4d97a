"""A synthetic model is a packed model like any other, of true shapes, sane scale and the asked routing skew."""

import numpy as np
import pytest
import tokenizers
from safetensors import safe_open

from checkpoints import CONFIGS, sized
from flashmoe.errors import FlashMoeError
from flashmoe.models import architecture
from flashmoe.pack.contents import Contents, float_rows
from flashmoe.pack.manifest import Manifest
from flashmoe.pack.shapes import SHAPES, shaped_config
from flashmoe.pack.skew import gini
from flashmoe.pack.synth import Choices, synth_config

SMALL = sized("qwen3_5_moe_text", vocab_size=1000)


def make(directory, choices, config=SMALL):
    return synth_config(config, choices, directory, lambda _done, _total: None)


def small(**choices):
    return Choices("qwen3.5-35b-a3b", **choices)


@pytest.mark.parametrize(
    ("like", "layers", "experts", "expert_bytes", "trunk_gigabytes"),
    [
        ("qwen3.5-397b-a17b", 60, 512, 7_077_888, 9.5),
        ("qwen3.5-122b-a10b", 48, 256, 5_308_416, 8.0),
        ("qwen3.5-35b-a3b", 40, 256, 1_769_472, 3.0),
        ("qwen3-next-80b-a3b", 48, 512, 1_769_472, 3.0),
    ],
)
def test_shapes_are_those_of_the_published_models(like, layers, experts, expert_bytes, trunk_gigabytes):
    arch = architecture(shaped_config(like, None))
    c = arch.config
    assert (c.layers, c.experts) == (layers, experts)
    assert 3 * c.hidden * c.expert_inter * 9 // 16 == expert_bytes
    parameters = sum(int(np.prod(t.shape)) for t in arch.trunk)
    assert 0.3 * trunk_gigabytes < parameters * 9 / 16 / 1e9 < trunk_gigabytes
    assert [i for i, kind in enumerate(c.layer_types) if kind == "full_attention"] == list(range(3, layers, 4))


def test_layers_are_the_first_of_the_model_and_no_more_than_it_has():
    assert shaped_config("qwen3.5-35b-a3b", 3)["num_hidden_layers"] == 3
    assert all(shaped_config(like, None) == SHAPES[like] for like in SHAPES)
    with pytest.raises(FlashMoeError, match="1 to 40 layers, not 41"):
        shaped_config("qwen3.5-35b-a3b", 41)
    with pytest.raises(FlashMoeError, match="no shapes of 'gpt'"):
        shaped_config("gpt", None)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_written_model_reads_back_with_zero_mean_and_sane_scale(tmp_path, bits):
    manifest = make(tmp_path / "out", small(expert_bits=bits, trunk_bits=8))
    assert Manifest.read(tmp_path / "out") == manifest
    contents = Contents.open(tmp_path / "out")
    try:
        experts = [contents.expert_matrix(layer, e, "up") for layer in range(4) for e in range(6)]
        values = np.concatenate([float_rows(m, np.arange(64)) for m in experts])
        by_name = {t.name: t for t in contents.architecture.trunk}
        head = contents.matrix(by_name["lm_head"])
        rows = float_rows(head, np.arange(1000))
        assert all(contents.bits(t) for t in contents.architecture.trunk)
    finally:
        contents.close()
    assert experts[0].bits == bits
    assert values.std() == pytest.approx(128**-0.5, rel=0.05)
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(values.size)
    assert rows.std() == pytest.approx(128**-0.5, rel=0.05)
    assert len(np.unique(rows, axis=0)) == 1000


def test_the_seed_decides_every_byte(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make(tmp_path / name, small(seed=seed))
    a, b, c = ({p.name: p.read_bytes() for p in (tmp_path / n).rglob("*.*") if p.is_file()} for n in "abc")
    assert a == b
    assert [name for name in a if a[name] == c[name]] == [
        name for name in a if not name.endswith("safetensors") and name != "flashmoe.json"
    ]


def picks(router, top_k, tokens=20_000):
    """How often each expert is among the top k for isotropic inputs."""
    x = np.random.default_rng(5).standard_normal((tokens, router.shape[1]), np.float32)
    top = np.argpartition(x @ router.T, -top_k, axis=1)[:, -top_k:]
    return np.bincount(top.reshape(-1), minlength=len(router))


@pytest.mark.parametrize(("skew", "low", "high"), [(True, 0.17, 0.53), (False, 0.0, 0.12)])
def test_routing_is_skewed_as_asked(tmp_path, skew, low, high):
    config = sized("qwen3_moe", num_experts=128, num_experts_per_tok=8, num_hidden_layers=6)
    make(tmp_path / "out", small(skew=skew), config)
    contents = Contents.open(tmp_path / "out")
    try:
        by_name = {t.name: t for t in contents.architecture.trunk}
        routers = [contents.matrix(by_name[f"model.layers.{i}.mlp.gate"]) for i in range(6)]
        found = [gini(picks(float_rows(r, np.arange(128)), 8)) for r in routers]
    finally:
        contents.close()
    assert all(low < value < high for value in found)
    assert not skew or max(found) - min(found) > 0.05


def test_gini_of_equal_and_of_greedy_picks():
    assert gini(np.full(10, 3.0)) == pytest.approx(0)
    assert gini(np.eye(100)[0]) == pytest.approx(0.99)


def test_every_id_decodes_and_every_byte_encodes(tmp_path):
    make(tmp_path / "out", small())
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 1000
    text = "".join(map(chr, range(1, 256))) + "漢🙂"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.decode([998], skip_special_tokens=False) == "<|im_start|>"
    assert all(tokenizer.id_to_token(i) for i in range(1000))


def test_it_opens_with_the_safetensors_package(tmp_path):
    manifest = make(tmp_path / "out", small(), CONFIGS["qwen3_next"])
    with safe_open(manifest.layers[0].path, framework="numpy") as file:
        assert file.get_tensor("experts").shape == (6, manifest.layout(0).record_bytes)


def test_a_directory_in_use_is_refused(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(FlashMoeError, match="not an empty directory"):
        make(tmp_path, small())
