"""What hostile clients do to a server, and what others feel of it: `abuse_server.py DIR [OPTIONS]`.

Starts `flashmoe serve` as a process of its own, with at most 1,024 descriptors, and does to it, one after the other,
what PARTS names; another process asks for /health all the while, on a new connection each time. Prints, for each part,
how the requests were answered, how many signs of life came, the slowest of them, and the memory of the server's
process; in the end how long it took to end on SIGTERM while all of it was done at once, and how much it logged. OPTIONS
are those of `serve`.
"""

import argparse
import asyncio
import http.client
import json
import multiprocessing
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

import httpx
import psutil

DESCRIPTORS = 1024
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
JSON = {"Content-Type": "application/json"}
SECONDS = 10
"""For those who never finish to be there; less than the server's own deadlines."""
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Count to a thousand."}], "max_tokens": 32}
STOPS = ["\n" * 100_000 + str(i) for i in range(16)]
MOST_STOPS = ["\n" * 250 + str(i) for i in range(16)]
WIDE = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(600)}}


class Clients:
    """Those of one part. counts: how they were answered."""

    def __init__(self, url: str) -> None:
        self.url, self.counts = url, Counter[str]()
        self._where = urlsplit(url).hostname or "", urlsplit(url).port or 0
        self._http = httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None))

    async def post(self, body: bytes) -> None:
        async def answer() -> str:
            response = await self._http.post(f"{self.url}/v1/chat/completions", content=body, headers=JSON)
            return str(response.status_code)

        await self._count(answer())

    async def ask(self, **fields: object) -> None:
        await self.post(json.dumps({**CHAT, **fields}).encode())

    async def begin(self, content: bytes, seconds: float = 0.0, more: bytes = b"") -> None:
        """Say so much, then for some seconds nothing or a little, then go."""

        async def say() -> str:
            reader, writer = await asyncio.open_connection(*self._where)
            try:
                writer.write(content)
                end = perf_counter() + seconds
                while perf_counter() < end and not reader.at_eof():
                    writer.write(more)
                    await writer.drain()
                    await asyncio.sleep(0.5)
                return "cut off" if reader.at_eof() else "went away"
            finally:
                writer.transport.abort()

        await self._count(say())

    async def _count(self, answer: Awaitable[str]) -> None:
        try:
            how = await answer
        except (OSError, httpx.TransportError):
            how = "cut off"
        self.counts[how] += 1


async def _all(*clients: Awaitable[None]) -> None:
    await asyncio.gather(*clients)


def _large(values: bytes, size: int) -> bytes:
    body = json.dumps({**CHAT, "chat_template_kwargs": {"enable_thinking": ["HERE"]}}).encode()
    return body.replace(b'"HERE"', values * (size // len(values)) + b"1")


PARTS: dict[str, Callable[[Clients], Awaitable[None]]] = {
    "nothing": lambda _: asyncio.sleep(3),
    "300 heads, byte by byte": lambda c: _all(*(c.begin(HEAD + b"X: ", SECONDS, b"x") for _ in range(300))),
    "300 bodies, byte by byte": lambda c: _all(
        *(c.begin(HEAD + b"Content-Length: 100000\r\n\r\n{", SECONDS, b" ") for _ in range(300))
    ),
    "1,100 sockets": lambda c: _all(*(c.begin(HEAD, SECONDS) for _ in range(1100))),
    "300 streams": lambda c: _all(*(c.ask(stream=True) for _ in range(300))),
    "300 who watch": lambda c: _all(
        *(c.begin(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n", SECONDS) for _ in range(300)),
        *(c.ask(max_tokens=200) for _ in range(50)),
    ),
    "500 disconnects": lambda c: _all(
        *(c.begin(HEAD + b"Content-Length: 1000\r\n\r\n{" + b" " * (i % 900), i % 7 / 10) for i in range(500))
    ),
    "20 times 16 stop strings of 100,000 newlines": lambda c: _all(*(c.ask(stop=STOPS) for _ in range(20))),
    "20 times the longest stop strings": lambda c: _all(*(c.ask(stop=MOST_STOPS) for _ in range(20))),
    "20 schemas of 600 properties": lambda c: _all(
        *(c.ask(response_format=_form({**WIDE, "title": str(i)})) for i in range(20))
    ),
    "20 schemas without an answer": lambda c: _all(*(c.ask(response_format=_form({"$ref": "#"})) for _ in range(20))),
    "20 bodies of 4 MB, a million lists": lambda c: _all(*(c.post(_large(b"[],", 4_000_000)) for _ in range(20))),
    "20 bodies of 4 MB, of text": lambda c: _all(
        *(c.ask(messages=[{"role": "user", "content": "ship " * 800_000}]) for _ in range(20))
    ),
    "20 bodies of 28 MB": lambda c: _all(*(c.post(_large(b"[],", 28_000_000)) for _ in range(20))),
    "100 bodies nested 900 deep": lambda c: _all(*(c.post(_large(b'{"a":' * 900, 4500)) for _ in range(100))),
}


def _form(schema: object) -> object:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def watch(url: str, over: Event, told: "Queue[tuple[int, float]]") -> None:
    """Ask for signs of life until it is over; tell how many came, and how long the slowest took."""
    slowest, count, where = 0.0, 0, urlsplit(url).netloc
    while not over.is_set():
        begun = perf_counter()
        client = http.client.HTTPConnection(where, timeout=600)
        client.request("GET", "/health")
        assert client.getresponse().status == 200
        client.close()
        slowest, count = max(slowest, perf_counter() - begun), count + 1
        over.wait(0.02)
    told.put((count, slowest))


def _few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--no-sessions", action="store_const", const=["--no-sessions"], default=[], help="as of serve")
    arguments, others = parser.parse_known_args()
    options = [arguments.directory, "--name", "m", "--port", "0", *arguments.no_sessions, *others]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    code = "from flashmoe.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", *options]
    with tempfile.TemporaryDirectory() as directory, (Path(directory) / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, preexec_fn=_few_descriptors)
        try:
            abuse(_address(Path(log.name), process), process)
            print(f"It logged {Path(log.name).stat().st_size} bytes, of them as the last: {_last_line(Path(log.name))}")
        finally:
            process.kill()
            process.wait()


def _last_line(log: Path) -> str:
    return log.read_text().splitlines()[-1]


def _address(log: Path, process: "subprocess.Popen[bytes]") -> str:
    """Where it serves, once it does."""
    while process.poll() is None:
        if found := re.search(r"(http://\S+)/v1", log.read_text()):
            return found[1]
        multiprocessing.Event().wait(0.1)
    sys.exit("The server did not begin.")


def abuse(url: str, process: "subprocess.Popen[bytes]") -> None:
    resident = psutil.Process(process.pid).memory_info
    for name, part in PARTS.items():
        over = multiprocessing.Event()
        told: Queue[tuple[int, float]] = multiprocessing.Queue()
        watcher = multiprocessing.Process(target=watch, args=(url, over, told))
        watcher.start()
        clients, begun = Clients(url), perf_counter()
        asyncio.run(_wait(part(clients)))
        seconds = perf_counter() - begun
        over.set()
        count, slowest = told.get()
        watcher.join()
        answers = ", ".join(f"{number} {how}" for how, number in sorted(clients.counts.items())) or "nobody"
        print(
            f"| {name} | {answers} | {seconds:.1f} s | {count} | {slowest:.3f} s | {resident().rss / 1e6:.0f} MB |",
            flush=True,
        )
    asyncio.run(_end(url, process))


async def _wait(part: Awaitable[None]) -> None:
    await part


async def _end(url: str, process: "subprocess.Popen[bytes]") -> None:
    """A signal while all of it is done at once."""
    clients = Clients(url)
    tasks = [asyncio.ensure_future(part(clients)) for part in PARTS.values()]
    await asyncio.sleep(3)
    begun = perf_counter()
    process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(process.wait, 600)
    print(f"With all of that at once it ended {perf_counter() - begun:.1f} s after SIGTERM, with {process.returncode}.")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    main()
