"""The Jinja environment in which a checkpoint's template runs. A template comes from a stranger: it is not trusted.

It renders as transformers renders (trim_blocks, lstrip_blocks, loop controls, `tojson`, `raise_exception`,
`strftime_now`, the `generation` tag), and reaches nothing else: no attribute that begins with an underscore, no change
of the values it is given. Every turn of a loop and every call is counted, so that no template runs for ever; products
and the whole output are bounded in size. Not bounded: what a single filter or string method can allocate at once.
Knows Jinja, not chat.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_STEPS = 5_000_000
"""Loop turns and calls of one rendering, about a second; a conversation of 10,000 messages takes some 200,000."""
MAX_CHARACTERS = 64_000_000
"""Length of a rendering, and of a string or list that `*` makes."""
_WIDE_FIELD = re.compile(r"%[^a-zA-Z%]*(\d{7}|\*)")
_steps: ContextVar[list[int]] = ContextVar("_steps")


class Template:
    """A compiled template. SecurityError, jinja2.TemplateError and what operators raise come through `render`.

    variables: the names that it looks up in what it is given.
    """

    def __init__(self, source: str) -> None:
        environment = _Environment()
        tree = _CountLoops().visit(environment.parse(source))
        self.variables = frozenset(find_undeclared_variables(tree)) - environment.globals.keys()
        self._template = environment.template_class.from_code(
            environment, environment.compile(tree), environment.make_globals(None)
        )

    def render(self, variables: Mapping[str, Any]) -> str:
        token = _steps.set([0])
        try:
            pieces: list[str] = []
            length = 0
            for piece in self._template.generate(variables):
                pieces.append(piece)
                length += len(piece)
                if length > MAX_CHARACTERS:
                    raise SecurityError(f"its output is longer than {MAX_CHARACTERS:,} characters")
            return "".join(pieces)
        finally:
            _steps.reset(token)


def _count() -> None:
    steps = _steps.get()
    steps[0] += 1
    if steps[0] > MAX_STEPS:
        raise SecurityError(f"it does not end within {MAX_STEPS:,} steps")


@pass_context  # without a context Jinja would call it once, while compiling, for a literal list
def _counted(_context: Context, items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _count()
        yield item


class _CountLoops(NodeTransformer):
    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "_counted", [], [], None, None, lineno=node.lineno)
        return node


class _Generation(Extension):
    """`{% generation %}` marks the assistant's own words for training; it renders as what is inside."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.filters["_counted"] = _counted
        self.filters["tojson"] = _tojson
        del self.globals["lipsum"]
        self.globals["dict"] = _dict
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _count()
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if not (isinstance(sequence, str | list | tuple) and isinstance(times, int)):
                    continue
                if len(sequence) * times > MAX_CHARACTERS:
                    raise SecurityError("it repeats a string or list too often")
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * right > 10_000:
                raise SecurityError("it raises a number to too high a power")
        elif operator == "%" and isinstance(left, str) and _WIDE_FIELD.search(left):
            raise SecurityError("it pads a string too far")
        return super().call_binop(context, operator, left, right)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _raise_exception(message: Any) -> None:
    raise jinja2.TemplateError(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
