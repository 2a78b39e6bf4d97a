"""A server in a process of its own, for benchmarks of it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


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
