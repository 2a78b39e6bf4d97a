"""A loop of tools with the trained model that ships, during which the server is ended and begun again after every
answer: nothing that was said tells the difference, and what was computed is not computed again."""

import json
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
import openai
import pytest

from server.test_demo_model import SAID, TOOLS, WORDS, result_of
from server.test_restart import stop
from server.test_serve import serving


@dataclass
class Told:
    """One answer. cached: tokens of its prompt that came from a saved state; counted: what /metrics says of that."""

    tokens: list[str]
    message: dict
    prompt: int
    cached: int
    counted: float


class Server:
    """`flashmoe serve`, which can be ended and begun again; conversations are kept in `sessions`."""

    def __init__(self, stack, model, sessions):
        self.stack, self.model = stack, model
        self.options = ["--name", "small", "--sessions", str(sessions), "--context", "2048"]
        self.begin()

    def begin(self):
        self.process, self.url = self.stack.enter_context(serving(self.model, *self.options))

    def begin_again(self):
        stop(self.process)
        self.begin()

    def ask(self, messages, thinking) -> Told:
        before = self.counted()
        with openai.OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0) as client:
            answer = client.chat.completions.create(
                model="small", messages=messages, tools=TOOLS, temperature=0, logprobs=True,
                extra_body={"chat_template_kwargs": {"enable_thinking": thinking}},
            )  # fmt: skip
        choice, usage = answer.choices[0], answer.usage
        tokens = [token.token for token in choice.logprobs.content]
        # As most clients do, without the thinking.
        message = choice.message.model_dump(exclude={"reasoning_content"}, exclude_none=True)
        cached = usage.prompt_tokens_details.cached_tokens
        return Told(tokens, message, usage.prompt_tokens, cached, self.counted() - before)

    def counted(self) -> float:
        metrics = httpx.get(f"{self.url}/metrics").text
        return float(metrics.split("\nflashmoe_cached_prompt_tokens_total ")[1].split("\n")[0])


def conversation(server, thinking, after_each) -> list[Told]:
    messages, told = [], []
    for said in SAID:
        messages.append({"role": "user", "content": said})
        while True:
            answer = server.ask(messages, thinking)
            told.append(answer)
            messages.append(answer.message)
            after_each()
            calls = answer.message.get("tool_calls", ())
            for call in calls:
                content = result_of(json.loads(call["function"]["arguments"]))
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": content})
            if not calls:
                break
    return told


@pytest.mark.parametrize("thinking", [False, True])
def test_a_loop_of_tools_goes_on_token_for_token_with_the_next_server(demo_directory, thinking, tmp_path):
    with ExitStack() as stack:
        one = Server(stack, demo_directory, tmp_path / "one")
        steady = conversation(one, thinking, lambda: None)
        several = Server(stack, demo_directory, tmp_path / "several")
        restarted = conversation(several, thinking, several.begin_again)
    assert [told.tokens for told in restarted] == [told.tokens for told in steady]
    assert [len(told.message.get("tool_calls", ())) for told in steady] == [1, 0, 2, 0]
    for told, values in zip(steady[1::2], WORDS, strict=True):
        assert all(value in told.message["content"] for value in values)
    assert restarted[0].cached == 0
    question, result, following, last = restarted
    # At least up to where the prompt before opened its answer; a new question drops what was thought after the first.
    for told, before in ((result, question), (following, question), (last, following)):
        assert told.cached >= before.prompt - 8
        assert told.counted == told.cached
    assert all(told.cached <= beside.cached for told, beside in zip(restarted, steady, strict=True))
