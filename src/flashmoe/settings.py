"""What a user can choose: one frozen, typed object. Everything left None is chosen by probing the machine.

Invariant: a Settings that exists is valid on its own terms; whether it fits the model and the machine is the plan's
matter.
"""

import re
from dataclasses import dataclass, fields
from typing import Any, Self

from flashmoe.errors import FlashMoeError

_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
BACKENDS = ("cpu", "reference")
CACHES = ("arena", "os")
KV_BITS = (16, 8)
MAX_THREADS = 1024


def parse_bytes(text: str | int) -> int:
    """`4GiB`, `48G`, `512 MB` or a number of bytes, as bytes; G is 10^9 and GiB 2^30."""
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text, re.IGNORECASE)
    if match is None:
        raise FlashMoeError(f"{text!r} is not a size; write it like 4GiB, 48G or 512MB.")
    size = float(match[1]) * _UNITS[(match[2] or "").lower()]
    if size >= 2**63:
        raise FlashMoeError(f"{text!r} is more than any machine has.")
    return int(size)


def format_bytes(n: float) -> str:
    """Bytes in the decimal unit people read: `4.25 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n) < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.2f} {unit}"
        n /= 1000
    return f"{n:.2f} TB"


@dataclass(frozen=True)
class Settings:
    """How to run a model.

    memory: byte budget for everything the engine holds (trunk, state, scratch, experts); None: what the machine leaves.
    threads: compute threads; None: one per physical core this process may use, one less on eight or more.
    experts_per_token: overrides the model's own top-k, and changes its answers.
    context: tokens a sequence may grow to; None: 32768, or less where the model or the memory ends sooner.
    kv_bits: of each number in the caches of keys and values: 16, or 8, which halves them and changes answers slightly.
    chunk_tokens: prompt tokens that go through a layer together; None: from the memory plan. Does not change answers.
    sequences: the most that run at a time, fewer where memory is short. Each has a state; answers do not change.
    cache: who keeps experts in memory: `arena`, the engine itself, or `os`, which reads each from its file every time
    and leaves it to the page cache. Does not change answers.
    learn: whether the uses of experts are remembered beside the model, for the next run. Does not change answers.
    foresight: reads what the next layer's router would choose for this layer's hidden state, while the disk is idle;
    None: where experts are large enough that it pays. Does not change answers.
    overlap: False waits for all experts of a layer before it computes with any; for measuring what overlap gains.
    snapshots: bytes of the budget that saved states of sequences may hold; None: a share, for whoever serves
    conversations.
    verify_reads: check every record against its checksum as it is read: a damaged one is an error, not a wrong answer.
    """

    memory: int | None = None
    threads: int | None = None
    backend: str = "cpu"
    experts_per_token: int | None = None
    context: int | None = None
    kv_bits: int = 16
    chunk_tokens: int | None = None
    sequences: int = 1
    cache: str = "arena"
    learn: bool = False
    foresight: bool | None = None
    overlap: bool = True
    snapshots: int | None = 0
    verify_reads: bool = False

    def __post_init__(self) -> None:
        if self.cache not in CACHES:
            raise FlashMoeError(f"There is no cache {self.cache!r}; choose one of {', '.join(CACHES)}.")
        if self.backend not in BACKENDS:
            raise FlashMoeError(f"There is no backend {self.backend!r}; choose one of {', '.join(BACKENDS)}.")
        if self.kv_bits not in KV_BITS:
            raise FlashMoeError(f"kv_bits must be 16 or 8, not {self.kv_bits!r}.")
        for name in ("memory", "threads", "experts_per_token", "context", "chunk_tokens", "sequences"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise FlashMoeError(f"{name} must be a whole number of at least 1, not {value!r}.")
            if value is not None and value >= 2**63:
                raise FlashMoeError(f"{name} is {value}, which is more than any machine has.")
        if self.threads is not None and self.threads > MAX_THREADS:
            raise FlashMoeError(f"threads must be at most {MAX_THREADS}, not {self.threads}.")
        if self.snapshots is not None and (type(self.snapshots) is not int or self.snapshots < 0):
            raise FlashMoeError(f"snapshots must be a number of bytes of at least 0, not {self.snapshots!r}.")
        if not isinstance(self.verify_reads, bool):
            raise FlashMoeError(f"verify_reads must be True or False, not {self.verify_reads!r}.")

    @classmethod
    def from_keywords(cls, **choices: Any) -> Self:
        """Settings from loose keywords, as `flashmoe.load` takes them: sizes may be written like `4GiB`."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(choices) - known):
            raise FlashMoeError(f"There is no setting {unknown[0]!r}; the settings are {', '.join(sorted(known))}.")
        for name in ("memory", "snapshots"):
            if isinstance(choices.get(name), str):
                choices[name] = parse_bytes(choices[name])
        return cls(**choices)
