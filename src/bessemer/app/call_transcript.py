"""Token ids in, words and calls of tools out: a `Transcript` whose text may hold calls.

Stop strings end the words, never a call: its arguments are valid, and stay so.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bessemer.app.transcript import Counted, Transcript
from bessemer.core.protocols import AnswerEnd, Delta, TokenChunk, ToolCallDelta
from bessemer.text.stop_strings import StopStrings
from bessemer.text.tokenizer import Tokenizer
from bessemer.text.tool_calls import CallParser
from bessemer.text.tool_formats import ToolFormat, marks_of


class CallTranscript:
    """See `Transcript`; an answer that has calls and was not cut ends with "tool_calls"."""

    def __init__(
        self, tokenizer: Tokenizer, stops: Sequence[str], prompt_tokens: int, way: ToolFormat
    ) -> None:
        self._transcript = Transcript(tokenizer, (), prompt_tokens, marks_of(tokenizer))
        self._parser = CallParser(way)
        self._stops = StopStrings(stops)

    def take(self, chunk: TokenChunk) -> Delta:
        """See `Transcript.take`."""
        delta = self._transcript.take(chunk)
        content, calls = self._parser.push(delta.text)
        if delta.finish_reason:
            content += self._parser.flush()
        text, stopped = self._stops.push(content)
        if not stopped and (calls or delta.finish_reason):
            text += self._stops.flush()
        end, usage = self._end(delta.finish_reason), delta.usage
        if stopped:
            calls, end, usage = list[ToolCallDelta](), "stop", self._transcript.usage(chunk)
        return msgspec.structs.replace(
            delta, text=text, tool_calls=calls, finish_reason=end, usage=usage
        )

    def counts(self, chunk: TokenChunk) -> Counted:
        """See `Transcript.counts`."""
        return self._transcript.counts(chunk)

    def _end(self, reason: AnswerEnd | None) -> AnswerEnd | None:
        return "tool_calls" if reason == "stop" and self._parser.calls else reason
