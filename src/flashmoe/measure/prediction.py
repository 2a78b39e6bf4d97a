"""A model's speed on this machine or a described one, with every step of the reckoning.

Invariant: what is described is not probed, and each figure says where it comes from. Knows probes and the engine's own
memory plan.
"""

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from flashmoe.engine.engine import Limits
from flashmoe.engine.loader import foresees, plan_memory
from flashmoe.engine.sampling import Sampling
from flashmoe.engine.sizes import state_bytes_per_token
from flashmoe.errors import FlashMoeError
from flashmoe.measure import roofline
from flashmoe.measure.disk import DEPTHS, Rate, probe_reads
from flashmoe.measure.doctor import of_disk, probe_reading
from flashmoe.measure.limits import read_limits
from flashmoe.measure.processor import probe_products
from flashmoe.measure.rehearsal import rehearse
from flashmoe.measure.roofline import COLD_ANSWER, COLD_PROMPT, POSITION, Costs, Decode, Prefill, Rates, cold_hits
from flashmoe.measure.sizes import ModelSizes
from flashmoe.models.architecture import ModelConfig
from flashmoe.ops import make_ops
from flashmoe.pack.recipe import DEFAULT_BITS
from flashmoe.settings import Settings, format_bytes
from flashmoe.streaming.experts import READ_THREADS
from flashmoe.streaming.memory import MemoryPlan, compute_threads

GIVEN = "given"
MEASURED = "measured here"
REHEARSED = "measured here on a layer of each kind, with random weights"
BYTES = "as if everything ran at the speed of reading memory"
EVEN = "share of the experts that fit, as if routing were even and the cache blind"


@dataclass(frozen=True)
class Description:
    """What is said of a machine; None is measured on this one. Bytes, and bytes or operations a second.

    disk: by reads in flight, rising; one alone holds for any number. fresh: part of the experts that goes to memory
    never used before, which is not of the machine but of the moment.
    """

    memory: int | None = None
    disk: tuple[Rate, ...] | None = None
    bandwidth: float | None = None
    operations: float | None = None
    hit_rate: float | None = None
    fresh: float = 0.0

    def __post_init__(self) -> None:
        if self.hit_rate is not None and not 0 <= self.hit_rate <= 1:
            raise FlashMoeError(f"hit rate is a share from 0 to 1, not {self.hit_rate}.")
        for name, value in {
            **{name: getattr(self, name) for name in ("memory", "bandwidth", "operations")},
            "disk": min((rate.bytes_per_second for rate in self.disk or ()), default=None),
        }.items():
            if value is not None and value <= 0:
                raise FlashMoeError(f"{name} must be more than 0.")


@dataclass(frozen=True)
class Speeds:
    """Of a machine at one moment. costs: None where they are another machine's."""

    rates: Rates
    costs: Costs | None


@dataclass(frozen=True)
class Prediction:
    """decode: with the arena as full as it gets. cold: from an empty one, in `answer` tokens after `prompt` others.
    prefill: of a full chunk. prompted: of the prompt, or a chunk of it; cold_prompted: from an empty arena.
    sources: where memory, disk, bandwidth, operations, the hit rate and the costs come from."""

    model: ModelSizes
    rates: Rates
    plan: MemoryPlan
    limits: Limits
    decode: Decode
    cold: Decode
    prompt: int
    answer: int
    prefill: Prefill
    prompted: Prefill
    cold_prompted: Prefill
    sources: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        d, m = self.decode, self.model
        return {
            "model": m.name,
            "experts_per_token": m.config.top_k,
            "rates": asdict(self.rates) | {"disk": self.rates.disk},
            "sources": self.sources,
            "memory": {**asdict(self.plan), "total": self.plan.total},
            "token_bytes": {name: getattr(m, name) for name in ("mixers", "routers", "shared", "head", "experts")}
            | {"state": d.state},
            "decode": _json(d),
            "cold": _json(self.cold) | {"prompt": self.prompt, "answer": self.answer},
            "prefill": _prefill_json(self.prefill),
            "prompted": _prefill_json(self.prompted),
            "cold_prompted": _prefill_json(self.cold_prompted),
        }

    def __str__(self) -> str:
        return "\n".join([*self._machine(), *self._decode(), *self._prefill()])

    def _machine(self) -> list[str]:
        m, c, r, s = self.model, self.model.config, self.rates, self.sources
        experts = f"{c.top_k} a token"
        if c.top_k != m.own_top_k:
            experts += f" instead of its own {m.own_top_k}, which changes its answers"
        speed = f"{r.operations / 1e9:.0f} billion a second, {s['operations']}" if r.operations else "not given"
        return [
            f"{m.name}: {c.layers} layers of {c.experts} experts of {format_bytes(m.record_bytes)}, {experts}",
            f"  disk               {format_bytes(r.disk)}/s, {s['disk']}",
            f"  memory bandwidth   {format_bytes(r.bandwidth)}/s, {s['bandwidth']}",
            f"  operations         {speed}",
            f"  memory             {s['memory']}: {self.plan}",
        ]

    def _decode(self) -> list[str]:
        m, c, d = self.model, self.model.config, self.decode
        table = [
            ("mixers and norms", m.mixers),
            ("routers", m.routers),
            ("shared experts", m.shared),
            ("head, a row of the embedding", m.head),
            (f"state, {POSITION} tokens before", d.state),
            (f"experts, {c.layers} x {c.top_k}", m.experts),
            ("together", d.needed),
        ]
        return [
            "decode, a token reads",
            *(f"  {name:<32}{format_bytes(size):>12}" for name, size in table),
            f"  hit rate {d.hit_rate:.1%} ({self.sources['hit_rate']}): {format_bytes(d.missed)} from disk",
            f"  disk               {_ms(d.disk)}   bytes missed / disk",
            f"  disk in bursts     {_ms(d.bursts)}   with {d.depth:.1f} reads in flight, as in a layer with a miss",
            f"  memory             {_ms(d.memory)}   bytes read / memory bandwidth",
            f"  limit              {_ms(d.limit)} = max(disk, memory): {1 / d.limit:.2f} tokens/s if neither ever "
            "waited",
            f"  parts, {self.sources['costs']}",
            f"    before routing   {_ms(d.before)}   mixers, routers, head, state: nothing is known to read yet",
            f"    bookkeeping      {_ms(d.bookkeeping)}   looking up experts, asking for the missing ones",
            f"    beside the disk  {_ms(d.beside)}   shared experts and experts",
            *(
                [f"    ahead            {_ms(d.ahead)}   of the bursts, guessed while nothing is known to read"]
                * (d.ahead > 0)
            ),
            f"    last to land     {_ms(d.last)}   one expert a layer, where any was missed",
            f"    sampling         {_ms(d.sampling)}",
            f"  predicted          {_ms(d.predicted)} = before + bookkeeping + max(bursts - ahead + last, beside) + "
            f"sampling: {1 / d.predicted:.2f} tokens/s",
            f"  from a cold start  {_ms(self.cold.predicted)}: {self._cold()}",
        ]

    def _cold(self) -> str:
        cold = self.cold
        if not cold.fresh:
            return f"a prompt of {self.prompt} tokens has filled the memory"
        return (
            f"{1 / cold.predicted:.2f} tokens/s in an answer of {self.answer} tokens after a prompt of {self.prompt}, "
            f"with {cold.hit_rate:.1%} hits while the memory fills, and {_ms(cold.filling).strip()} for its first use"
        )

    def _prefill(self) -> list[str]:
        p, c = self.prefill, self.model.config
        lines = [
            f"prefill, chunks of {p.tokens} tokens",
            f"  experts            {p.distinct:.0f} of {c.experts} in each layer"
            + (", all in memory" if p.hit_rate else f", none still in memory: {format_bytes(p.missed)} from disk"),
            f"  disk               {_ms(p.disk)}",
        ]
        if p.before is None or p.beside is None or p.predicted is None:
            rate = f"{p.tokens / p.limit:.1f} tokens/s" if p.limit else "unknown"
            return [*lines, f"  limit              {rate} by the disk alone; operations a second would tell more"]
        return [
            *lines,
            f"  before routing     {_ms(p.before)}   mixers and routers",
            f"  beside the disk    {_ms(p.beside)}   experts, shared ones too",
            f"  limit              {_ms(p.limit)} = max(disk, the rest): {p.tokens / p.limit:.1f} tokens/s",
            f"  predicted          {_ms(p.predicted)} = limit + reading the first layer: {p.rate:.1f} tokens/s",
            f"  of {self.prompted.tokens:<15} {self.prompted.rate:.1f} tokens/s, from a cold start "
            f"{self.cold_prompted.rate:.1f}",
        ]


def _json(d: Decode) -> dict[str, Any]:
    return asdict(d) | {"limit_tokens_per_second": 1 / d.limit, "predicted_tokens_per_second": 1 / d.predicted}


def _prefill_json(p: Prefill) -> dict[str, Any]:
    return asdict(p) | {
        "limit_tokens_per_second": p.tokens / p.limit if p.limit else None,
        "predicted_tokens_per_second": p.rate,
    }


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:10.2f} ms"


def predict(
    model: ModelSizes,
    description: Description,
    directory: Path,
    settings: Settings | None = None,
    sampling: Sampling | None = None,
    prompt: int = COLD_PROMPT,
    answer: int = COLD_ANSWER,
    speeds: Speeds | None = None,
) -> Prediction:
    """With the threads and the context of `settings`. sampling: None for greedy. prompt and answer: tokens of the cold
    start. speeds: as `measure` finds them, if None now.

    Raises CapacityError if the memory does not hold the model's trunk and two layers' experts of a token.
    """
    settings = settings or Settings()
    config, ops = model.config, make_ops("cpu", 1, settings.kv_bits)
    plan, limits = plan_memory(model.manifest, ops, config, replace(settings, memory=description.memory))
    speeds = speeds or measure(model, description, directory, settings, sampling)
    rates, costs = speeds.rates, speeds.costs
    share = plan.slots / plan.experts
    hit_rate = share if description.hit_rate is None else description.hit_rate
    cold, fresh = cold_hits(config, share, prompt, answer)
    cold = min(cold, hit_rate)
    decode = partial(
        roofline.decode,
        model,
        rates,
        kv_bytes=state_bytes_per_token(ops, config),
        costs=costs,
        guessing=foresees(settings, plan),
    )
    prefill = partial(roofline.prefill, model, rates, plan, costs=costs)
    sources = {
        name: MEASURED if getattr(description, name) is None else GIVEN
        for name in ("memory", "disk", "bandwidth", "operations")
    }
    sources["hit_rate"] = EVEN if description.hit_rate is None else GIVEN
    sources["costs"] = REHEARSED if costs else BYTES
    return Prediction(
        model,
        rates,
        plan,
        limits,
        decode(hit_rate, fresh=description.fresh),
        decode(cold, fresh=min(fresh, 1 - cold)),
        prompt,
        answer,
        prefill(limits.chunk),
        prefill(min(prompt, limits.chunk)),
        prefill(min(prompt, limits.chunk), cold=True),
        sources,
    )


def measure(
    model: ModelSizes, description: Description, directory: Path, settings: Settings, sampling: Sampling | None = None
) -> Speeds:
    """Probes what is not described: the disk that `directory` is on, and the processors."""
    threads = settings.threads or compute_threads()
    # Where the memory is another machine's, this one's arithmetic says nothing.
    here = description.bandwidth is None
    rates = Rates(
        by_depth=description.disk or _disk(directory),
        bandwidth=description.bandwidth or _bandwidth(threads),
        operations=description.operations or (_operations(threads) if here else None),
    )
    bits = _bits(model, "experts"), _bits(model, "matrix")
    costs = None
    if here:
        arena = min(model.manifest.expert_bytes, description.memory or model.manifest.expert_bytes)
        costs = _costs(model.config, bits, model.head, arena, threads, sampling or Sampling())
    return Speeds(rates, costs)


def _bits(model: ModelSizes, of: str) -> int:
    """The fewest that quantised weights of this class have; those of the default recipe if there are none."""
    return min((bits for bits in model.manifest.quantisation.get(of, []) if bits <= 8), default=DEFAULT_BITS)


def _disk(directory: Path) -> tuple[Rate, ...]:
    """With no more reads in flight than an engine has."""
    depths = [depth for depth in DEPTHS if depth <= READ_THREADS]
    return of_disk(directory, lambda files: probe_reads(files, depths))[0]


def _bandwidth(threads: int) -> float:
    return probe_reading(read_limits(), [threads])[-1].per_second


def _operations(threads: int) -> float:
    return probe_products(threads)


def _costs(
    config: ModelConfig, bits: tuple[int, int], head_bytes: int, arena: int, threads: int, sampling: Sampling
) -> Costs:
    return rehearse(config, bits, head_bytes, arena, threads, sampling)
