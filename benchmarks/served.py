"""A server in a process of its own, for benchmarks of it, and a client that needs nothing to be installed."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any


@contextmanager
def serving(model: str, *options: str) -> Iterator[tuple[str, int]]:
    """Its address and process id; the model is called `m`. Prints what the engine chose."""
    code = "from flashmoe.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", model, "--name", "m", "--port", "0", "--context", "1024", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        print(process.stderr.readline())
        yield process.stderr.readline().split()[2].removesuffix("/v1,"), process.pid
    finally:
        process.terminate()
        process.communicate()


class Client:
    """Of the server at an address: one connection for each thread that asks."""

    def __init__(self, url: str) -> None:
        self._address, self._own = url.removeprefix("http://"), threading.local()

    def ask(self, method: str, path: str, body: Any = None) -> HTTPResponse:
        """The response, whose body must be read before the thread asks again."""
        if not hasattr(self._own, "connection"):
            self._own.connection = HTTPConnection(self._address, timeout=600)
        content = None if body is None else json.dumps(body)
        self._own.connection.request(method, path, content, {"Content-Type": "application/json"})
        return self._own.connection.getresponse()
