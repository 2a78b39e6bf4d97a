"""Tensor names as checkpoints publish them, brought to the text-only Hugging Face form.

A wrapper for images puts a prefix before every name of the text model (`model.language_model.`; MLX:
`language_model.model.`); tensors of other towers are skipped. Knows prefixes, not models.
"""

from collections.abc import Iterable

from flashmoe.errors import FormatError

_PREFIXES = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
)
_SKIPPED = {
    "vision": ("model.visual.", "visual.", "model.vision_tower.", "vision_tower.", "language_model.visual."),
    "multi-token prediction": ("mtp.", "model.mtp.", "language_model.mtp."),
}


def canonical(name: str) -> str:
    """`model.language_model.layers.0.x` and `language_model.model.layers.0.x` -> `model.layers.0.x`."""
    for prefix, replacement in _PREFIXES:
        if name.startswith(prefix):
            return replacement + name.removeprefix(prefix)
    return name


def tower(name: str) -> str | None:
    """`vision` or `multi-token prediction` when a tensor is no part of the text decoder, else None."""
    return next((what for what, prefixes in _SKIPPED.items() if name.startswith(prefixes)), None)


def text_tensors(names: Iterable[str]) -> tuple[dict[str, str], dict[str, int]]:
    """Canonical name -> published name of the text decoder's tensors, and how many of each tower were left out.

    Raises FormatError for two tensors of one canonical name.
    """
    found: dict[str, str] = {}
    skipped: dict[str, int] = {}
    for name in names:
        if what := tower(name):
            skipped[what] = skipped.get(what, 0) + 1
        elif (other := found.setdefault(canonical(name), name)) != name:
            raise FormatError(f"The checkpoint holds one tensor under two names, {other!r} and {name!r}. Remove one.")
    return found, skipped
