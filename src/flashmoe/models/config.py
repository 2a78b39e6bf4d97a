"""Reading a config.json strictly: what is missing, of the wrong type or unsupported is a sentence with the key's name.

Invariant: what is counted through (layers, experts) is bounded here, so that a config alone makes nothing large or
slow; whether the files have these sizes is for whoever opens them. Knows keys and types that the model_types share; not
which model_type wants which.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flashmoe.errors import FormatError
from flashmoe.models.architecture import DeltaNet

_FILE = "config.json"
MOST_LAYERS = 1024
MOST_EXPERTS = 1 << 16
"""Of a layer. Both are far more than any published model has."""
_LARGEST = 2**31 - 1
"""Of any other size: what the int32 of positions, token ids and rows holds."""


class _Required:
    """Marks a key without a default."""


_REQUIRED = _Required()


@dataclass(frozen=True)
class ConfigReader:
    """One JSON object of config.json; `path` is where it hangs (`text_config.`) and only serves messages."""

    values: Mapping[str, Any]
    path: str = ""

    def fail(self, key: str, sentence: str) -> FormatError:
        return FormatError(f"{_FILE}: {self.path}{key} {sentence}")

    def _get(self, key: str, default: object) -> Any:
        value = self.values.get(key)
        if value is not None:
            return value
        if isinstance(default, _Required):
            raise self.fail(key, "is missing; the checkpoint's own config.json has it, so copy that file again.")
        return default

    def integer(self, key: str, default: object = _REQUIRED, most: int = _LARGEST) -> int:
        """A whole number from 1 to `most`."""
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise self.fail(key, f"must be a whole number from 1 to {most}, not {value!r:.60}.")
        return value

    def number(self, key: str, least: float, most: float, default: object = _REQUIRED) -> float:
        """A number from `least` to `most`, which must be finite."""
        value = self._get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
            raise self.fail(key, f"must be a number from {least:g} to {most:g}, not {value!r:.60}.")
        return float(value)

    def boolean(self, key: str, default: object = _REQUIRED) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, f"must be true or false, not {value!r:.60}.")
        return value

    def table(self, key: str, default: object = _REQUIRED) -> "ConfigReader":
        """A nested object."""
        value = self._get(key, default)
        if not isinstance(value, Mapping):
            raise self.fail(key, f"must be an object, not {value!r:.60}.")
        return ConfigReader(value, f"{self.path}{key}.")

    def token_ids(self, key: str) -> tuple[int, ...]:
        """A token id or a list of them; none if the key is absent."""
        value = self._get(key, [])
        ids = value if isinstance(value, list) else [value]
        if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i <= _LARGEST for i in ids):
            raise self.fail(key, f"must be a token id or a list of token ids, not {value!r:.60}.")
        return tuple(ids)

    def must_be(self, key: str, only: object, what: str) -> None:
        """Refuse a feature that this program does not compute; an absent key means the supported value."""
        value = self._get(key, only)
        if value != only:
            raise self.fail(key, f"is {value!r:.60}: {what} is not supported, only {only!r} is.")


def refuse_unsupported(config: ConfigReader) -> None:
    """Raise FormatError for features that no model of the family, as published, uses."""
    config.must_be("hidden_act", "silu", "another activation")
    config.must_be("attention_bias", False, "a bias in the attention projections")
    config.must_be("use_sliding_window", False, "sliding-window attention")
    config.must_be("mlp_only_layers", [], "a layer without experts")
    config.must_be("decoder_sparse_step", 1, "a layer without experts")
    config.must_be("attn_output_gate", True, "attention without its output gate")


def layer_count(config: ConfigReader) -> int:
    """Decoder layers."""
    return config.integer("num_hidden_layers", most=MOST_LAYERS)


def layer_types(config: ConfigReader) -> tuple[str, ...]:
    """`layer_types`, or every `full_attention_interval`-th layer (default 4) full attention, as transformers does."""
    layers = layer_count(config)
    if config.values.get("layer_types") is None:
        interval = config.integer("full_attention_interval", 4)
        return tuple("linear_attention" if (i + 1) % interval else "full_attention" for i in range(layers))
    types = config.values["layer_types"]
    if not isinstance(types, list) or len(types) != layers:
        raise config.fail("layer_types", f"must be a list of {layers} names (num_hidden_layers), not {types!r:.60}.")
    if unknown := [t for t in types if t not in ("full_attention", "linear_attention")]:
        raise config.fail("layer_types", f"has {unknown[0]!r:.60}; known are full_attention and linear_attention.")
    return tuple(types)


def heads(config: ConfigReader) -> tuple[int, int]:
    """Query heads and key/value heads of full attention."""
    query, key_value = config.integer("num_attention_heads"), config.integer("num_key_value_heads")
    if query % key_value:
        raise config.fail("num_attention_heads", f"({query}) must be a multiple of num_key_value_heads ({key_value}).")
    return query, key_value


def expert_counts(config: ConfigReader) -> tuple[int, int]:
    """Experts of a layer and how many of them a token takes."""
    # transformers 5 saves qwen3_moe's num_experts under the other name.
    renamed = "num_local_experts" in config.values and "num_experts" not in config.values
    experts = config.integer("num_local_experts" if renamed else "num_experts", most=MOST_EXPERTS)
    top_k = config.integer("num_experts_per_tok")
    if top_k > experts:
        raise config.fail("num_experts_per_tok", f"({top_k}) is more than the layer's experts ({experts}).")
    return experts, top_k


def rope(config: ConfigReader, head_dim: int, default_fraction: float) -> tuple[float, int]:
    """theta and the rotated dimensions of a head, from `rope_parameters` (transformers 5) or the older flat keys.

    For text, the interleaved mrope of the vision models collapses to plain RoPE, so its sections do not matter.
    """
    table = config.table("rope_parameters") if config.values.get("rope_parameters") is not None else config
    scaling = table if table is not config else config.table("rope_scaling", {})
    kind = scaling.values.get("rope_type") or scaling.values.get("type") or "default"
    if kind not in ("default", "mrope"):
        raise scaling.fail("rope_type", f"is {kind!r:.60}: scaled RoPE is not supported, only 'default' is.")
    usual = config.values.get("partial_rotary_factor", default_fraction)
    fraction = table.number("partial_rotary_factor", 0.0, 1.0, usual)
    rotary_dim = int(head_dim * fraction)
    if rotary_dim < 2 or rotary_dim % 2:
        sentence = f"gives {rotary_dim} rotated dimensions of {head_dim}; that must be an even number from 2 to all."
        raise table.fail("partial_rotary_factor", sentence)
    return table.number("rope_theta", 1.0, 1e30), rotary_dim


def epsilon(config: ConfigReader) -> float:
    """What norms add to a mean square; float32 must hold it."""
    return config.number("rms_norm_eps", 1e-30, 1.0)


def delta_net(config: ConfigReader) -> DeltaNet:
    """Sizes of the GatedDeltaNet mixer."""
    delta = DeltaNet(
        key_heads=config.integer("linear_num_key_heads"),
        value_heads=config.integer("linear_num_value_heads"),
        key_dim=config.integer("linear_key_head_dim"),
        value_dim=config.integer("linear_value_head_dim"),
        kernel=config.integer("linear_conv_kernel_dim"),
    )
    if delta.value_heads % delta.key_heads:
        sentence = f"({delta.value_heads}) must be a multiple of linear_num_key_heads ({delta.key_heads})."
        raise config.fail("linear_num_value_heads", sentence)
    if delta.kernel < 2:
        raise config.fail("linear_conv_kernel_dim", "must be at least 2.")
    return delta
