"""One choice's tokens as what a client sees: thinking, content, calls, and where a stop string ends it.

Invariant: the content, joined, is the content of the whole turn up to the first stop string. Knows no requests.
"""

from collections.abc import Sequence
from uuid import uuid4

from flashmoe.chat.replay import WrittenTurn
from flashmoe.chat.stops import StopStrings
from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.chat.turn_parser import Called, Content, Thinking, TurnEvent, TurnParser
from flashmoe.engine.request import Token
from flashmoe.server.ask import Call, Delta, Finish


class TurnReader:
    """parser: None for plain text. stop: strings that end the content. one_call: the first call ends the turn."""

    def __init__(self, tokenizer: Tokenizer, parser: TurnParser | None, stop: Sequence[str], one_call: bool) -> None:
        self._decoder, self._parser = tokenizer.stream(), parser
        self._stops, self._one_call = StopStrings(stop), one_call
        self._calls: list[Call] = []
        self._text, self._thinking, self._content = "", "", ""
        self._tokens = self._thinking_tokens = 0
        self._reported: list[Token] = []
        self.over = False

    def token(self, token: Token) -> list[Delta]:
        """What one more token adds; after `over` is set, none may follow."""
        self._tokens += 1
        self._thinking_tokens += bool(self._parser and self._parser.in_thinking)
        if token.logprob:
            self._reported.append(token)
        return self._deltas(self._parse(self._decoder.push(token.token_id)))

    def finish(self, reason: str, last: Token | None = None) -> list[Delta | Finish]:
        """What was held back, and the end. reason: the scheduler's. last: the stop token, which plain text reports."""
        deltas: list[Delta | Finish] = []
        if not self.over:
            if last and self._parser is None:
                self._reported.append(last)
            events = self._parse(self._decoder.flush())
            if self._parser:
                events += self._parser.finish(cut=reason != "stop")
            deltas += self._deltas(events)
            if not self.over and (rest := self._stops.flush()):
                deltas.append(self._delta(content=rest))
        if self._reported:
            deltas.append(self._delta())
        if self.over:
            reason = "stop"
        if self._calls and reason == "stop":
            reason = "tool_calls"
        return [*deltas, Finish(reason, self._stops.found, self._tokens, self._thinking_tokens)]

    def written(self) -> WrittenTurn:
        """The turn so far, to be found again by its calls."""
        text = self._text.rpartition("</think>")[2].strip()
        calls = tuple(call.call for call in self._calls)
        return WrittenTurn(tuple(c.id for c in self._calls), calls, self._thinking, self._content, text)

    def _parse(self, text: str) -> list[TurnEvent]:
        self._text += text
        if self._parser is None:
            return [Content(text)] if text else []
        return self._parser.push(text)

    def _deltas(self, events: list[TurnEvent]) -> list[Delta]:
        deltas = []
        for event in events:
            if self.over:
                break
            if isinstance(event, Thinking):
                self._thinking += event.text
                deltas.append(self._delta(thinking=event.text))
            elif isinstance(event, Called):
                call = Call(f"call_{uuid4().hex}", event.call)
                self._calls.append(call)
                deltas.append(self._delta(call=call))
                self.over = self._one_call
            elif content := self._stops.push(event.text):
                self._content += content
                deltas.append(self._delta(content=content))
            self.over = self.over or self._stops.found is not None
        return deltas

    def _delta(self, thinking: str = "", content: str = "", call: Call | None = None) -> Delta:
        reported, self._reported = tuple(self._reported), []
        return Delta(thinking, content, call, reported)
