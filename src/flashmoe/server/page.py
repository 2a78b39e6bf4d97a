"""The web page at `/`: a few static files, and headers that let it load nothing but them.

Invariant: what is served was read when the server began, so no request names a file. Knows no model.
"""

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_MODULES = ("api", "chat", "dom", "grid", "inline", "kept", "live", "log", "markdown", "page", "turn")
_FILES = ("index.html", "page.css", "icon.svg", *(f"{name}.js" for name in _MODULES))
_PATHS = {"/" if name == "index.html" else f"/page/{name}": name for name in _FILES}
PAGE_PATHS = frozenset(_PATHS)
"""Open to everyone: they hold no secret, and the page asks for the key."""
# Text that a model wrote can become no markup even by mistake: trusted types forbid the ways to make it so.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_routes() -> list[Route]:
    """One route a file."""
    return [_route(path, name) for path, name in _PATHS.items()]


def _route(path: str, name: str) -> Route:
    content = files("flashmoe.server").joinpath("page_files", name).read_bytes()
    media_type = _TYPES[name[name.rindex(".") :]]

    async def send(request: Request) -> Response:  # noqa: ARG001
        return Response(content, media_type=media_type, headers=_HEADERS)

    return Route(path, send, methods=["GET"])
