"""What becomes of each field of a request, said where its type is said.

A field is one of three things. Used: its annotation is plain. A hint: it cannot change what a correct answer is; any
JSON is taken for it, dropped, and told to the client. Refused: a wish that would change the answer and cannot be met.
Invariant: a field that is in no type is refused by name, so nothing is dropped in silence. The checks, the OpenAPI
document and the table in docs/server.md are all made from these annotations. Knows no API.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import Meta, Struct

from flashmoe.server.errors import ApiError

_KEY = "use"
TEXT_ONLY = "this engine reads text only"


@dataclass(frozen=True)
class Use:
    """kind: what becomes of a field; why: the reason; harmless: values that ask for nothing, beside null."""

    kind: Literal["used", "hint", "refused"]
    why: str = ""
    harmless: tuple[Any, ...] = ()


USED = Use("used")


def hint(why: str, *harmless: Any) -> Meta:
    """For Annotated[Any, ...]: accepted, whatever it is, and dropped; what is harmless is not worth telling."""
    schema = {"x-flashmoe-use": "hint"}
    return Meta(
        description=f"A hint without effect: {why}.", extra_json_schema=schema, extra={_KEY: Use("hint", why, harmless)}
    )


def refused(why: str, *harmless: Any) -> Meta:
    """For Annotated[Any, ...]: a 400 with this reason, except for null and what is harmless."""
    schema = {"x-flashmoe-use": "refused", "enum": [None, *harmless]}
    use = Use("refused", why, harmless)
    return Meta(description=f"Not supported: {why}.", extra_json_schema=schema, extra={_KEY: use})


class Body(Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of a request. Every JSON object in it that this server reads is a Struct too."""

    model: str

    @staticmethod
    def prepare(raw: dict[str, Any]) -> None:
        """Put what clients may leave out into the JSON, before its types are checked."""


class RefusedPart(Struct):
    """A part of a conversation that no model here can read. why: the reason."""

    why: ClassVar[str] = TEXT_ONLY


@cache
def _uses(kind: type[Struct]) -> dict[str, tuple[str, Use]]:
    """Of each attribute: its name in JSON, and what becomes of it."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    uses = {}
    for field in info.fields:
        extra = field.type.extra if isinstance(field.type, msgspec.inspect.Metadata) else None
        uses[field.name] = field.encode_name, (extra or {}).get(_KEY, USED)
    return uses


def dropped(body: Body) -> list[str]:
    """The hints that a body holds, as paths. Raises ApiError 400 for a wish that cannot be met."""
    hints: dict[str, None] = {}
    _look(body, "", "", hints)
    return list(hints)


def _look(value: Struct, where: str, path: str, hints: dict[str, None]) -> None:
    """where: with the numbers of list entries; path: without."""
    if isinstance(value, RefusedPart):
        kind = value.__struct_config__.tag
        raise ApiError(400, f"{where} is of the type {kind}: {value.why}.", where, "unsupported_value")
    for attribute, (name, use) in _uses(type(value)).items():
        found = getattr(value, attribute)
        if found is None or (use.kind != "used" and found in use.harmless):
            continue
        inner, inner_path = f"{where}.{name}".lstrip("."), f"{path}.{name}".lstrip(".")
        if use.kind == "hint":
            hints[inner_path] = None
        elif use.kind == "refused":
            raise ApiError(400, f"{inner} is not supported here: {use.why}.", inner, "unsupported_parameter")
        elif isinstance(found, Struct):
            _look(found, inner, inner_path, hints)
        elif isinstance(found, list):
            for i, entry in enumerate(found):
                if isinstance(entry, Struct):
                    _look(entry, f"{inner}[{i}]", f"{inner_path}[]", hints)


def rows(kind: type[Struct], path: str = "") -> Iterator[tuple[str, Use]]:
    """Every field that requests of this kind may have, each path once for each thing that may become of it."""
    return iter({(name, use.kind, use.why): (name, use) for name, use in _rows(kind, path)}.values())


def _rows(kind: type[Struct], path: str) -> Iterator[tuple[str, Use]]:
    if issubclass(kind, RefusedPart):
        yield f"{path} of type {kind.__struct_config__.tag}", Use("refused", kind.why)
        return
    types = msgspec.inspect.type_info(kind)
    assert isinstance(types, msgspec.inspect.StructType)
    if types.tag_field:
        yield f"{path}.{types.tag_field}".lstrip("."), USED
    for field, (name, use) in zip(types.fields, _uses(kind).values(), strict=True):
        inner = f"{path}.{name}".lstrip(".")
        yield inner, use
        if use.kind == "used":
            for struct, suffix in _structs(field.type):
                yield from _rows(struct, inner + suffix)


def _structs(found: msgspec.inspect.Type, suffix: str = "") -> Iterator[tuple[type[Struct], str]]:
    """The objects that a field may hold, and where in it."""
    if isinstance(found, msgspec.inspect.Metadata):
        yield from _structs(found.type, suffix)
    elif isinstance(found, msgspec.inspect.UnionType):
        for option in found.types:
            yield from _structs(option, suffix)
    elif isinstance(found, msgspec.inspect.ListType):
        yield from _structs(found.item_type, f"{suffix}[]")
    elif isinstance(found, msgspec.inspect.StructType):
        yield found.cls, suffix
