"""From a packed model's directory to an Engine: check that its files are of one model, plan the memory, read the trunk.

Invariant: nothing large is allocated before the plan holds. Knows files and sizes, not how a token is computed.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from flashmoe.engine.engine import Engine, Limits
from flashmoe.engine.foresight import Foresight
from flashmoe.engine.learned import LearnedUses
from flashmoe.engine.sampling import read_defaults
from flashmoe.engine.shrinking import Shrinking
from flashmoe.engine.sizes import fixed_state_bytes, scratch_bytes, state_bytes_per_token, whole_blocks
from flashmoe.engine.sparse import found_holes, refuse_unwritten
from flashmoe.engine.trunk import Trunk
from flashmoe.errors import CapacityError, FlashMoeError, FormatError
from flashmoe.files.checksum import checksum
from flashmoe.files.jsonfile import read_object
from flashmoe.models import architecture
from flashmoe.models.architecture import ModelConfig
from flashmoe.models.decoder import Decoder
from flashmoe.ops import make_ops
from flashmoe.ops.interface import KV_BLOCK, Ops
from flashmoe.pack.agreement import require_agreement
from flashmoe.pack.manifest import Manifest
from flashmoe.settings import Settings
from flashmoe.streaming.experts import ExpertStore
from flashmoe.streaming.memory import MemoryPlan, compute_threads, plan
from flashmoe.streaming.policy import LeastFrequentRecentlyUsed
from flashmoe.streaming.reader import ExpertFile

_LARGEST_CHUNK = 8192
"""Tokens: more makes nothing faster, since reading is hidden long before."""
_COMMON_CONTEXT = 32768
"""Tokens reserved for unless a context is asked for: twice a coding agent's prompt. The published models' own limit
(262144) would take a quarter of 20 GB from the experts of 35B, for conversations that few have."""
_STATE_SHARE = 4
"""Nor may the state then take more than a quarter of what the smallest arena leaves: experts earn more."""
_LARGE_RECORD = 100_000
"""Bytes of an expert from which guessing was measured to pay (docs/measurements/caching.md); 28 kB were too few."""
_SCRATCH_SHARE = 8
_SNAPSHOT_SHARE = 16
_SHORT_CHUNK = 512
"""Tokens below which reading is what a prompt waits for: to get there, a chunk may take twice its share."""
_SHARED_CONTEXT = 4096
"""Tokens for which each of several sequences shall have room where no context is asked for; at worst it is half."""


def load_engine(directory: Path, settings: Settings) -> Engine:
    """Load a packed model.

    Raises FormatError if the files do not belong together, CapacityError with the figures if the memory does not hold
    what it must, FlashMoeError if a file cannot be read.
    """
    manifest = Manifest.read(directory)
    described = architecture(read_object(directory / "config.json"))
    require_agreement(manifest, described)
    defaults = read_defaults(directory / "generation_config.json")
    config = with_experts_per_token(described.config, settings.experts_per_token)
    ops = make_ops(settings.backend, settings.threads or compute_threads(), settings.kv_bits)
    memory, limits = plan_memory(manifest, ops, config, settings)
    trunk = Trunk(manifest.trunk.path)
    unsure = settings.verify_reads or found_holes(manifest, manifest.trunk.path)
    if unsure and checksum(trunk.bytes) != manifest.trunk.xxh3:
        raise FormatError(
            f"{manifest.trunk.path} is not as it was packed: its bytes do not have the xxh3 of flashmoe.json. Check "
            f"the model with `flashmoe verify {directory}`, and pack it again."
        )
    refuse_unwritten(manifest)
    weights = trunk.handles(ops, described)
    layouts = {id(layout): ops.layout(layout) for layout in manifest.layouts}
    own_cache = settings.cache == "arena"
    learned = LearnedUses(directory, config.layers, config.experts) if settings.learn else None
    store = ExpertStore(
        [
            ExpertFile(
                layer.path,
                layer.data_offset,
                layer.experts,
                manifest.layout(i).record_bytes,
                layer.records_xxh3 if settings.verify_reads else "",
            )
            for i, layer in enumerate(manifest.layers)
        ],
        memory.slots,
        direct=None if own_cache else False,
        policy=partial(LeastFrequentRecentlyUsed, shares=learned.shares) if learned else LeastFrequentRecentlyUsed,
        keep=own_cache,
        overlap=settings.overlap,
    )
    by_layer = [layouts[id(manifest.layout(i))] for i in range(config.layers)]
    decoder = Decoder(ops, config, weights, by_layer, store.arena.array)
    identity = checksum(manifest.to_json() + f"{ops.name} {config.top_k} {settings.kv_bits}".encode())
    engine = Engine(ops, decoder, store, memory, limits, described.config.top_k, defaults, identity, learned)
    if foresees(settings, memory):
        engine.foresight = Foresight(decoder.layers, config.top_k)
        engine.observers.append(engine.foresight)
    engine.observers.append(Shrinking(store, least=min(2 * config.top_k, memory.slots)))
    return engine


def foresees(settings: Settings, memory: MemoryPlan) -> bool:
    """Whether experts are read ahead of their router: as asked for, else where it pays
    (docs/measurements/caching.md)."""
    if settings.cache != "arena":
        return False
    pays = memory.slots < memory.experts and memory.slot_bytes >= _LARGE_RECORD
    return pays if settings.foresight is None else settings.foresight


def with_experts_per_token(config: ModelConfig, chosen: int | None) -> ModelConfig:
    """The config with another top-k; FlashMoeError if a layer has not so many experts."""
    if chosen is None:
        return config
    if chosen > config.experts:
        raise FlashMoeError(f"experts_per_token is {chosen}, but a layer of this model has {config.experts} experts.")
    return replace(config, top_k=chosen)


def plan_memory(manifest: Manifest, ops: Ops, config: ModelConfig, settings: Settings) -> tuple[MemoryPlan, Limits]:
    """Share the budget out, and settle the context and the chunk where the settings leave them open.

    A context asked for is reserved in full; else what most conversations need, as far as a share of the memory goes.
    That share also bounds how many of the sequences asked for may run at a time.
    """
    if settings.context and settings.context > config.max_context:
        raise CapacityError(
            f"A context of {settings.context} tokens is more than the {config.max_context} this model was made for."
        )
    slot_bytes = max(layout.record_bytes for layout in manifest.layouts)
    fixed, per_token = fixed_state_bytes(config), state_bytes_per_token(ops, config)
    product = ops.product_bytes(config.vocab, config.hidden)  # the head is the largest matrix

    def attempt(budget: int | None, context: int, chunk: int, sequences: int, saved: int) -> MemoryPlan:
        return plan(
            budget=budget,
            trunk=manifest.trunk.bytes,
            state=sequences * (fixed + whole_blocks(context) * per_token) + saved,
            scratch=scratch_bytes(config, chunk, sequences) + product,
            slot_bytes=slot_bytes,
            top_k=config.top_k,
            experts=config.experts * config.layers,
            keep=settings.cache == "arena",
        )

    chunk = settings.chunk_tokens or 1

    def least(context: int) -> tuple[MemoryPlan, int]:
        """The plan for one sequence, and what it leaves besides the smallest arena."""
        smallest = attempt(settings.memory, context, chunk, 1, settings.snapshots or 0)
        fewest = min(2 * config.top_k, smallest.experts)
        return smallest, smallest.budget - smallest.total + (smallest.slots - fewest) * slot_bytes

    try:
        smallest, spare = least(settings.context or 1)
    except CapacityError as error:
        # Raises too where no context at all would fit.
        _, spare = least(1)
        fit = KV_BLOCK * (1 + spare // (KV_BLOCK * per_token))
        raise CapacityError(f"{error} Or shorten --context to {fit} tokens, which would fit.") from None
    snapshots = spare // _SNAPSHOT_SHARE if settings.snapshots is None else settings.snapshots
    share = spare // _STATE_SHARE
    usual = settings.context or min(config.max_context, _SHARED_CONTEXT)
    sequences = min(settings.sequences, 1 + share // (fixed + usual * per_token + 4 * config.vocab))
    # Without full attention a token adds nothing to the state.
    left = share - (sequences - 1) * (fixed + 4 * config.vocab)
    affordable = KV_BLOCK * (1 + left // sequences // (KV_BLOCK * per_token)) if per_token else config.max_context
    context = settings.context or min(config.max_context, _COMMON_CONTEXT, affordable)
    if settings.chunk_tokens is None:
        while chunk < _LARGEST_CHUNK:
            share = spare * (2 if chunk < _SHORT_CHUNK else 1) // _SCRATCH_SHARE
            if scratch_bytes(config, 2 * chunk, sequences) > share:
                break
            chunk *= 2
    limits = Limits(context, chunk, sequences, snapshots)
    return attempt(smallest.budget, context, chunk, sequences, snapshots), limits
