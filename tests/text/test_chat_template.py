"""Rendering equals `transformers`; strangers' templates stay in their sandbox."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from bessemer.core.errors import InvalidInput
from bessemer.text.chat_template import ChatTemplate
from tests.text.model_folder import CHATML, varied_strings, write_model_folder
from tests.text.templates import HEADERS, INST, SPACED, THINKING

TOOLS = [{"type": "function", "function": {"name": "get", "description": "<b> & 東京"}}]
USER = {"role": "user", "content": "Hi"}


def random_chats(count: int, seed: int) -> list[list[dict[str, str]]]:
    source, texts = random.Random(seed), iter(varied_strings(count * 8, seed))
    return [
        [
            {"role": source.choice(["user", "assistant", "system"]), "content": next(texts)}
            for _ in range(source.randrange(1, 7))
        ]
        for _ in range(count)
    ]


@pytest.mark.parametrize("source", [CHATML, HEADERS, INST, THINKING, SPACED])
def test_text_equals_transformers(source: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = write_model_folder(tmp_path, source)
    oracle = transformers.AutoTokenizer.from_pretrained(folder)
    template = ChatTemplate.load(folder)
    for number, chat in enumerate(random_chats(150, seed=7)):
        for opens in (True, False):
            tools = TOOLS if number % 3 == 0 else None
            assert template.render(
                chat, add_generation_prompt=opens, tools=tools
            ) == oracle.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=opens, tools=tools
            )


def test_tool_calls_and_empty_content_equal_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    source = HEADERS.replace("message.content | trim", "(message.content or '') | trim")
    folder = write_model_folder(tmp_path, source)
    oracle = transformers.AutoTokenizer.from_pretrained(folder)
    call = {"id": "c1", "type": "function", "function": {"name": "get", "arguments": '{"a": 1}'}}
    chat = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
    ]
    mine = ChatTemplate.load(folder).render(chat, add_generation_prompt=True)
    assert mine == oracle.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert '"arguments"' in mine


def test_the_default_system_message_is_the_templates(template: ChatTemplate) -> None:
    text = template.render([USER], add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n")
    assert text.endswith("<|im_start|>assistant\n")


def test_the_jinja_file_wins_over_the_config(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path)
    (folder / "chat_template.jinja").write_text("from the file: {{ eos_token }}")
    text = ChatTemplate.load(folder).render([USER], add_generation_prompt=False)
    assert text == "from the file: <|im_end|>"


def test_of_several_templates_the_default_is_taken(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = [
        {"name": "rag", "template": "no"},
        {"name": "default", "template": "yes"},
    ]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert ChatTemplate.load(folder).render([USER], add_generation_prompt=False) == "yes"


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ().__class__.__base__.__subclasses__() }}",
        "{{ ''['__class__'] }}",
        "{{ messages | attr('__class__') }}",
        "{{ ''.__class__.mro()[1] }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__['json'] }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ dict.__subclasses__() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ joiner.__init__.__globals__ }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ namespace(__class__=1) }}",
        "{{ '{0.__class__.__base__}'.format(messages) }}",
        "{{ '{a.__class__}'.format_map({'a': 1}) }}",
        "{% set f = 'x'.format %}{{ f.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{{ messages[0].pop('role') }}",
        "{{ 'a' * 10 ** 9 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ range(10 ** 9) | list }}",
        "{% for i in range(10 ** 8) %}x{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ lipsum.__globals__ }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ ''.join(messages).__class__ }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(attack: str) -> None:
    messages = [dict(USER)]
    with pytest.raises(InvalidInput, match="template"):
        ChatTemplate(attack).render(messages, add_generation_prompt=False)
    assert messages == [USER]


def test_the_first_attack_is_named_for_what_it_is() -> None:
    with pytest.raises(InvalidInput, match="tried to leave its sandbox"):
        ChatTemplate("{{ ().__class__.__mro__ }}").render([USER], add_generation_prompt=False)


def test_an_object_with_methods_does_not_reach_the_template(tmp_path: Path) -> None:
    template = ChatTemplate("{{ messages[0].content.write_text('x') }}")
    chat: list[dict[str, Any]] = [{"role": "user", "content": tmp_path / "file"}]
    with pytest.raises(InvalidInput, match="PosixPath"):
        template.render(chat, add_generation_prompt=False)
    assert list(tmp_path.iterdir()) == []


def test_a_fault_in_a_template_is_named_with_its_line() -> None:
    with pytest.raises(InvalidInput, match=r"fault in line 2: .*endif"):
        ChatTemplate("{% if messages %}\n{% endfor %}")


def test_the_templates_own_refusal_is_passed_on() -> None:
    with pytest.raises(InvalidInput, match="Only user and assistant roles are supported!"):
        ChatTemplate(INST).render([{"role": "tool", "content": "x"}], add_generation_prompt=True)


@pytest.mark.parametrize("message", [{"role": "user"}, {"role": "user", "content": 5}, "hello"])
def test_a_message_the_template_cannot_take_is_refused(
    template: ChatTemplate, message: Any
) -> None:
    with pytest.raises(InvalidInput):
        template.render([message], add_generation_prompt=True)


def test_a_folder_without_template_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no chat template") as caught:
        ChatTemplate.load(tmp_path)
    assert "completion" in str(caught.value.next_step)


def test_a_template_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"{{ \xff }}")
    with pytest.raises(InvalidInput, match=r"not UTF-8 \(byte 4\)"):
        ChatTemplate.load(tmp_path)
