"""A conversation goes on with the next server: no state is computed again, and the text is what it would have been."""

import signal
import stat

import httpx

from chat.test_tool_calls import call
from flashmoe.chat.replay import WrittenTurns
from flashmoe.cli.saved_states import default_sessions
from processes import HANG
from server.test_openai import THINKING, WEATHER
from server.test_serve import serving

SAMPLED = {"temperature": 1.2, "seed": 7, "max_tokens": 24}


def ask(url, messages):
    body = {"model": "small", "messages": messages, **SAMPLED}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=HANG).json()


def stop(process):
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=HANG)
    assert "Traceback" not in err


def test_the_next_server_goes_on_with_the_conversation(speaking_model, speaking, tmp_path):
    kept = tmp_path / "kept"
    messages = [{"role": "user", "content": "Count the ships, one after the other."}]
    with serving(speaking_model, "--name", "small", "--sessions", str(kept)) as (process, url):
        first = ask(url, messages)
        stop(process)
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    messages += [first["choices"][0]["message"], {"role": "user", "content": "And then?"}]
    with serving(speaking_model, "--name", "small", "--sessions", str(kept)) as (process, url):
        metrics = httpx.get(f"{url}/metrics").text
        second = ask(url, messages)
        stop(process)
    size = sum(path.stat().st_size for path in kept.glob("*/*"))
    assert 0 < float(metrics.split("\nflashmoe_session_disk_bytes ")[1].split("\n")[0]) <= size
    usage = second["usage"]
    assert 0 < usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]
    anew = ask(speaking.url, messages)
    assert [c["message"] for c in second["choices"]] == [c["message"] for c in anew["choices"]]


def test_without_sessions_nothing_is_kept(speaking_model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    messages = [{"role": "user", "content": "Count the ships."}]
    with serving(speaking_model, "--name", "small") as (process, url):
        ask(url, messages)
        again = ask(url, messages)
        stop(process)
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert list(tmp_path.iterdir()) == []


def test_the_place_is_the_users_cache_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_sessions() == tmp_path / "flashmoe" / "sessions"


def test_a_tool_loop_goes_on_with_the_models_own_words(scripted, tmp_path):
    drifted = call("weather", city="Lyon", days="3").replace("<tool_call>\n", "")
    prompts = []

    def script(prompt):
        prompts.append(prompt)
        return THINKING + ("All dry." if "<tool_response>" in prompt else drifted)

    messages = [{"role": "user", "content": "Will it rain?"}]
    for _ in range(2):
        server = scripted(script, written=WrittenTurns(tmp_path / "turns"))
        answer = server.openai.chat.completions.create(model="small", messages=messages, tools=[WEATHER])
        message = answer.choices[0].message
        messages.append(message.model_dump(exclude={"reasoning_content"}, exclude_none=True))
        for made in message.tool_calls or ():
            messages.append({"role": "tool", "tool_call_id": made.id, "content": "dry"})
    assert message.content == "All dry."
    assert f"<think>\n{THINKING}{drifted}<|im_end|>" in prompts[-1]
