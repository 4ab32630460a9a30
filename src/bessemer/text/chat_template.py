"""A model's chat template: messages in, the text the model was taught to continue out.

The text equals `transformers`' `apply_chat_template(..., tokenize=False)`. Turning that text into
ids, with what a user wrote kept apart from control tokens, is `chat_encoding`'s work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta

from bessemer.core.errors import InvalidInput
from bessemer.text.sandbox import Sandbox
from bessemer.text.special_tokens import read_config, special_texts

Message = Mapping[str, Any]
LARGEST_TEXT = 64_000_000  # characters; a template in an endless loop stops here


class ChatTemplate:
    """One compiled template and the special tokens it may name.

    Attributes:
        knows_tools: whether it writes tools or calls at all.
    """

    def __init__(self, source: str, special: Mapping[str, str] | None = None) -> None:
        """Raises InvalidInput when `source` is no template; the message names the line."""
        self.source = source
        self._special = dict(special or {})
        sandbox = Sandbox()
        try:
            self._template = sandbox.from_string(source)
            names = jinja2.meta.find_undeclared_variables(sandbox.parse(source))
        except jinja2.TemplateSyntaxError as fault:
            raise InvalidInput(
                f"the chat template has a fault in line {fault.lineno}: {fault.message}",
                next_step="repair chat_template in the model's tokenizer_config.json",
            ) from fault
        self.knows_tools = "tools" in names or "tool_calls" in source

    @classmethod
    def load(cls, folder: Path) -> ChatTemplate:
        """From `chat_template.jinja`, else from `tokenizer_config.json`.

        Raises:
            InvalidInput: the folder has no template, or one with a fault.
        """
        source = _read_source(folder)
        if source is None:
            raise InvalidInput(
                f"{folder.name} has no chat template, so it cannot take messages",
                next_step="use text completion, or put a chat_template.jinja into the model folder",
            )
        return cls(source, special_texts(folder))

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Message] | None = None,
    ) -> str:
        """The conversation as text, with the opening of an answer if one is asked for.

        Raises:
            InvalidInput: the template refuses these messages, or tries to leave its sandbox.
        """
        values: dict[str, Any] = {
            **self._special,
            "messages": [_without_none(_plain(message)) for message in messages],
            "tools": _plain(tools),
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return _join(self._template.generate(values))
        except jinja2.exceptions.SecurityError as fault:
            raise InvalidInput(
                f"the chat template tried to leave its sandbox: {fault}",
                next_step="do not trust this model; get it from its publisher",
            ) from fault
        except jinja2.TemplateError as fault:
            raise InvalidInput(
                f"the chat template refuses these messages: {fault}",
                next_step="change the order or roles of the messages as the template asks",
                param="messages",
            ) from fault
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as fault:
            raise InvalidInput(
                f"the chat template cannot render these messages: {fault}",
                next_step="give every message a role and a text as content",
                param="messages",
            ) from fault
        except RecursionError as fault:
            raise InvalidInput("the chat template calls itself without end") from fault


def _read_source(folder: Path) -> str | None:
    path = folder / "chat_template.jinja"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        pass  # then it is in the config
    except UnicodeDecodeError as fault:
        raise InvalidInput(f"{path} is not UTF-8 (byte {fault.start + 1})") from fault
    found = read_config(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):
        named = {entry.get("name"): entry for entry in found if isinstance(entry, dict)}
        found = named.get("default", {}).get("template")
    return found if isinstance(found, str) else None


def _join(pieces: Any) -> str:
    whole, size = [], 0
    for piece in pieces:
        whole.append(piece)
        size += len(piece)
        if size > LARGEST_TEXT:
            raise jinja2.TemplateError(f"it writes more than {LARGEST_TEXT:,} characters")
    return "".join(whole)


def _plain(value: Any) -> Any:
    """A copy of nothing but JSON types: methods of richer objects are doors out of the sandbox."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise InvalidInput(f"a message holds a {type(value).__name__}; only JSON values are taken")


def _without_none(message: Any) -> Any:
    # `content: null` is how APIs say "no content"; templates test for a missing key.
    if not isinstance(message, dict):
        raise InvalidInput(f"a message is a {type(message).__name__}; expected an object")
    return {key: value for key, value in message.items() if value is not None}
