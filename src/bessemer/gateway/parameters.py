"""What chat and text completion have in common: sampling, stopping, streaming, many choices.

Nothing is silently ignored: a field that would change the answer and is not implemented is
refused unless it has its neutral value; a field that cannot change it is taken and left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, Raw

from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import ChatRequest, Sampling
from bessemer.gateway.constraints import StructuredOutputs
from bessemer.gateway.decoding import decode
from bessemer.gateway.failures import UnsupportedParameter

# As in OpenAI's API.
MAX_CHOICES = 128
MAX_STOPS = 4
# Ours: text is searched for stop strings at every token.
MAX_STOP_CHARS = 1_000

Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Choices = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
TokenId = Annotated[str, Meta(pattern=r"^[0-9]{1,9}$")]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Stop = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)]
# As in OpenAI's API: 16 pairs. U+0000 is in no text of PostgreSQL, where they are looked for.
_NO_NUL = r"^[^\x00]*\Z"
Metadata = Annotated[
    dict[
        Annotated[str, Meta(max_length=64, pattern=_NO_NUL)],
        Annotated[str, Meta(max_length=512, pattern=_NO_NUL)],
    ],
    Meta(max_length=16),
]
Stops = Annotated[list[Stop], Meta(max_length=MAX_STOPS)]


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Parameters(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The fields both requests have; null is the same as absent.

    `top_k`, `min_p`, `repetition_penalty`, `structured_outputs` and `prompt_logprobs` are
    extensions, spelled as other servers do; `timeout` is one of ours.
    """

    model: str
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    min_p: Share | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=10)] | None = None
    max_tokens: Count | None = None
    n: Choices | None = None
    seed: Seed | None = None
    stop: Stop | Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Meta(max_length=1024)] | None = None
    user: str | None = None
    structured_outputs: StructuredOutputs | None = None
    prompt_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    timeout: Seconds | None = None

    def sampling(self, choice: int) -> Sampling:
        """Of choice number `choice`: with a seed, each choice of `n` has one of its own."""
        seed = self.seed
        if seed is not None:
            seed = (seed + choice + 2**63) % 2**64 - 2**63
        return Sampling(
            temperature=_or(self.temperature, 1.0),
            top_p=_or(self.top_p, 1.0),
            top_k=self.top_k or 0,
            min_p=_or(self.min_p, 0.0),
            presence_penalty=_or(self.presence_penalty, 0.0),
            frequency_penalty=_or(self.frequency_penalty, 0.0),
            repetition_penalty=_or(self.repetition_penalty, 1.0),
            logit_bias={int(id_): bias for id_, bias in (self.logit_bias or {}).items()},
            seed=seed,
        )

    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def check_prompt_logprobs(self) -> None:
        """Raises InvalidInput: they are not streamed, as in vLLM."""
        if self.prompt_logprobs is not None and self.stream:
            raise InvalidInput(
                "'prompt_logprobs' are not available when 'stream' is enabled.",
                param="prompt_logprobs",
            )

    def include_usage(self) -> bool:
        """Raises InvalidInput for stream options without a stream, as OpenAI does."""
        if self.stream_options is None:
            return False
        if not self.stream:
            raise InvalidInput(
                "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
                param="stream_options",
            )
        if self.stream_options.include_obfuscation:
            raise UnsupportedParameter("stream_options.include_obfuscation")
        return bool(self.stream_options.include_usage)


class Storing(NamedTuple):
    """How an answer is to be stored: its labels, and the messages before it, in JSON."""

    labels: Mapping[str, str]
    messages: bytes


class Ask(NamedTuple):
    """A parsed request: one `ChatRequest` for each choice of the answer, in order of index.

    The first `candidates` requests share the first prompt, the next the second, and so on. Of each
    prompt's candidates the `n` with the highest log-probability per token are the answer;
    `says_logprobs` is whether it tells of them. With `storing` the answer is stored; with
    `functions` its call is told in the form that calls had before there were tools.
    """

    model: str
    requests: Sequence[ChatRequest]
    n: int
    stream: bool
    include_usage: bool
    candidates: int
    says_logprobs: bool = True
    storing: Storing | None = None
    functions: bool = False


_any = msgspec.json.Decoder(Any)


def refuse_unless_neutral(body: msgspec.Struct, neutral: Mapping[str, Sequence[Any]]) -> None:
    """Raise UnsupportedParameter for the first field that is neither absent, null nor neutral."""
    for field, allowed in neutral.items():
        value = getattr(body, field)
        if isinstance(value, Raw):
            value = _small(value)
        if value is not None and value not in allowed:
            raise UnsupportedParameter(field)


def _small(raw: Raw) -> Any:
    """The value, if it may be neutral at all: what is long is never built."""
    if not raw:
        return None
    return decode(_any, bytes(raw)) if len(raw) < 100 else raw


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
