"""The part of docs/server.md that says of every field what becomes of it, made from the types that check requests.

`python -m flashmoe.server.field_docs docs/server.md` writes it anew between its marks.
"""

import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from flashmoe.server.chat_types import ChatRequest
from flashmoe.server.fields import Body, Use, rows
from flashmoe.server.messages_types import MessagesRequest
from flashmoe.server.openai_types import CompletionRequest
from flashmoe.server.responses_types import ResponsesRequest

BEGIN, END = "<!-- fields: made by flashmoe.server.field_docs -->\n", "<!-- end of fields -->\n"
BODIES: dict[str, type[Body]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/messages": MessagesRequest,
}


def markdown() -> str:
    """A section for each interface."""
    return "\n".join(_section(path, list(rows(kind))) for path, kind in BODIES.items())


def renewed(page: str) -> str:
    """The page with the part between the marks made anew."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + markdown() + END + rest.partition(END)[2]


def _section(path: str, found: Sequence[tuple[str, Use]]) -> str:
    used = ", ".join(f"`{name}`" for name, use in found if use.kind == "used" and name.isidentifier())
    table = ["| | fields | why |", "| --- | --- | --- |"]
    for kind in ("hint", "refused"):
        by_reason: dict[str, list[str]] = {}
        for name, use in found:
            if use.kind == kind:
                by_reason.setdefault(use.why, []).append(_named(name, use))
        table += [f"| {kind} | {', '.join(names)} | {why} |" for why, names in by_reason.items()]
    listed = textwrap.fill(f"Used: {used}.", 120, break_long_words=False, break_on_hyphens=False)
    return f"### Fields of `{path}`\n{listed}\n\n" + "\n".join(table) + "\n"


def _named(name: str, use: Use) -> str:
    path, _, tag = name.partition(" of type ")
    text = f"`{path}` of type `{tag}`" if tag else f"`{path}`"
    harmless = ", ".join(f"`{json.dumps(value)}`" for value in use.harmless)
    return f"{text} (but for {harmless})" if harmless and use.kind == "refused" else text


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(renewed(target.read_text(encoding="utf-8")), encoding="utf-8")
