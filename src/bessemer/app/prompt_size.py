"""The tokens of a prompt, counted by the template and tokenizer of the model that reads it."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from bessemer.app.chat import CHAT_SCOPE, Serving
from bessemer.core.errors import InvalidInput
from bessemer.core.principal import Principal
from bessemer.core.protocols import ChatRequest


class PromptSize(NamedTuple):
    """Tokens of a prompt, the opening of its answer included, and what the model has room for."""

    tokens: int
    context_length: int


@runtime_checkable
class Counts(Protocol):
    """A responder that can tell the size of a prompt without answering it."""

    async def prompt_size(self, request: ChatRequest) -> PromptSize:
        """Raises InvalidInput where the template refuses the messages, ContextLengthExceeded where
        they are so long that counting them would take seconds.
        """
        ...


async def prompt_size(
    serving: Serving, principal: Principal, model: str, request: ChatRequest
) -> PromptSize:
    """The size of the prompt that `request` would become.

    Raises:
        ModelNotFound, EngineUnavailable: as `Serving.responder`.
        InvalidInput: `model` is a partner's, whose tokenizer is not here.
        ContextLengthExceeded: too long to be counted; "at least" is in the message.
    """
    principal.require(CHAT_SCOPE)
    responder = await serving.responder(principal, model)
    if not isinstance(responder, Counts):
        raise InvalidInput(
            f"{model} is answered by a partner, and its tokens cannot be counted here",
            next_step="ask a model of this server",
            param="model",
        )
    return await responder.prompt_size(request)
