"""Real coding agents against a server of ours: each reads a file, edits it and runs its test.

    python examples/agents --npm DIR [--client claude ...] [--keep DIR]

DIR is where `npm install @anthropic-ai/claude-code @openai/codex opencode-ai @qwen-code/qwen-code` was run. The network
is off but for loopback: the program starts itself anew in a network namespace of its own. The demo model is too small
to want an agent's task, so its answers are prepared (replay.py); everything else is what `flashmoe serve` does. Printed
is what each client sent that the server took as a hint or left out, what the client said last, and whether the file is
mended. Needs the safetensors package, and unshare and ip of the system.
"""

import argparse
import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import click
from clients import CLIENTS, MODEL, RIGHT, WRONG, Client, surroundings
from replay import CONTEXT, ReplayingScheduler, small_model

import flashmoe
from flashmoe.server.app import make_app
from flashmoe.server.run import HttpServer, bind
from flashmoe.server.service import Service

HANG = 900
_ISOLATED = "--isolated"


class Told(logging.Handler):
    """What the server's log says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Steps:
    """The script of one client: its calls in order, then a word; a word alone where the tools are not offered."""

    def __init__(self, client: Client, project: Path) -> None:
        self._steps, self.prompts = client.steps(project), list[str]()

    def __call__(self, prompt: str) -> str:
        self.prompts.append(prompt)
        opening = "" if prompt.rstrip().endswith("</think>") else "I go on.\n</think>\n\n"
        done = prompt.partition("<|im_start|>assistant")[2].count("<tool_response>")
        if done >= len(self._steps) or f'"name": "{self._steps[done][0]}"' not in prompt:
            return f"{opening}Done."
        name, arguments = self._steps[done]
        written = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments.items())
        return f"{opening}<tool_call>\n<function={name}>\n{written}</function>\n</tool_call>"


@contextlib.contextmanager
def serving(model: Path, script: Steps) -> Iterator[str]:
    """The address of a server whose answers the script writes."""
    with flashmoe.load(model, context=CONTEXT, snapshots=None) as text:
        scheduler = ReplayingScheduler(text.engine, text.tokenizer, script, prefixes=text.engine.session_cache())
        listener = bind("127.0.0.1", 0)
        server = HttpServer(make_app(Service(text, scheduler, MODEL)), scheduler.cancel)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
            scheduler.close()
            listener.close()


def attempt(client: Client, binary: Path, model: Path, place: Path) -> bool:
    """Give one client the task; say what came of it."""
    project, home = place / "project", place / "home"
    project.mkdir(parents=True)
    home.mkdir()
    (project / "calc.py").write_text(f"def add(a, b):\n    {WRONG}\n")
    (project / "test_calc.py").write_text("from calc import add\n\nassert add(2, 3) == 5\nprint('passed')\n")
    told, script = Told(), Steps(client, project)
    log = logging.getLogger("flashmoe.server")
    log.addHandler(told)
    begin = time.monotonic()
    try:
        with serving(model, script) as url:
            done = subprocess.run(
                [binary, *client.arguments()],
                cwd=project,
                env=surroundings(home, client.environment(url, home)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=HANG,
                check=False,
            )
    finally:
        log.removeHandler(told)
    mended = RIGHT in (project / "calc.py").read_text() and "passed" in script.prompts[-1]
    (place / "prompts.txt").write_text("\n\n==== prompt ====\n".join(script.prompts))
    print(f"{client.name}: {'mended and tested' if mended else 'FAILED'}, exit code {done.returncode}, ", end="")
    print(f"{len(script.prompts)} prompts, {time.monotonic() - begin:.0f} s")
    print("".join(f"    {line}\n" for line in told.lines) + "".join(f"    > {line}\n" for line in _last(done.stdout)))
    return mended


def _last(output: str) -> list[str]:
    lines = click.unstyle(output).splitlines()
    return [line for line in lines if line.strip()][-12:]


def isolate() -> None:
    """Start anew where there is no network but loopback."""
    inner = f'ip link set lo up && exec {sys.executable} {Path(__file__).parent} {_ISOLATED} "$@"'
    command = ["unshare", "--net", *(["--map-root-user"] if os.geteuid() else []), "sh", "-c", inner, "sh"]
    os.execvp("unshare", [*command, *sys.argv[1:]])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npm", type=Path, required=True, metavar="DIR", help="where the clients are installed")
    parser.add_argument("--client", action="append", choices=[c.program for c in CLIENTS], help="this one alone")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep what was said and written there")
    parser.add_argument(_ISOLATED, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.isolated:
        isolate()
    passed = []
    with tempfile.TemporaryDirectory() as scratch:
        model = small_model(Path(scratch))
        for client in CLIENTS:
            binary = options.npm.absolute() / "node_modules" / ".bin" / client.program
            if options.client and client.program not in options.client:
                continue
            if not binary.exists():
                print(f"{client.name}: skipped, not installed in {options.npm}.")
                continue
            place = (options.keep or Path(scratch)).absolute() / client.program
            passed.append(attempt(client, binary, model, place))
    return 0 if passed and all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
