"""Whether a server keeps its memory: 10,000 cheap requests and 500 generations: `soak_server.py DIR`.

Prints the resident memory of the server's process after each tenth; it runs in a process of its own.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil

CHEAP, GENERATIONS, TENTHS = 10_000, 500, 10


def chat(i: int) -> dict[str, object]:
    return {
        "model": "m",
        "messages": [{"role": "user", "content": f"Question {i} " + "ship " * (i % 40)}],
        "max_tokens": 8,
        "stream": i % 2 == 0,
    }


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("Usage: soak_server.py DIR")
    code = "from flashmoe.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", sys.argv[1], "--name", "m", "--port", "0", "--context", "1024"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    print(process.stderr.readline().strip())
    url = process.stderr.readline().split()[2].removesuffix("/v1,")
    resident = psutil.Process(process.pid).memory_info
    with httpx.Client(base_url=url, timeout=120) as client, ThreadPoolExecutor(4) as pool:

        def cheap(i: int) -> int:
            return client.get(("/health", "/v1/models", "/metrics", "/nothing")[i % 4]).status_code

        def generation(i: int) -> int:
            return client.post("/v1/chat/completions", json=chat(i)).status_code

        for name, work, count in (("generations", generation, GENERATIONS), ("cheap requests", cheap, CHEAP)):
            print(f"{name}: resident MB after each tenth", end="", flush=True)
            for tenth in range(TENTHS):
                statuses = list(pool.map(work, range(tenth * count // TENTHS, (tenth + 1) * count // TENTHS)))
                assert set(statuses) <= {200, 404}, set(statuses)
                print(f" {resident().rss / 1e6:.0f}", end="", flush=True)
            print()
    process.terminate()
    process.communicate()


if __name__ == "__main__":
    main()
