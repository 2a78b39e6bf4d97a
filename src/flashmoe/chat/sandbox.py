"""The process in which chat templates run: run this file, and it compiles and renders until its standard input ends.

A template is a program from a stranger. It renders here as transformers renders (trim_blocks, lstrip_blocks, loop
controls, `tojson`, `raise_exception`, `strftime_now`, the `generation` tag) and reaches nothing else: no attribute that
begins with an underscore, no change of the values that it is given. The kernel bounds what it takes: processor time of
one request, after which the process dies, and memory of the process. Knows Jinja, not chat; imports nothing of this
package, so that it starts fast. The other side is renderer.py.
"""

import json
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any, BinaryIO

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_BYTES = 1 << 30
MAX_CHARACTERS = 64_000_000
"""Length of a rendering."""
_MESSAGE_CHARACTERS = 500


class _Generation(Extension):
    """`{% generation %}` marks the assistant's own words for training; it renders as what is inside."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Dict:
    """`dict` as a template sees it: a class would lead to its own bases."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class _Environment(ImmutableSandboxedEnvironment):
    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.filters["tojson"] = _tojson
        del self.globals["lipsum"]
        self.globals["dict"] = _Dict()
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: Any) -> None:
    raise jinja2.TemplateError(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


@lru_cache(maxsize=8)
def _compiled(source: str) -> tuple[jinja2.Template, list[str]]:
    """The template, and the names that it looks up in what it is given."""
    environment = _Environment()
    names = find_undeclared_variables(environment.parse(source)) - environment.globals.keys()
    return environment.from_string(source), sorted(names)


def _compile(source: str) -> dict[str, Any]:
    try:
        return {"variables": _compiled(source)[1]}
    except jinja2.TemplateSyntaxError as error:
        return _failure("syntax", error.message) | {"line": error.lineno}
    except Exception as error:  # Jinja, and Python's compiler behind it, raise many kinds on hostile input
        return _failure("compile", error)


def _render(source: str, values: dict[str, Any]) -> dict[str, Any]:
    try:
        pieces: list[str] = []
        length = 0
        for piece in _compiled(source)[0].generate(values):
            pieces.append(piece)
            length += len(piece)
            if length > MAX_CHARACTERS:
                return _failure("unsafe", f"its output is longer than {MAX_CHARACTERS:,} characters")
        return {"text": "".join(pieces)}
    except SecurityError as error:
        return _failure("unsafe", error)
    except jinja2.TemplateError as error:
        return _failure("refused", error.message)
    except (RecursionError, MemoryError):
        return _failure("unsafe", "it needs too much memory")
    except Exception as error:  # what it raises is its input's or its own fault
        return _failure("failed", error)


def _failure(kind: str, what: Any) -> dict[str, Any]:
    return {"failure": kind, "message": str(what)[:_MESSAGE_CHARACTERS]}


def _bound_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    with suppress(ValueError, OSError):  # macOS holds no process to it
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """A line of JSON for each line of JSON."""
    do: dict[str, Callable[..., dict[str, Any]]] = {"compile": _compile, "render": _render}
    while (line := requests.readline()).endswith(b"\n"):
        request = json.loads(line)
        # Of the process's own processor time, so that a busy machine ends nobody. The signal kills it whatever it does.
        signal.setitimer(signal.ITIMER_PROF, request.pop("seconds"))
        try:
            answer = json.dumps(do[request.pop("do")](**request)).encode()
        except MemoryError:
            answer = json.dumps(_failure("unsafe", "it needs too much memory")).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(answer + b"\n")
        answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    _bound_memory()
    _serve(sys.stdin.buffer, sys.stdout.buffer)
