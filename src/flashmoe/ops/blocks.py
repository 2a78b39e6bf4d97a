"""What a layer's mixer is made of: handles and vectors of one backend, which makes one handle of them.

Knows sizes and roles, not arithmetic. Vectors are float32, as `Ops.vector` gives them; matrices are handles of
`Ops.matrix`, [out, in]; D hidden size.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class DeltaNetWeights:
    """GatedDeltaNet with V value heads of dv and `key_heads` of dk; C = 2 * key_heads * dk + V * dv channels.

    norm [D], the layer's own; qkv [C, D]; z [V * dv, D]; b and a [V, D]; conv [C, kernel]; a_log and dt_bias [V];
    gated_norm [dv]; output [D, V * dv].
    """

    norm: Any
    qkv: Any
    z: Any
    b: Any
    a: Any
    conv: Any
    a_log: Any
    dt_bias: Any
    gated_norm: Any
    output: Any
    key_heads: int
    eps: float


@dataclass(frozen=True, slots=True)
class AttentionWeights:
    """Full attention of `heads` query heads over `kv_heads` of keys and values, d dimensions each.

    norm [D], the layer's own; q [heads * d, D], or where it is gated each head's rows [query | gate], [heads * 2d, D];
    k and v [kv_heads * d, D]; q_norm and k_norm [d]; output [D, heads * d].
    """

    norm: Any
    q: Any
    k: Any
    v: Any
    q_norm: Any
    k_norm: Any
    output: Any
    heads: int
    kv_heads: int
    gated: bool
    eps: float
