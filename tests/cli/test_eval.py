"""`flashmoe eval`: figures on stdout, progress on stderr, a clean end whatever happens."""

import json
import signal
import sys

import pytest

import flashmoe
from flashmoe.cli.main import run
from flashmoe.engine.routing_trace import RoutingTrace
from flashmoe.evaluation.perplexity import perplexity, windows
from processes import ENVIRONMENT, HANG, start

REFERENCE = ["--backend", "reference", "--context", "512"]
TEXT = "The lighthouse keeper counted ships instead of sheep, and slept the better for it. " * 3


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def cases(tmp_path):
    path = tmp_path / "cases.jsonl"
    base = {"enable_thinking": False, "tools": None, "messages": [{"role": "user", "content": "Hi"}]}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    lines = [
        {**base, "id": "a", "family": "talk", "expect": {"kind": "exact", "text": "Hello"}},
        {**base, "id": "b", "family": "array", "expect": {"kind": "json", "json": [1]}},
        {**base, "id": "c", "family": "none", "tools": [tool], "expect": {"kind": "calls", "calls": []}},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_json_has_what_the_library_measures(speaking_model, text, cases, capfd):
    options = ["--text", str(text), "--cases", str(cases), "--window", "32", "--max-tokens", "8", "--json"]
    assert run(["eval", str(speaking_model), *options, *REFERENCE]) == 0
    found = json.loads(capfd.readouterr().out)
    with flashmoe.load(speaking_model, backend="reference", context=512) as engine:
        expected = perplexity(engine.engine, engine.tokenizer, windows(engine.tokenizer.encode(TEXT), 32))
    assert found["text"] == {"file": str(text), "window": 32, **expected.as_json()}
    assert found["cases"]["cases"] == 3
    assert found["cases"]["json"]["valid"]["of"] == found["cases"]["tool_calls"]["right"]["of"] == 1
    assert found["interrupted"] is False
    assert "against" not in found


def test_the_table_shows_counts_and_intervals(speaking_model, cases, capfd):
    assert run(["eval", str(speaking_model), "--cases", str(cases), "--max-tokens", "8", *REFERENCE]) == 0
    out, err = capfd.readouterr()
    assert "JSON: valid" in out
    assert "of 1" in out
    assert "95 % interval" in out
    assert "experts per token" in err
    assert "perplexity" not in out


def test_against_itself_a_pack_agrees_and_with_fewer_experts_it_does_not(speaking_model, text, capfd):
    options = ["--text", str(text), "--against", str(speaking_model), "--limit", "1", "--window", "24", "--json"]
    assert run(["eval", str(speaking_model), *options, *REFERENCE]) == 0
    found = json.loads(capfd.readouterr().out)["against"]
    assert (found["kl_nats"], found["top1_agreement"]["count"]) == (0, 23)
    assert run(["eval", str(speaking_model), *options, *REFERENCE, "--experts-per-token", "1"]) == 0
    assert json.loads(capfd.readouterr().out)["against"]["kl_nats"] > 0


def test_routing_is_recorded_by_eval_and_run(speaking_model, text, tmp_path, capfd):
    path = tmp_path / "routing.npz"
    record = ["--record-routing", str(path)]
    assert run(["eval", str(speaking_model), "--text", str(text), "--window", "16", *record, *REFERENCE]) == 0
    with flashmoe.load(speaking_model, backend="reference", context=512) as engine:
        tokens = engine.tokenizer.encode(TEXT)
        prompt = engine.prompt_ids("Hello")
    trace = RoutingTrace.read(path)
    assert trace.token.tolist() == [t for window in windows(tokens, 16) for t in window[:-1]]
    assert run(["run", str(speaking_model), "-p", "Hello", "--max-tokens", "1", *record, *REFERENCE]) == 0
    assert RoutingTrace.read(path).token.tolist() == prompt
    capfd.readouterr()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cases", "absent.jsonl"], "absent.jsonl cannot be read"),
        (["--text", "absent.txt"], "absent.txt cannot be read"),
        (["--text", "TEXT", "--window", "600"], "do not fit the context of 512"),
        (["--cases", "CASES", "--max-tokens", "600"], "do not fit the context of 512"),
        (["--text", "TEXT", "--against", "nowhere"], "nowhere is not a packed model"),
        (["--text", "BINARY"], "is not UTF-8"),
        (["--text", "EMPTY"], "too short"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(speaking_model, options, message, text, cases, tmp_path, capfd):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").write_bytes(b"")
    text.write_text(TEXT * 20)
    names = {"TEXT": text, "CASES": cases, "BINARY": tmp_path / "binary", "EMPTY": tmp_path / "empty"}
    assert run(["eval", str(speaking_model), *(str(names.get(o, o)) for o in options), *REFERENCE]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_ctrl_c_reports_what_was_measured_until_then(speaking_model, cases, tmp_path):
    many = tmp_path / "many.jsonl"
    line = json.loads(cases.read_text().splitlines()[0])
    many.write_text("".join(json.dumps({**line, "id": str(i)}) + "\n" for i in range(400)))
    code = (
        "import flashmoe.cli.eval as e, sys\n"
        "real = e.Score.add\n"
        "e.Score.add = lambda *a: (real(*a), print('one', file=sys.stderr, flush=True))[0]\n"
        "from flashmoe.cli.main import main; main()"
    )
    options = ["--cases", many, "--json", "--max-tokens", "4", *REFERENCE]
    process = start([sys.executable, "-c", code, "eval", speaking_model, *options], env=ENVIRONMENT)
    assert any(b"one" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == 130
    assert b"Traceback" not in err
    found = json.loads(out)
    assert found["interrupted"] is True
    assert 1 <= found["cases"]["cases"] < 400
