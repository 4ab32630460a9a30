"""Chats to token ids, the same way for teaching, scoring and serving.

Two things a plain "render, then encode" gets wrong are done here:

- **Train equals serve.** An answer is generated after the ids of its prompt, so the text is cut
  where an answer begins and each part encoded by itself. Otherwise an answer that starts with a
  line feed would merge with the template's own, into a token that no generation ever continues.
- **What somebody wrote is text.** `<|im_end|>`, or the `<filename>` of a usage line, inside a
  message is encoded as characters; only the template writes control tokens.

Where neither matters the ids are those of `transformers`' `apply_chat_template`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bessemer.core.errors import InvalidInput
from bessemer.text.chat_template import ChatTemplate, Message
from bessemer.text.control_marks import mark_control_tokens
from bessemer.text.tokenizer import Tokenizer
from bessemer.text.tool_prompt import tell

Tools = Sequence[Message] | None


class NameUnread(InvalidInput):
    """The template writes no message's `name`, so the model would not know who speaks."""

    code = "unsupported_parameter"


class EncodedChat(NamedTuple):
    """A chat as ids, and for each whether a model is taught (or scored on) it.

    Targets are the text of the answers and the end-of-turn token after each.
    """

    ids: list[int]
    is_target: list[bool]


def encode_prompt(
    messages: Sequence[Message], tokenizer: Tokenizer, template: ChatTemplate, tools: Tools = None
) -> list[int]:
    """The ids an answer to `messages` is generated after, the generation prompt included.

    Raises:
        InvalidInput: there are no messages, or the template refuses them.
    """
    if not messages:
        raise InvalidInput("there are no messages to answer", param="messages")
    chat = _Renderer(tokenizer, template, tools, messages)
    return [id_ for part in chat.parts(len(messages), opens=True) for id_ in part.ids]


def check_names(messages: Sequence[Message], template: ChatTemplate, tools: Tools = None) -> None:
    """See that the template writes the names that messages have.

    Few do, and each in its own way. So the prompt is written once with a mark in place of each
    name; where a mark is missing, since none is read or it is written in another way, the first
    such message of each role is written with and without its name.

    Raises:
        NameUnread: naming a message whose `name` changes nothing.
        InvalidInput: the template refuses the messages.
    """
    named = _named(messages)
    if not named:
        return
    marks = {i: f"zq{i:06}qz" for i in named}
    marked = [{**m, "name": marks[i]} if i in marks else m for i, m in enumerate(messages)]
    seen = _written(marked, template, tools) or ""
    doubtful = {messages[i]["role"]: i for i in reversed(named) if marks[i] not in seen}
    if not doubtful:
        return
    whole = _plainly(messages, template, tools)
    for index in sorted(doubtful.values()):
        without = [_nameless(m) if i == index else m for i, m in enumerate(messages)]
        # One that is refused without its name was asked for it.
        if _written(without, template, tools) == whole:
            raise _name_unread(index, messages[index]["role"])


def encode_chat(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    roles: Sequence[str] = ("assistant",),
    tools: Tools = None,
) -> EncodedChat:
    """A chat up to its last answer, with the answers as targets.

    The ids before each answer are exactly `encode_prompt` of the messages before it. An answer
    with `weight` 0 is context and no target; what follows the last target is left out.

    Args:
        messages: as OpenAI spells them.
        tokenizer: the model's.
        template: the model's.
        roles: whose messages are targets. Only answers follow a prompt, so only "assistant".
        tools: what the answers may call, in OpenAI's format.

    Raises:
        InvalidInput: there is no answer to teach, an answer has nothing before it, or the
            template rewrites earlier turns so that no sequence can hold all targets.
    """
    if set(roles) != {"assistant"}:
        raise InvalidInput(f"cannot teach the roles {list(roles)}; only ['assistant']")
    targets = [index for index, message in enumerate(messages) if _is_target(message)]
    if not targets:
        raise InvalidInput(
            f"none of the {len(messages)} messages is an answer to learn from",
            next_step="add an assistant message whose weight is not 0",
            param="messages",
        )
    if targets[0] == 0:
        raise InvalidInput(
            "the chat begins with an answer",
            next_step="put the user message it answers before it, or give it weight 0",
            param="messages",
        )
    chat = _Renderer(tokenizer, template, tools, messages)
    chat.check(targets)
    encoded = EncodedChat([], [])
    for part in chat.parts(targets[-1] + 1, opens=False):
        taught = _count_taught(part.ids, tokenizer) if part.answer in targets else 0
        encoded.ids.extend(part.ids)
        encoded.is_target.extend([True] * taught + [False] * (len(part.ids) - taught))
    return _without_tail(encoded)


class _Part(NamedTuple):
    """Ids from where message number `answer` begins to be generated; None: the first prompt."""

    answer: int | None
    ids: list[int]


class _Renderer:
    """Renders the first messages of one chat and cuts the text where answers begin."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        tools: Tools,
        messages: Sequence[Message],
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._marks = mark_control_tokens([list(messages), tools], tokenizer.special_texts)
        self._before, self._messages, self._tools = tell(
            *self._marks.values, knows_tools=template.knows_tools
        )
        self._texts: dict[tuple[int, bool], str] = {}

    def parts(self, count: int, *, opens: bool) -> list[_Part]:
        """The first `count` messages; `opens` adds the opening of one more answer."""
        text = self._text(count, opens=opens)
        starts: list[tuple[int | None, int]] = [(None, 0)]
        for index in range(1, count):
            if self._messages[index].get("role") != "assistant":
                continue
            prompt = self._text(index, opens=True)
            if text.startswith(prompt) and len(prompt) > starts[-1][1]:
                starts.append((index, len(prompt)))
        ends = [*(start for _, start in starts[1:]), len(text)]
        return [
            _Part(answer, self._encode(text[start:end], is_first=start == 0))
            for (answer, start), end in zip(starts, ends, strict=True)
        ]

    def check(self, targets: Sequence[int]) -> None:
        """Raise InvalidInput unless one sequence holds every target as it is generated."""
        whole = self._text(targets[-1] + 1, opens=False)
        for index in targets:
            prompt = self._text(index, opens=True)
            alone = self._text(index + 1, opens=False)
            if not alone.startswith(prompt):
                raise _crooked_template()
            # What stands between two turns may be missing after the last one.
            if not whole.startswith(alone.rstrip()) or not whole.startswith(prompt):
                raise _forgetful_template(index, targets[-1] + 1)

    def _text(self, count: int, *, opens: bool) -> str:
        if (count, opens) not in self._texts:
            self._texts[count, opens] = self._template.render(
                [*self._before, *self._messages[:count]],
                add_generation_prompt=opens,
                tools=self._tools,
            )
        return self._texts[count, opens]

    def _encode(self, text: str, *, is_first: bool) -> list[int]:
        ids: list[int] = []
        for piece, is_written in self._marks.split(text):
            encode = self._tokenizer.encode_continuation
            if is_first and not ids:
                encode = self._tokenizer.encode
            ids += encode(piece, parse_special=not is_written)
        return ids


def _plainly(messages: Sequence[Message], template: ChatTemplate, tools: Tools) -> str:
    """The text of a prompt, to compare."""
    before, told, tools = tell(messages, tools, knows_tools=template.knows_tools)
    return template.render([*before, *told], add_generation_prompt=True, tools=tools)


def _written(messages: Sequence[Message], template: ChatTemplate, tools: Tools) -> str | None:
    """None where the template refuses them."""
    try:
        return _plainly(messages, template, tools)
    except InvalidInput:
        return None


def _named(messages: Sequence[Message]) -> list[int]:
    """The messages whose `name` says more than they do without it: that of a result may repeat its
    call's, as in OpenAI's own examples.
    """
    called: dict[str, str] = {}
    found = []
    for index, message in enumerate(messages):
        for call in message.get("tool_calls") or ():
            called[call.get("id", "")] = call["function"]["name"]
        name = message.get("name")
        if name and called.get(message.get("tool_call_id", "")) != name:
            found.append(index)
    return found


def _nameless(message: Message) -> Message:
    return {key: value for key, value in message.items() if key != "name"}


def _name_unread(index: int, role: str) -> NameUnread:
    param = f"messages[{index}].name"
    return NameUnread(
        f"Unsupported parameter: '{param}' is not read by this model: its chat template writes no"
        f" name of a message of the role '{role}' there. Nothing is ignored here.",
        next_step="write who speaks into the content, or leave 'name' out",
        param=param,
    )


def _is_target(message: Message) -> bool:
    return message.get("role") == "assistant" and message.get("weight") != 0


def _crooked_template() -> InvalidInput:
    return InvalidInput(
        "the chat template opens an answer in another way than it writes a finished one, "
        "so what is taught would not be what is asked for when serving",
        next_step="edit the model's chat_template: with add_generation_prompt it must write "
        "exactly the beginning of a finished answer's turn",
    )


def _forgetful_template(index: int, count: int) -> InvalidInput:
    return InvalidInput(
        f"the chat template rewrites message {index + 1} of {count} when more turns follow, "
        "so one sequence cannot hold all the answers as they are generated",
        next_step="make one chat for each answer, or give all answers but the last weight 0",
        param="messages",
    )


def _count_taught(ids: Sequence[int], tokenizer: Tokenizer) -> int:
    for count, id_ in enumerate(ids, start=1):
        if id_ in tokenizer.eos_ids:
            return count
    names = [tokenizer.token_text(id_) for id_ in sorted(tokenizer.eos_ids)]
    raise InvalidInput(
        f"the chat template writes no end-of-turn token after an answer (known: {names})",
        next_step="put the token that ends a turn into the model's generation_config.json as "
        "eos_token_id, or into its chat_template",
    )


def _without_tail(encoded: EncodedChat) -> EncodedChat:
    end = len(encoded.ids) - encoded.is_target[::-1].index(True)
    return EncodedChat(encoded.ids[:end], encoded.is_target[:end])
