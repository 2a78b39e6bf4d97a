"""One choice's tokens as what a client sees: thinking, content, calls, and where a stop string ends it.

Invariant: the content, joined, is the content of the whole turn up to the first stop string. Knows no requests.
"""

from collections.abc import Sequence
from uuid import uuid4

from flashmoe.chat.call_writer import CallBegun, CallBroken, Called, CallEvent
from flashmoe.chat.replay import WrittenTurn
from flashmoe.chat.stops import StopStrings
from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.chat.tool_calls import ToolCall
from flashmoe.chat.turn_parser import Content, Thinking, TurnEvent, TurnParser
from flashmoe.engine.request import Token
from flashmoe.server.events import Delta, Finish


class TurnReader:
    """parser: None for plain text. stop: strings that end the content. one_call: the first call ends the turn."""

    def __init__(self, tokenizer: Tokenizer, parser: TurnParser | None, stop: Sequence[str], one_call: bool) -> None:
        self._decoder, self._parser = tokenizer.stream(), parser
        self._stops, self._one_call = StopStrings(stop), one_call
        self._ids: list[str] = []
        self._calls: list[ToolCall] = []
        self._broken = False
        self._thinking, self._content = "", ""
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
        if self._ids and reason == "stop":
            reason = "tool_calls"
        return [*deltas, Finish(reason, self._stops.found, self._tokens, self._thinking_tokens)]

    def written(self) -> WrittenTurn:
        """The turn so far, to be found again by its calls; without any if one of them broke off, since then what a
        client sends back is not the turn."""
        text = self._parser.answer.strip() if self._parser else ""
        ids, calls = ((), ()) if self._broken else (tuple(self._ids), tuple(self._calls))
        return WrittenTurn(ids, calls, self._thinking, self._content, text)

    def _parse(self, text: str) -> list[TurnEvent]:
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
            elif not isinstance(event, Content):
                deltas.append(self._of_call(event))
            elif content := self._stops.push(event.text):
                self._content += content
                deltas.append(self._delta(content=content))
            self.over = self.over or self._stops.found is not None
        return deltas

    def _of_call(self, event: CallEvent) -> Delta:
        if isinstance(event, CallBegun):
            self._ids.append(f"call_{uuid4().hex}")
        elif isinstance(event, Called):
            self._calls.append(event.call)
        elif isinstance(event, CallBroken):
            self._broken = True
        self.over = self._one_call and isinstance(event, Called | CallBroken)
        return self._delta(call=event)

    def _delta(self, thinking: str = "", content: str = "", call: CallEvent | None = None) -> Delta:
        reported, self._reported = tuple(self._reported), []
        return Delta(thinking, content, call, self._ids[-1] if call else "", reported)
