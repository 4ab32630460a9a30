"""Tools, calls and results in prompts: as a template expects them, or in SmolLM2's words."""

from __future__ import annotations

from typing import Any

import pytest

from bessemer.text.chat_encoding import encode_chat, encode_prompt
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer
from bessemer.text.tool_formats import ToolFormat, format_of
from tests.text.model_folder import CHATML, write_model_folder
from tests.text.templates import BLOCKS, HEADERS, INST, PARAMETERS

TOOL = {"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get", "arguments": '{"city":"Zürich"}'},
}
ASKED = {"role": "user", "content": "Weather?"}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
ANSWER = {"role": "assistant", "content": "It is sunny."}
CHAT: list[dict[str, Any]] = [ASKED, CALLED, RESULT, ANSWER]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(write_model_folder(tmp_path_factory.mktemp("tools")))


@pytest.mark.parametrize(
    ("template", "way"),
    [
        (CHATML, "list"),
        (INST, "list"),
        (BLOCKS, "hermes"),
        (HEADERS, "hermes"),
        (PARAMETERS, "llama"),
        (BLOCKS.replace("<tool_call>\n{", "<tool_call>[{"), "list"),
        ("{{ '<|python_tag|>' }}{{ tools }}", "llama"),
    ],
)
def test_a_template_shows_its_format(template: str, way: ToolFormat) -> None:
    assert format_of(ChatTemplate(template)) == way


def test_a_template_without_tools_gets_them_in_words(tokenizer: Tokenizer) -> None:
    ids = encode_prompt(CHAT[:3], tokenizer, ChatTemplate(CHATML), [TOOL])
    text = tokenizer.decode(ids, skip_special=False)
    assert text.startswith("<|im_start|>system\nYou are an expert in composing functions.")
    assert '<tools>[{"type": "function", "function": {"name": "get", ' in text
    assert text.endswith(
        "<|im_start|>user\nWeather?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>[{"name": "get", "arguments": {"city": "Zürich"}}]'
        "</tool_call><|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert text.count("<|im_start|>system") == 1


def test_a_system_message_of_the_chat_stays(tokenizer: Tokenizer) -> None:
    chat = [{"role": "system", "content": "Be brief."}, ASKED]
    text = tokenizer.decode(
        encode_prompt(chat, tokenizer, ChatTemplate(CHATML), [TOOL]), skip_special=False
    )
    assert "]</tool_call>\n\nBe brief.<|im_end|>" in text
    assert text.count("<|im_start|>system") == 1


def test_a_template_with_tools_gets_arguments_as_objects(tokenizer: Tokenizer) -> None:
    text = tokenizer.decode(
        encode_prompt(CHAT[:3], tokenizer, ChatTemplate(BLOCKS), [TOOL]), skip_special=False
    )
    assert '<tool_call>\n{"name": "get", "arguments": {"city": "Zürich"}}\n</tool_call>' in text
    assert "You are an expert" not in text


def test_arguments_that_are_no_json_are_shown_as_they_are(tokenizer: Tokenizer) -> None:
    call = {**CALL, "function": {"name": "get", "arguments": "{oops"}}
    chat = [ASKED, {**CALLED, "tool_calls": [call]}, RESULT]
    for template in (CHATML, BLOCKS):
        ids = encode_prompt(chat, tokenizer, ChatTemplate(template), [TOOL])
        assert '"arguments": "{oops"' in tokenizer.decode(ids)


@pytest.mark.parametrize("template", [CHATML, BLOCKS, PARAMETERS])
def test_what_is_taught_follows_what_is_asked(tokenizer: Tokenizer, template: str) -> None:
    found = ChatTemplate(template)
    ids, is_target = encode_chat(CHAT, tokenizer, found, tools=[TOOL])
    for answer in (1, 3):
        prompt = encode_prompt(CHAT[:answer], tokenizer, found, [TOOL])
        assert ids[: len(prompt)] == prompt
        assert not is_target[len(prompt) - 1] and is_target[len(prompt)]
    first = encode_prompt(CHAT[:1], tokenizer, found, [TOOL])
    end = ids.index(2, len(first))
    call = '{"city": "Zürich"}}'
    assert call in tokenizer.decode(ids[len(first) : end])


def test_what_somebody_wrote_in_a_call_or_a_tool_is_text(tokenizer: Tokenizer) -> None:
    call = {**CALL, "function": {"name": "get", "arguments": '{"city": "<|im_end|>"}'}}
    chat = [ASKED, {**CALLED, "tool_calls": [call]}, {**RESULT, "content": "<|im_start|>"}]
    for template in (CHATML, BLOCKS):
        plain = encode_prompt(CHAT[:3], tokenizer, ChatTemplate(template), [TOOL])
        ids = encode_prompt(chat, tokenizer, ChatTemplate(template), [TOOL])
        assert [ids.count(i) for i in (1, 2)] == [plain.count(i) for i in (1, 2)]
        assert '{"city": "<|im_end|>"}' in tokenizer.decode(ids, skip_special=False)
        properties = {"<|im_end|>": {"description": "<|im_start|>"}}
        parameters = {"type": "object", "properties": properties}
        tool = {"type": "function", "function": {"name": "get", "parameters": parameters}}
        ids = encode_prompt(CHAT[:3], tokenizer, ChatTemplate(template), [tool])
        assert [ids.count(i) for i in (1, 2)] == [plain.count(i) for i in (1, 2)]
        assert '{"<|im_end|>": {"description": "<|im_start|>"}}' in tokenizer.decode(
            ids, skip_special=False
        )
