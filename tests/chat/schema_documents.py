"""JSON schemas and values for property tests: small alphabets, so that values often fit and often do not."""

from hypothesis import strategies as st

NAMES = st.sampled_from(["a", "b", "c"])
STRINGS = st.sampled_from(["", "a", "b", "ab", "true", "5", "é\n"])
SCALARS = st.none() | st.booleans() | st.integers(-3, 12) | st.sampled_from([0.5, 2.0, -1.25]) | STRINGS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)
TYPES = st.sampled_from(["string", "boolean", "integer", "number", "array", "object", "null"])
COUNTS = st.integers(0, 3)


def _some(**keywords):
    return st.fixed_dictionaries({}, optional=keywords)


_STRING = _some(minLength=COUNTS, maxLength=COUNTS).map(lambda s: {"type": "string", **s})
_NUMBER = _some(
    minimum=st.integers(-3, 5), maximum=st.integers(0, 12), exclusiveMinimum=st.integers(-3, 5),
    exclusiveMaximum=st.integers(0, 12), multipleOf=st.sampled_from([1, 2, 3, 0.5]),
)  # fmt: skip
_NUMBER = st.tuples(_NUMBER, st.sampled_from(["integer", "number"])).map(lambda p: {"type": p[1], **p[0]})
_VALUES = st.lists(VALUES, min_size=1, max_size=3).map(lambda v: {"enum": v}) | VALUES.map(lambda v: {"const": v})
_TYPES = TYPES.map(lambda t: {"type": t}) | st.lists(TYPES, min_size=1, max_size=3, unique=True).map(
    lambda t: {"type": t}
)
_LEAVES = st.one_of(_STRING, _NUMBER, _VALUES, _TYPES, st.just({}), st.booleans())


def _objects(inner):
    return _some(
        type=st.just("object"), properties=st.dictionaries(NAMES, inner, max_size=3),
        required=st.lists(NAMES, max_size=2, unique=True), additionalProperties=inner,
        minProperties=COUNTS, maxProperties=COUNTS,
    )  # fmt: skip


def _arrays(inner):
    return _some(
        type=st.just("array"),
        items=inner,
        prefixItems=st.lists(inner, min_size=1, max_size=2),
        minItems=COUNTS,
        maxItems=COUNTS,
    )


def _combined(inner, later):
    """later: what may hold for the same value; a reference there must not lead back."""
    branches = st.lists(inner | later, min_size=1, max_size=3)
    combined = _some(allOf=branches, anyOf=branches, oneOf=branches)
    return st.tuples(combined, _objects(inner) | _STRING | st.just({})).map(lambda p: {**p[1], **p[0]})


def _insides(references, later):
    """What is inside of objects and arrays."""
    return st.recursive(
        _LEAVES | references, lambda part: st.one_of(_objects(part), _arrays(part), _combined(_LEAVES, later)),
        max_leaves=5,
    )  # fmt: skip


def _schemas(references, later):
    inner = _insides(references, later)
    return st.one_of(_LEAVES, _objects(inner), _arrays(inner), _combined(_LEAVES | _objects(inner), later))


@st.composite
def documents(draw, arguments=False):
    """A schema that may refer to three definitions, which may refer to each other inside of properties and items, and
    at the same value to later ones only. arguments: it is one of objects."""
    anywhere = st.sampled_from(["#", "#/$defs/D0", "#/$defs/D1", "#/$defs/D2"]).map(lambda r: {"$ref": r})
    definitions = {}
    for i in range(3):
        later = st.sampled_from([{"$ref": f"#/$defs/D{j}"} for j in range(i + 1, 3)] or [{}])
        definitions[f"D{i}"] = draw(_schemas(anywhere, later))
    later = st.sampled_from([{"$ref": f"#/$defs/D{j}"} for j in range(3)])
    root = draw(_objects(_insides(anywhere, later)) if arguments else _schemas(anywhere, later))
    if not isinstance(root, dict):
        return root
    return {**root, **({"type": "object"} if arguments else {}), "$defs": definitions}
