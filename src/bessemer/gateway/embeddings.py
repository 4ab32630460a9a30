"""`POST /v1/embeddings`: the body, the request it means, and the answer's shape."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from bessemer.app.embeddings import Embedded, EmbedRequest
from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import Pooling
from bessemer.gateway.decoding import decode
from bessemer.gateway.parameters import Seconds

Encoding = Literal["float", "base64"]


class EmbeddingBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`pooling` and `timeout` are extensions."""

    model: str
    input: str | list[str | int | list[int]]
    encoding_format: Encoding | None = None
    dimensions: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    pooling: Pooling | None = None
    timeout: Seconds | None = None
    user: str | None = None


class EmbeddingAsk(NamedTuple):
    """A parsed request."""

    model: str
    request: EmbedRequest
    encoding: Encoding


class EmbeddingShape(msgspec.Struct):
    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class EmbeddingUsage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct):
    data: list[EmbeddingShape]
    model: str
    usage: EmbeddingUsage
    object: Literal["list"] = "list"


_decoder = msgspec.json.Decoder(EmbeddingBody)


def parse_embedding(raw: bytes) -> EmbeddingAsk:
    """Raises InvalidInput (and its kinds): what is wrong, and in which field."""
    body = decode(_decoder, raw)
    request = EmbedRequest(
        inputs=_inputs(body.input),
        dimensions=body.dimensions,
        pooling=body.pooling,
        deadline_s=body.timeout,
    )
    return EmbeddingAsk(body.model, request, body.encoding_format or "float")


def embedding_answer(ask: EmbeddingAsk, embedded: Embedded) -> bytes:
    """The JSON of the answer."""
    write = _base64 if ask.encoding == "base64" else _as_it_is
    tokens = embedded.prompt_tokens
    answer = EmbeddingList(
        data=[EmbeddingShape(i, write(vector)) for i, vector in enumerate(embedded.vectors)],
        model=ask.model,
        usage=EmbeddingUsage(tokens, tokens),
    )
    return msgspec.json.encode(answer)


def _inputs(given: str | list[str | int | list[int]]) -> Sequence[str | Sequence[int]]:
    """One text, one list of ids, or a list of either kind."""
    if isinstance(given, str):
        return [given]
    kinds = {type(item) for item in given}
    if kinds == {int}:
        return [[item for item in given if isinstance(item, int)]]
    if len(kinds) > 1:
        raise InvalidInput(
            "'input' is a mixture of kinds; it is a string, a list of strings, a list of token "
            "ids, or a list of such lists.",
            param="input",
        )
    return [item for item in given if not isinstance(item, int)]


def _as_it_is(vector: list[float]) -> list[float] | str:
    return vector


def _base64(vector: list[float]) -> list[float] | str:
    """Little-endian float32."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
