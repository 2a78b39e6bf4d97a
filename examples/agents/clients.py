"""The coding agents: how each is started against a server, and with which tools it reads, edits and tests a file."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL = "demo"
TASK = "calc.py adds wrongly. Read it, fix it, and run test_calc.py with python3."
WRONG, RIGHT = "return a - b", "return a + b"
TEST = "python3 test_calc.py"
Step = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Client:
    """name: of its npm package; program: of its command. steps: calls that read, edit and test."""

    name: str
    program: str

    def arguments(self) -> list[str]:
        """The command that gives it the task, without the program."""
        raise NotImplementedError

    def environment(self, url: str, home: Path) -> dict[str, str]:
        """What it is told by variables; files that it reads are written to `home`."""
        raise NotImplementedError

    def steps(self, project: Path) -> list[Step]:
        """The calls, for a file calc.py in this directory."""
        raise NotImplementedError


class ClaudeCode(Client):
    """Anthropic's, over /v1/messages."""

    def arguments(self) -> list[str]:
        return ["-p", TASK, "--model", MODEL, "--allowedTools", "Read,Edit,Bash"]

    def environment(self, url: str, home: Path) -> dict[str, str]:  # noqa: ARG002
        return {
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_AUTH_TOKEN": "none",
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": MODEL,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }

    def steps(self, project: Path) -> list[Step]:
        file = str(project / "calc.py")
        return [
            ("Read", {"file_path": file}),
            ("Edit", {"file_path": file, "old_string": WRONG, "new_string": RIGHT}),
            ("Bash", {"command": TEST, "description": "Run the test"}),
        ]


class Codex(Client):
    """OpenAI's, over /v1/responses."""

    def arguments(self) -> list[str]:
        return ["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", TASK]

    def environment(self, url: str, home: Path) -> dict[str, str]:
        (home / "config.toml").write_text(
            f'model = "{MODEL}"\nmodel_provider = "flashmoe"\n[model_providers.flashmoe]\nname = "Flash-MoE"\n'
            f'base_url = "{url}/v1"\nwire_api = "responses"\n'
        )
        return {"CODEX_HOME": str(home)}

    def steps(self, project: Path) -> list[Step]:  # noqa: ARG002
        return [
            ("exec_command", {"cmd": "cat calc.py"}),
            ("exec_command", {"cmd": f"sed -i 's/{WRONG}/{RIGHT}/' calc.py"}),
            ("exec_command", {"cmd": TEST}),
        ]


class OpenCode(Client):
    """Over /v1/chat/completions."""

    def arguments(self) -> list[str]:
        return ["run", "--model", f"flashmoe/{MODEL}", TASK]

    def environment(self, url: str, home: Path) -> dict[str, str]:
        provider = {
            "npm": "@ai-sdk/openai-compatible",
            "options": {"baseURL": f"{url}/v1", "apiKey": "none"},
            "models": {MODEL: {"name": MODEL, "tool_call": True, "limit": {"context": 131072, "output": 8192}}},
        }
        config = {"provider": {"flashmoe": provider}, "permission": {"edit": "allow", "bash": "allow"}}
        (home / "opencode.json").write_text(json.dumps(config))
        return {"OPENCODE_CONFIG": str(home / "opencode.json"), "OPENCODE_DISABLE_MODELS_FETCH": "1"}

    def steps(self, project: Path) -> list[Step]:
        file = str(project / "calc.py")
        return [
            ("read", {"filePath": file}),
            ("edit", {"filePath": file, "oldString": WRONG, "newString": RIGHT}),
            ("bash", {"command": TEST, "description": "Runs the test"}),
        ]


class QwenCode(Client):
    """Over /v1/chat/completions."""

    def arguments(self) -> list[str]:
        return ["--auth-type", "openai", "--yolo", "-p", TASK]

    def environment(self, url: str, home: Path) -> dict[str, str]:  # noqa: ARG002
        return {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "none", "OPENAI_MODEL": MODEL}

    def steps(self, project: Path) -> list[Step]:
        file = str(project / "calc.py")
        return [
            ("read_file", {"file_path": file}),
            ("edit", {"file_path": file, "old_string": WRONG, "new_string": RIGHT}),
            ("run_shell_command", {"command": TEST, "is_background": False}),
        ]


CLIENTS = (
    ClaudeCode("@anthropic-ai/claude-code", "claude"),
    Codex("@openai/codex", "codex"),
    OpenCode("opencode-ai", "opencode"),
    QwenCode("@qwen-code/qwen-code", "qwen"),
)


def surroundings(home: Path, told: dict[str, str]) -> dict[str, str]:
    """The environment of a client: a home of its own, and nothing of ours that would lead it elsewhere."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TERM")}
    own = {f"XDG_{name}_HOME": str(home / name.lower()) for name in ("CONFIG", "DATA", "STATE", "CACHE")}
    return {**kept, **own, "HOME": str(home), "CI": "1", **told}
