"""The peer's model: a qwen35moe GGUF with random weights, Q4_0 with a Q6_K head, as llama-quantize makes it.

    peer_model.py write FILE.gguf < config.json        from the config.json that `flashmoe synth` uses
    peer_model.py routers FILE.gguf < routers          float32 [layers, experts, hidden], in place

Invariant: matrices have mean zero, or every token would be routed to the same experts. Runs in the peer's own
environment (numpy and gguf); knows nothing of Flash-MoE.
"""

import json
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import quant_shape_to_byte_shape
from numpy.typing import NDArray

_POOL_BLOCKS = 1 << 22
_PIECE = 1 << 18
_RANDOM = np.random.default_rng(0)
_Q6_K_SCALE = 65
_DEVIATION = {Type.Q4_0: 4.3, Type.Q6_K: 18.5 * _Q6_K_SCALE}
"""Of the codes as they are drawn, so that a scale gives a matrix the deviation wanted."""


class Tensor(NamedTuple):
    """shape: as in NumPy, [.., out, in]. fill: values where they are float32, else the deviation of the weights."""

    name: str
    shape: tuple[int, ...]
    kind: Type
    fill: Callable[[tuple[int, ...]], NDArray[np.float32]] | float


@cache
def _pool(kind: Type, deviation: float) -> NDArray[np.uint8]:
    """Blocks [n, bytes] of random codes."""
    scale = deviation / _DEVIATION[kind]
    if kind is Type.Q4_0:  # float16 scale, 16 bytes of codes - 8
        blocks = _RANDOM.integers(0, 256, (_POOL_BLOCKS, 18), np.uint8)
        low, high = blocks & 15, blocks >> 4
        blocks = np.where(low == 0, 8, low) | np.where(high == 0, 8, high) << 4  # -8 has no counterpart
        place = slice(0, 2)
    else:  # 192 bytes of codes, 16 int8 scales, float16 scale
        blocks = _RANDOM.integers(0, 256, (_POOL_BLOCKS // 8, 210), np.uint8)
        blocks[:, 192:208] = _Q6_K_SCALE
        place = slice(208, 210)
    scales = scale * (1 + 0.1 * _RANDOM.standard_normal(len(blocks)))
    blocks[:, place] = scales.astype(np.float16).view(np.uint8).reshape(-1, 2)
    return blocks


def _matrix(tensor: Tensor, deviation: float) -> NDArray[np.uint8]:
    """Pieces of the pool, each from a random place."""
    pool = _pool(tensor.kind, deviation)
    out = np.empty(quant_shape_to_byte_shape(tensor.shape, tensor.kind), np.uint8)
    rows = out.reshape(-1, pool.shape[1])
    for begin in range(0, len(rows), _PIECE):
        part = rows[begin : begin + _PIECE]
        start = int(_RANDOM.integers(0, len(pool) - len(part) + 1))
        part[:] = pool[start : start + len(part)]
    return out


def _normal(mean: float, deviation: float) -> Callable[[tuple[int, ...]], NDArray[np.float32]]:
    return lambda shape: (mean + deviation * _RANDOM.standard_normal(shape)).astype(np.float32)


def _decay(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return -_RANDOM.uniform(0.01, 16, shape).astype(np.float32)


def tensors(c: dict[str, Any]) -> Iterator[Tensor]:
    """Those of a model of this config, in file order."""
    hidden, experts = c["hidden_size"], c["num_experts"]

    def matrix(name: str, *shape: int) -> Tensor:
        return Tensor(f"{name}.weight", shape, Type.Q4_0, shape[-1] ** -0.5)

    def values(name: str, shape: tuple[int, ...], mean: float, deviation: float) -> Tensor:
        return Tensor(name, shape, Type.F32, _normal(mean, deviation))

    yield Tensor("token_embd.weight", (c["vocab_size"], hidden), Type.Q4_0, 1.0)
    for i in range(c["num_hidden_layers"]):
        b = f"blk.{i}."
        for norm in ("attn_norm", "post_attention_norm"):
            yield values(f"{b}{norm}.weight", (hidden,), 1, 0.1)
        if (i + 1) % c["full_attention_interval"]:
            yield from _delta_net(c, b, matrix, values)
        else:
            heads, kv, dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
            yield matrix(f"{b}attn_q", 2 * heads * dim, hidden)
            yield matrix(f"{b}attn_k", kv * dim, hidden)
            yield matrix(f"{b}attn_v", kv * dim, hidden)
            yield matrix(f"{b}attn_output", hidden, heads * dim)
            for norm in ("attn_q_norm", "attn_k_norm"):
                yield values(f"{b}{norm}.weight", (dim,), 1, 0.1)
        yield values(router_name(i), (experts, hidden), 0, 1.5 * hidden**-0.5)
        yield values(f"{b}ffn_gate_inp_shexp.weight", (hidden,), 0, hidden**-0.5)
        for suffix, count, inner in (
            ("exps", (experts,), c["moe_intermediate_size"]),
            ("shexp", (), c["shared_expert_intermediate_size"]),
        ):
            yield matrix(f"{b}ffn_gate_{suffix}", *count, inner, hidden)
            yield matrix(f"{b}ffn_up_{suffix}", *count, inner, hidden)
            yield matrix(f"{b}ffn_down_{suffix}", *count, hidden, inner)
    yield values("output_norm.weight", (hidden,), 1, 0.1)
    yield Tensor("output.weight", (c["vocab_size"], hidden), Type.Q6_K, hidden**-0.5)


def router_name(layer: int) -> str:
    return f"blk.{layer}.ffn_gate_inp.weight"


def _delta_net(
    c: dict[str, Any], b: str, matrix: Callable[..., Tensor], values: Callable[..., Tensor]
) -> Iterator[Tensor]:
    hidden, heads = c["hidden_size"], c["linear_num_value_heads"]
    keys = c["linear_num_key_heads"] * c["linear_key_head_dim"]
    width = heads * c["linear_value_head_dim"]
    yield matrix(f"{b}attn_qkv", 2 * keys + width, hidden)
    yield matrix(f"{b}attn_gate", width, hidden)
    yield values(f"{b}ssm_conv1d.weight", (2 * keys + width, c["linear_conv_kernel_dim"]), 0, 0.5)
    yield values(f"{b}ssm_dt.bias", (heads,), 0, 1)
    yield Tensor(f"{b}ssm_a", (heads,), Type.F32, _decay)
    for name in ("ssm_beta", "ssm_alpha"):
        yield values(f"{b}{name}.weight", (heads, hidden), 0, hidden**-0.5)
    yield values(f"{b}ssm_norm.weight", (c["linear_value_head_dim"],), 1, 0.1)
    yield matrix(f"{b}ssm_out", hidden, width)


def _describe(w: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    w.add_block_count(c["num_hidden_layers"])
    w.add_context_length(32768)
    w.add_embedding_length(c["hidden_size"])
    w.add_vocab_size(c["vocab_size"])
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_key_length(c["head_dim"])
    w.add_value_length(c["head_dim"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_rope_freq_base(c["rope_parameters"]["rope_theta"])
    w.add_rope_dimension_count(int(c["head_dim"] * c["rope_parameters"]["partial_rotary_factor"]))
    w.add_rope_dimension_sections([11, 11, 10, 0])
    w.add_expert_count(c["num_experts"])
    w.add_expert_used_count(c["num_experts_per_tok"])
    w.add_expert_feed_forward_length(c["moe_intermediate_size"])
    w.add_expert_shared_feed_forward_length(c["shared_expert_intermediate_size"])
    w.add_ssm_conv_kernel(c["linear_conv_kernel_dim"])
    w.add_ssm_state_size(c["linear_key_head_dim"])
    w.add_ssm_group_count(c["linear_num_key_heads"])
    w.add_ssm_time_step_rank(c["linear_num_value_heads"])
    w.add_ssm_inner_size(c["linear_num_value_heads"] * c["linear_value_head_dim"])
    w.add_full_attention_interval(c["full_attention_interval"])
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    w.add_quantization_version(2)
    w.add_tokenizer_model("no_vocab")


def write(path: Path, config: dict[str, Any]) -> None:
    """The file, filled up to a multiple of 4096 bytes so that a loop device over it has all of it."""
    unfinished = path.with_suffix(".unfinished")
    w = gguf.GGUFWriter(unfinished, "qwen35moe")
    _describe(w, config)
    listed = list(tensors(config))
    for t in listed:
        if t.kind is Type.F32:
            w.add_tensor_info(t.name, t.shape, np.dtype(np.float32), 4 * int(np.prod(t.shape)))
        else:
            shape = quant_shape_to_byte_shape(t.shape, t.kind)
            w.add_tensor_info(t.name, shape, np.dtype(np.uint8), int(np.prod(shape)), raw_dtype=t.kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_ti_data_to_file()
    for t in listed:
        w.write_tensor_data(_matrix(t, t.fill) if isinstance(t.fill, float) else t.fill(t.shape))
    w.close()
    with unfinished.open("r+b") as file:
        file.truncate(-(-unfinished.stat().st_size // 4096) * 4096)
    unfinished.rename(path)


def write_routers(path: Path, routers: bytes) -> None:
    places = {t.name: (int(t.data_offset), int(t.n_bytes)) for t in gguf.GGUFReader(path).tensors}
    with path.open("r+b") as file:
        layer = 0
        while routers:
            offset, size = places[router_name(layer)]
            file.seek(offset)
            file.write(routers[:size])
            routers, layer = routers[size:], layer + 1


if __name__ == "__main__":
    what, name = sys.argv[1:]
    if what == "write":
        write(Path(name), json.load(sys.stdin))
    else:
        write_routers(Path(name), sys.stdin.buffer.read())
