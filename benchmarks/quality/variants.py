"""The rungs of the ladder: each a pack, how it is run, and what a token of it costs.

Knows packs and what calibration told; not how a rung is judged.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flashmoe.ops.weights import AffineMatrix
from flashmoe.pack.manifest import Manifest
from flashmoe.pack.recipe import Recipe
from flashmoe.settings import Settings
from flashmoe.text_engine import TextEngine, load
from quality.calibration import ExpertInputs, collect, inner_moments, moments
from quality.packs import Floats, PartRecipe, packed, rewritten
from quality.rounding import Rounded, compensated, high_plane, nearest, searched

ROUTER = ("mlp.gate.",)
PARTS_OF_TRUNK = {
    "embedding and head": ("embed_tokens.", "lm_head."),
    "mixers": ("self_attn.", "linear_attn."),
    "shared experts": ("shared_expert.",),
}
MAIN = {(8, 8), (4, 8), (4, 4), (2, 8)}
"""Bits of experts and trunk of the main rungs."""
HOT = 0.25
"""Share of a layer's experts that keep 4 bits in the mixed packs."""


@dataclass(frozen=True)
class Rung:
    """name: bits of experts and trunk, and what else differs. make: gives the pack's directory. top_k: None for the
    model's own. mixed: the records have room for 4 bits though most experts need 2, so that the bytes of a token are
    reckoned and not those of the file. main: asked every case."""

    name: str
    group: str
    make: Callable[[], Path]
    top_k: int | None = None
    mixed: bool = False
    main: bool = False


class Ladder:
    """Makes packs of one checkpoint under `work`, each once."""

    def __init__(self, checkpoint: Path, work: Path, calibration: Sequence[Sequence[int]], settings: Settings) -> None:
        self.checkpoint, self.work, self.settings = checkpoint, work, settings
        self._calibration_text = calibration
        self._inputs: ExpertInputs | None = None

    def recipe(self, recipe: Recipe) -> Path:
        special = ""
        if isinstance(recipe, PartRecipe):
            special = "-".join(["", *(part.strip(".") for part in recipe.parts), str(recipe.part_bits)])
        return packed(self.checkpoint, self.work / f"e{recipe.expert_bits}-t{recipe.trunk_bits}{special}", recipe)

    @property
    def inputs(self) -> ExpertInputs:
        """What the experts see of the calibration text, in the most precise pack."""
        if self._inputs is None:
            with load(self.recipe(Recipe(8, 16)), context=self.settings.context) as engine:
                self._inputs = collect(engine.engine, self._calibration_text)
        return self._inputs

    def hot(self, layer: int, experts: int) -> NDArray[np.bool_]:
        """The experts that the calibration text picks most."""
        _, ids = self.inputs.layer(layer)
        picks = np.bincount(ids.reshape(-1), minlength=experts)
        hot = np.zeros(experts, np.bool_)
        hot[np.argsort(-picks, kind="stable")[: round(HOT * experts)]] = True
        return hot

    def rounded(self, name: str, bits: int, how: Callable[[int, dict[str, Floats]], dict[str, Rounded]]) -> Path:
        """A pack with an 8-bit trunk and records of `bits`, filled by `how`."""

        def rounding(layer: int, weights: dict[str, Floats]) -> Callable[[str, int], AffineMatrix]:
            found = how(layer, weights)
            return lambda part, expert: found[part].matrix(expert, bits)

        return rewritten(self.checkpoint, self.recipe(Recipe(bits, 8)), self.work / name, rounding)

    def importance(self, layer: int, weights: dict[str, Floats]) -> dict[str, NDArray[np.float64]]:
        """Second moments of the inputs of gate, up and down, by expert."""
        x, ids = self.inputs.layer(layer)
        rising = moments(x, ids, len(weights["gate"]))
        return {"gate": rising, "up": rising, "down": inner_moments(x, ids, weights["gate"], weights["up"])}

    def search(self, layer: int, weights: dict[str, Floats], *, weighted: bool, bits: int = 2) -> dict[str, Rounded]:
        if not weighted:
            return {part: searched(w, bits) for part, w in weights.items()}
        h = self.importance(layer, weights)
        return {
            part: searched(w, bits, np.diagonal(h[part], axis1=1, axis2=2).astype(np.float32))
            for part, w in weights.items()
        }

    def gptq(self, layer: int, weights: dict[str, Floats], *, search: bool, bits: int = 2) -> dict[str, Rounded]:
        h = self.importance(layer, weights)
        return {part: compensated(w, bits, h[part], search=search) for part, w in weights.items()}

    def tiers(self, layer: int, weights: dict[str, Floats], *, nested: bool) -> dict[str, Rounded]:
        """Hot experts at 4 bits; the others the upper plane of the same codes, or error-compensated at 2."""
        fine = {part: nearest(w, 4) for part, w in weights.items()}
        coarse = {part: high_plane(r) for part, r in fine.items()} if nested else self.gptq(layer, weights, search=True)
        hot = self.hot(layer, len(weights["gate"]))[:, None, None]
        return {
            part: Rounded(
                np.where(hot, fine[part].codes, coarse[part].codes),
                np.where(hot, fine[part].scales, coarse[part].scales),
                np.where(hot, fine[part].biases, coarse[part].biases),
            )
            for part in weights
        }


def rungs(ladder: Ladder, top_k: int) -> Iterator[Rung]:
    """Every rung, the most precise first."""

    def plain(experts: int, trunk: int) -> Callable[[], Path]:
        return lambda: ladder.recipe(Recipe(experts, trunk))

    for experts in (8, 4, 2):
        for trunk in (16, 8, 4):
            name = f"experts {experts}, trunk {trunk}"
            yield Rung(name, "bits", plain(experts, trunk), main=(experts, trunk) in MAIN)
    for trunk in (8, 4):
        yield Rung(
            f"experts 4, trunk {trunk}, router 4",
            "parts",
            lambda trunk=trunk: ladder.recipe(PartRecipe(4, trunk, ROUTER, 4)),
        )
    for name, parts in PARTS_OF_TRUNK.items():
        yield Rung(
            f"experts 4, trunk 4, {name} 8",
            "parts",
            lambda parts=parts: ladder.recipe(PartRecipe(4, 4, parts, 8)),
        )
    for fewer in (top_k - 1, top_k // 2):
        for experts, trunk in ((8, 16), (4, 4)):
            yield Rung(f"experts {experts}, trunk {trunk}, top-{fewer}", "top-k", plain(experts, trunk), fewer)
    yield Rung(
        "experts 4 by GPTQ with scale search, trunk 8",
        "rounding",
        lambda: ladder.rounded("e4-gptq", 4, lambda i, w: ladder.gptq(i, w, search=True, bits=4)),
    )
    two: dict[str, Callable[[int, dict[str, Floats]], dict[str, Rounded]]] = {
        "scale search": lambda i, w: ladder.search(i, w, weighted=False),
        "scale search, weighted by activations": lambda i, w: ladder.search(i, w, weighted=True),
        "GPTQ": lambda i, w: ladder.gptq(i, w, search=False),
        "GPTQ with scale search": lambda i, w: ladder.gptq(i, w, search=True),
    }
    for name, how in two.items():
        yield Rung(
            f"experts 2 by {name}, trunk 8",
            "rounding",
            lambda name=name, how=how: ladder.rounded(f"e2-{name.replace(' ', '-').replace(',', '')}", 2, how),
        )
    for name, nested in (("upper plane", True), ("GPTQ with scale search", False)):
        yield Rung(
            f"hot experts 4, others 2 ({name}), trunk 8",
            "rounding",
            lambda nested=nested: ladder.rounded(
                f"e42-{'nested' if nested else 'gptq'}", 4, lambda i, w: ladder.tiers(i, w, nested=nested)
            ),
            mixed=True,
        )


def token_bytes(ladder: Ladder, rung: Rung, engine: TextEngine, trunk: int) -> int:
    """What one token touches: its experts' records and the trunk."""
    directory, config = engine.directory, engine.engine.config
    manifest = Manifest.read(directory)
    records = [manifest.layout(i).record_bytes for i in range(config.layers)]
    if rung.mixed:
        fine, coarse = (Manifest.read(ladder.recipe(Recipe(b, 8))).layout(0).record_bytes for b in (4, 2))
        records = []
        for layer in range(config.layers):
            hot = ladder.hot(layer, config.experts)[ladder.inputs.layer(layer)[1]].mean()
            records.append(round(hot * fine + (1 - hot) * coarse))
    return config.top_k * sum(records) + trunk
