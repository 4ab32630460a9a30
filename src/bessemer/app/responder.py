"""An engine with its tokenizer and template, as a `Responder`: messages in, text out.

Nothing here knows HTTP. What a model may be asked, and by whom, is `chat`'s business.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

import msgspec

from bessemer.app.call_transcript import CallTranscript
from bessemer.app.prompt_size import PromptSize
from bessemer.app.streams import closing
from bessemer.app.transcript import Transcript, read_prompt
from bessemer.core.errors import ContextLengthExceeded, EngineUnavailable, InvalidInput
from bessemer.core.protocols import (
    ChatRequest,
    Constraint,
    Delta,
    Engine,
    GenerateRequest,
    Message,
    PromptRead,
    TokenChunk,
)
from bessemer.text.chat_encoding import check_names, encode_prompt
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.infilling import infill_prompt
from bessemer.text.tokenizer import Tokenizer
from bessemer.text.tool_formats import call_constraint, format_of

# Encoding more than this takes long enough to be felt by the other requests of the server.
LONG_PROMPT_CHARS = 20_000
LONG_PROMPT_MESSAGES = 20


class EngineResponder:
    """Implements `core.protocols.Responder` over an `Engine`.

    Args:
        template: the model's, or why it has none: such a model continues text, and messages get
            this error.
        context_length: tokens that prompt and answer may have together.
        model_digest: what answers, for fingerprints.
        model_name: its name, for who pays.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        template: ChatTemplate | InvalidInput,
        context_length: int,
        *,
        model_digest: str | None = None,
        model_name: str | None = None,
    ) -> None:
        self._model_name = model_name
        self._engine = engine
        self._tokenizer = tokenizer
        self._template = template
        self._context_length = context_length
        self.model_digest = model_digest

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """Stream the answer; closing the iterator cancels the engine's request.

        Without `max_tokens` the answer may take what the prompt leaves of the context.

        Raises:
            ContextLengthExceeded: naming the context, the prompt's tokens and what was asked for.
            InvalidInput: messages for a model without a template; ids that are no tokens; a
                constraint that cannot be held to.
            Busy, DeadlineExceeded, EngineUnavailable: as the engine says.
            BessemerError: who pays says no.
        """
        prompt_ids = await self._prompt_ids(request)
        asked = self._generate_request(request, prompt_ids)
        transcript = self._transcript(request, len(prompt_ids))
        tally = request.tally
        if tally is not None:
            await tally.expect(self._model_name, len(prompt_ids), asked.max_tokens)
        last: Delta | None = None
        is_first = True
        async with closing(self._engine.generate(asked)) as chunks:
            async for chunk in chunks:
                if chunk.finish_reason == "cancelled":
                    break
                delta = transcript.take(chunk)
                if tally is not None:
                    tally.count(*transcript.counts(chunk))
                if is_first:
                    delta = self._opened(request, prompt_ids, chunk, delta)
                    is_first = False
                if delta.finish_reason:
                    last = delta
                    break
                if delta.text or delta.tool_calls or delta.logprobs or delta.prompt:
                    yield delta
        # After the block: the engine stops working before the last words are on their way.
        if last is None:
            raise EngineUnavailable(
                "the engine ended this answer before it was whole",
                next_step="send the request again",
            )
        yield last

    async def prompt_size(self, request: ChatRequest) -> PromptSize:
        """See `prompt_size.Counts`. A prompt of megabytes is refused uncounted, as by `respond`."""
        return PromptSize(len(await self._prompt_ids(request)), self._context_length)

    def _generate_request(self, request: ChatRequest, prompt_ids: list[int]) -> GenerateRequest:
        return GenerateRequest(
            request_id=request.request_id,
            prompt_ids=prompt_ids,
            max_tokens=self._max_tokens(request, len(prompt_ids)),
            sampling=request.sampling,
            stop_ids=sorted(self._tokenizer.eos_ids),
            top_logprobs=request.top_logprobs,
            client=request.client,
            constraint=self._constraint(request),
            deadline_s=request.deadline_s,
            prompt_logprobs=request.prompt_logprobs,
        )

    def _opened(
        self, request: ChatRequest, prompt_ids: list[int], chunk: TokenChunk, delta: Delta
    ) -> Delta:
        """The first delta, with what was asked for of the prompt."""
        found, text = chunk.prompt_logprobs, delta.text
        if request.echo:
            given = request.prompt
            said = given if isinstance(given, str) else self._tokenizer.decode(prompt_ids)
            text = said + text
        if found is None:
            return msgspec.structs.replace(delta, text=text)
        read = PromptRead(read_prompt(self._tokenizer, prompt_ids, found), request.echo)
        return msgspec.structs.replace(delta, text=text, prompt=read)

    def _transcript(self, request: ChatRequest, prompt_tokens: int) -> Transcript | CallTranscript:
        if _tools_of(request) is None:
            return Transcript(self._tokenizer, request.stop, prompt_tokens)
        way = format_of(self._checked_template())
        return CallTranscript(self._tokenizer, request.stop, prompt_tokens, way)

    def _constraint(self, request: ChatRequest) -> Constraint | None:
        tools, choice = _tools_of(request), request.tool_choice
        if tools is None:
            return request.constraint
        may = [t for t in tools if choice.names is None or t["function"]["name"] in choice.names]
        required = choice.mode == "required"
        return call_constraint(
            format_of(self._checked_template()),
            self._tokenizer,
            may,
            required=required,
            parallel=request.parallel_tool_calls,
            content=None if required else request.constraint,
        )

    def _max_tokens(self, request: ChatRequest, prompt_tokens: int) -> int:
        asked = request.max_tokens
        left = self._context_length - prompt_tokens
        if left < (1 if asked is None else asked):
            raise self._too_long(request, prompt_tokens, str(prompt_tokens))
        return left if asked is None else asked

    def _too_long(
        self, request: ChatRequest, prompt_tokens: int, counted: str
    ) -> ContextLengthExceeded:
        asked = request.max_tokens
        wish = "which leaves no room" if asked is None else f"and max_tokens asks for {asked} more"
        return ContextLengthExceeded(
            f"This model's maximum context length is {self._context_length} tokens; "
            f"the prompt has {counted} tokens, {wish}.",
            next_step="shorten the prompt" + (" or lower max_tokens" if asked else ""),
            param="messages" if request.prompt is None else "prompt",
            prompt_tokens=prompt_tokens,
            max_tokens=asked,
            context_length=self._context_length,
        )

    async def _prompt_ids(self, request: ChatRequest) -> list[int]:
        if isinstance(request.prompt, str) or request.prompt is None:
            chars = _chars(request)
            if chars > LONG_PROMPT_CHARS or len(request.messages) > LONG_PROMPT_MESSAGES:
                return await asyncio.to_thread(self._encode_long, request, chars)
        return self._encode(request)

    def _encode_long(self, request: ChatRequest, chars: int) -> list[int]:
        # What cannot fit is refused uncounted: megabytes would take a core for many seconds.
        least = chars // _longest_token_bytes(self._tokenizer)
        if least > self._context_length:
            raise self._too_long(request, least, f"at least {least}")
        return self._encode(request)

    def _encode(self, request: ChatRequest) -> list[int]:
        if request.prompt is None:
            template, tools = self._checked_template(), _tools_of(request)
            check_names(request.messages, template, tools)
            return encode_prompt(request.messages, self._tokenizer, template, tools)
        if request.suffix is not None:
            return self._encode_infill(request)
        if isinstance(request.prompt, str):
            ids = self._tokenizer.prefix_ids + self._tokenizer.encode(request.prompt)
        else:
            ids = self._checked(list(request.prompt))
        return ids or self._start()

    def _checked_template(self) -> ChatTemplate:
        if isinstance(self._template, InvalidInput):
            # A new one each time: a raised exception collects tracebacks.
            fault = self._template
            raise InvalidInput(fault.message, next_step=fault.next_step, param="messages")
        return self._template

    def _encode_infill(self, request: ChatRequest) -> list[int]:
        if not isinstance(request.prompt, str) or request.suffix is None:
            raise InvalidInput(
                "with 'suffix' the prompt has to be text, not token ids", param="prompt"
            )
        return infill_prompt(self._tokenizer, request.prompt, request.suffix)

    def _checked(self, ids: list[int]) -> list[int]:
        size = self._tokenizer.vocab_size
        wrong = next((id_ for id_ in ids if not 0 <= id_ < size), None)
        if wrong is not None:
            raise InvalidInput(
                f"the prompt has the token id {wrong}; this model's ids are 0 to {size - 1}",
                param="prompt",
            )
        return ids

    def _start(self) -> list[int]:
        # An engine needs a token to predict from; OpenAI begins an empty prompt as a document.
        if self._tokenizer.bos_id is None:
            raise InvalidInput(
                "the prompt is empty, and this model has no token that begins a text",
                next_step="give it at least one token to continue",
                param="prompt",
            )
        return [self._tokenizer.bos_id]


@functools.lru_cache(maxsize=16)
def _longest_token_bytes(tokenizer: Tokenizer) -> int:
    return max(len(tokenizer.token_bytes(id_)) for id_ in range(tokenizer.vocab_size))


def _chars(request: ChatRequest) -> int:
    if request.prompt is not None:
        return len(request.prompt) + len(request.suffix or "")
    said = (len(m.get("content") or "") + len(m.get("name") or "") for m in request.messages)
    written = (part for part in (request.tools, *_calls(request)) if part)
    return sum(said) + sum(len(msgspec.json.encode(part)) for part in written)


def _calls(request: ChatRequest) -> Iterator[Any]:
    return (message.get("tool_calls") for message in request.messages)


def _tools_of(request: ChatRequest) -> Sequence[Message] | None:
    """The tools that the model is told of: none where it must not call any."""
    return request.tools if request.tools and request.tool_choice.mode != "none" else None
