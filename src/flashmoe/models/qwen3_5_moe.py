"""qwen3_5_moe (Qwen3.5 and 3.6 MoE) and its text-only form: GatedDeltaNet and gated full attention.

With the vision wrapper the decoder's keys lie in `text_config`; the vision tower itself is not computed.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flashmoe.models.architecture import Architecture
from flashmoe.models.config import ConfigReader
from flashmoe.models.qwen3_next import hybrid_config
from flashmoe.models.trunk import assemble


def architecture(config: Mapping[str, Any]) -> Architecture:
    """Raises FormatError with the key's name where the config is incomplete or wants what is not supported."""
    outer = ConfigReader(config)
    text = outer.table("text_config") if "text_config" in config else outer
    # The wrapper's own keys win, as in transformers, where both levels have them.
    tied = outer.boolean("tie_word_embeddings", text.boolean("tie_word_embeddings", False))
    sizes = hybrid_config(text, "qwen3_5_moe", renormalise=True, tied=tied)
    return assemble(replace(sizes, eos=outer.token_ids("eos_token_id") or sizes.eos), zero_centred=True)
