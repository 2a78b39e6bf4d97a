"""What a packed model is: sizes, precision, and how much of it a token touches and a memory holds.

Knows the manifest and the config, not the engine: how much memory the engine itself takes is in its plan.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flashmoe.pack.contents import Contents
from flashmoe.settings import format_bytes


@dataclass(frozen=True)
class Info:
    """Sizes in bytes. `token_*`: what one token touches at the model's own top-k; rows of the embedding count as one.
    `memory`: what was available; `experts_that_fit` into it beside the trunk, negative if not even that fits."""

    directory: str
    model_type: str
    source: dict[str, str]
    quantisation: dict[str, Any]
    layers: int
    experts: int
    top_k: int
    total_bytes: int
    trunk_bytes: int
    expert_bytes: int
    largest_record_bytes: int
    token_expert_bytes: int
    token_trunk_bytes: int
    memory: int
    experts_that_fit: int

    @property
    def share_that_fits(self) -> float:
        """Of all experts, 0 to 1."""
        return min(1.0, max(0, self.experts_that_fit) / (self.layers * self.experts))

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "share_that_fits": round(self.share_that_fits, 4)}

    def __str__(self) -> str:
        bits = {k: v for k, v in self.quantisation.items() if k != "group_size"}
        precision = ", ".join(f"{kind} {'/'.join(map(str, v))}-bit" for kind, v in bits.items() if v)
        revision = f" at {self.source['revision']}" if self.source.get("revision") else ""
        token = self.token_expert_bytes + self.token_trunk_bytes
        lines = [
            f"{self.directory}: {self.model_type} from {self.source.get('name', 'an unnamed source')}{revision}",
            f"  size          {format_bytes(self.total_bytes)}: experts {format_bytes(self.expert_bytes)}, "
            f"everything else {format_bytes(self.trunk_bytes)}",
            f"  precision     {precision}",
            f"  experts       {self.layers} layers of {self.experts}, {self.top_k} a token, "
            f"{format_bytes(self.largest_record_bytes)} each",
            f"  a token       touches {format_bytes(token)}: experts {format_bytes(self.token_expert_bytes)}, "
            f"everything else {format_bytes(self.token_trunk_bytes)}",
            f"  memory        {self._fit()}",
        ]
        return "\n".join(lines)

    def _fit(self) -> str:
        available = f"of {format_bytes(self.memory)} available"
        if self.experts_that_fit < 2 * self.top_k:
            return f"{available}, too little for everything else and the experts of two layers"
        return (
            f"{available}, beside everything else, holds {min(self.experts_that_fit, self.layers * self.experts)} "
            f"experts: {self.share_that_fits:.0%}"
        )


def info(directory: Path, memory: int) -> Info:
    """Describe the packed model in `directory` for a machine with `memory` bytes available. Raises FormatError."""
    contents = Contents.open(directory)
    contents.close()
    manifest, config = contents.manifest, contents.architecture.config
    records = [manifest.layout(i).record_bytes for i in range(len(manifest.layers))]
    weights = sum(t.nbytes for t in contents.stored.values())
    table = [t for name, t in contents.stored.items() if name.startswith("model.embed_tokens.")]
    # A tied table is read whole as the head; otherwise a token takes one row of it.
    unread = 0 if config.tied else sum(t.nbytes - t.nbytes // t.shape[0] for t in table)
    return Info(
        directory=str(directory),
        model_type=manifest.model_type,
        source=manifest.source,
        quantisation=manifest.quantisation,
        layers=config.layers,
        experts=config.experts,
        top_k=config.top_k,
        total_bytes=manifest.trunk.bytes + manifest.expert_bytes,
        trunk_bytes=manifest.trunk.bytes,
        expert_bytes=manifest.expert_bytes,
        largest_record_bytes=max(records),
        token_expert_bytes=sum(config.top_k * size for size in records),
        token_trunk_bytes=weights - unread,
        memory=memory,
        experts_that_fit=(memory - manifest.trunk.bytes) // max(records),
    )
