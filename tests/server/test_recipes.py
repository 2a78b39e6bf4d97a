"""The recipes of docs/server.md run as they stand there."""

import json
import re
import subprocess
import sys
from pathlib import Path

from chat.test_tool_calls import call

DOC = Path(__file__).parents[2] / "docs" / "server.md"
HELLO = "A greeting.\n</think>\n\nHello yourself."


def recipe(title: str, server) -> str:
    section = DOC.read_text().split(f"### {title}\n")[1]
    code = re.search(r"```\w+\n(.*?)```", section, re.DOTALL)[1]
    return code.replace("http://127.0.0.1:8080", server.url).replace("MODEL", "small")


def test_curl(scripted):
    done = subprocess.run(["bash", "-c", recipe("curl", scripted(HELLO))], capture_output=True, text=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "Hello yourself."


def test_openai(scripted, capsys):
    exec(recipe("openai", scripted(HELLO)), {})
    assert capsys.readouterr().out == "Hello yourself."


def test_anthropic(scripted, capsys):
    exec(recipe("anthropic", scripted(HELLO)), {})
    assert capsys.readouterr().out == "Hello yourself."


def test_a_coding_agent(scripted, capsys, tmp_path, monkeypatch):
    """The model reads a file, writes it anew and says so: three turns, two tools, files on disk."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hello.txt").write_text("Helo")

    def script(prompt):
        if "written" in prompt:
            return "So.\n</think>\n\nIt says Hello now."
        if "\nHelo\n" in prompt:
            return "A letter is missing.\n</think>\n\n" + call("write_file", path="hello.txt", text="Hello")
        return "I look.\n</think>\n\n" + call("read_file", path="hello.txt")

    exec(recipe("A coding agent, in one screen", scripted(script)), {})
    assert capsys.readouterr().out == "It says Hello now.\n"
    assert (tmp_path / "hello.txt").read_text() == "Hello"


def test_smolagents(scripted, tmp_path):
    """Its model writes code, which runs: one piece reads the file and writes it anew, the next says so."""
    (tmp_path / "hello.txt").write_text("Helo")
    fix = 'text = read_file("hello.txt")\nwrite_file("hello.txt", text.replace("Helo", "Hello"))\nprint("It is done")'

    def script(prompt):
        done = "Execution logs:\nIt is done" in prompt
        code = 'final_answer("It says Hello now.")' if done else fix
        return f"So.\n</think>\n\nThought: a letter is missing.\n<code>\n{code}\n</code>"

    program = tmp_path / "agent.py"
    program.write_text(recipe("smolagents: an agent that writes Python", scripted(script, context=65536)))
    done = subprocess.run([sys.executable, program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "It says Hello now.\n", done.stderr
    assert (tmp_path / "hello.txt").read_text() == "Hello"


def test_langchain(scripted, capsys):
    def script(prompt):
        if "<tool_response>\nIt is dry in Lyon.\n" in prompt:
            return "So.\n</think>\n\nYes, it is dry."
        return "I look.\n</think>\n\n" + call("weather", city="Lyon")

    server = scripted(script)
    exec(recipe("LangChain", server), {"__name__": "recipe"})
    assert capsys.readouterr().out == "Yes, it is dry.\n"


def test_langchain_streams_and_asks_for_a_form(scripted):
    """What its clients send besides: streams with usage, a schema as response_format."""
    from langchain_openai import ChatOpenAI

    server = scripted('So.\n</think>\n\n{"city": "Lyon"}')
    model = ChatOpenAI(base_url=f"{server.url}/v1", api_key="none", model="small", stream_usage=True)
    pieces = list(model.stream("Which city?"))
    assert "".join(piece.text for piece in pieces) == '{"city": "Lyon"}'
    assert sum(piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata) > 0
    schema = {"title": "City", "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    assert model.with_structured_output(schema, method="json_schema").invoke("Which city?") == {"city": "Lyon"}
