"""Writes docs/reference from the code: `make docs`. `tests/test_docs.py` fails when it is behind.

What a program can know is read from it: verbs, recipe keys, errors, parameters and their limits.
What it cannot know, what a parameter means, stands in `MEANING` below; a parameter that is in
the code and not there, or the other way round, stops the generator.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import click
import msgspec
import pydantic

from bessemer.app import chat, embeddings
from bessemer.app.keys import DEFAULT_SCOPES
from bessemer.app.platform import Platform
from bessemer.cli.main import VERBS, bessemer
from bessemer.core import errors
from bessemer.core.errors import BessemerError
from bessemer.core.recipes import Frozen, explain, load, sections_of
from bessemer.core.train_recipe import TrainRecipe
from bessemer.evals.recipe import EvalRecipe
from bessemer.gateway import (
    chat_request,
    completion_request,
    failures,
    parameters,
    response_request,
    tools,
)
from bessemer.gateway import embeddings as embeddings_request
from bessemer.gateway.exchange import MAX_BODY_BYTES
from bessemer.gateway.resources import resource_routes

DOCS = Path(__file__).parent
RECIPES = DOCS.parent / "recipes"
WIDTH = 88
NOTE = "<!-- written by docs/generate.py (make docs); do not edit -->\n"

# Parameters that shape an answer, and what of OpenAI's own description needs to be said here.
MEANING = {
    "model": "a name that `GET /v1/models` lists, or a digest (12 or more of its hex digits)",
    "messages": "text only; roles `system`, `developer` (taken as `system`), `user`, `assistant`,"
    " and `tool` for the result of a call",
    "prompt": "a string, a list of strings, a list of token ids, or a list of such lists",
    "input": "responses: text or items; embeddings: a string, up to"
    f" {embeddings.MAX_INPUTS:,} strings, a list of token ids (taken as they are), or a list of"
    f" such lists; {embeddings.MAX_TOKENS:,} tokens in all",
    "encoding_format": "`float`, the default, or `base64`: little-endian float32",
    "dimensions": "the first so many numbers of each vector, brought to unit length again",
    "pooling": "**extension**: `mean`, `cls` or `last`; by default what the model was made with,"
    " for decoders `mean`; an encoder has no `last`, a decoder no `cls`",
    "temperature": "default 1; 0 takes the likeliest token each time",
    "top_p": "default 1",
    "top_k": "**extension**: sample from the `top_k` likeliest tokens; 0, the default, from all",
    "min_p": "**extension**: leave out tokens less than `min_p` as likely as the likeliest;"
    " default 0",
    "presence_penalty": "taken once from the score of each token that the answer has; default 0",
    "frequency_penalty": "taken as often as the answer has the token; default 0",
    "repetition_penalty": "**extension**: scores of tokens in prompt and answer are divided by it"
    " (multiplied where negative); default 1",
    "logit_bias": "token id, as a string, to what is added to its score; up to 1,024 of them",
    "max_tokens": "chat: default, what the prompt leaves of the context; completions: 16",
    "max_completion_tokens": "the same as `max_tokens`; not both",
    "n": "choices; with a seed, choice *i* uses seed + *i*",
    "seed": "draws the same tokens from the same probabilities; rounding may differ with what else"
    " the engine computes at the time, unless the server is"
    " [deterministic](../guides/replay.md)",
    "stop": f"up to {parameters.MAX_STOPS} strings; none of them is in the answer",
    "stream": "server-sent events, ended by `[DONE]`",
    "stream_options": "`include_usage`; `include_obfuscation` is refused when true",
    "suffix": "completions: what follows the answer; for models trained to fill in the middle",
    "response_format": "`text`, `json_object` or `json_schema`; a schema is always held to,"
    " `strict` or not ([guide](../guides/structured-output.md))",
    "structured_outputs": "**extension**: one of `json` (a schema), `regex`, `choice` (a list of"
    " strings), `grammar` (Lark) and `json_object`, which the answer then is",
    "tools": "functions that the model may call, with arguments that are always valid"
    f" ([guide](../guides/structured-output.md#tools)); up to {tools.MAX_TOOLS}",
    "tool_choice": "`auto` (default with tools), `none`, `required`, one function by name, or"
    " `allowed_tools`",
    "parallel_tool_calls": "default true; false allows one call",
    "functions": "`tools` as they were spelled once; the answer's call is then a `function_call`",
    "function_call": "as `tool_choice`: `auto`, `none`, or one function by name",
    "logprobs": "chat: true or false; completions: how many alternatives",
    "prompt_logprobs": "**extension**, as in vLLM: of each prompt token, by id, its `logprob`,"
    " `rank` and `decoded_token`, with so many of the likeliest in its place; null for the first."
    " Not streamed. The prompt is then computed whole, whatever the prefix cache holds",
    "timeout": "**extension**: seconds that the request is given, waiting included; then it ends"
    " with 504 `deadline_exceeded`, or that error as the last event of its stream",
    "echo": "the answer begins with the prompt; with `logprobs` its tokens are told of as well, and"
    " `max_tokens` 0 tells of nothing else",
    "best_of": "so many answers are made for each prompt, all of them counted, and the `n` with the"
    " highest log-probability per token (its end included) returned, best first; not streamed",
    "top_logprobs": "with `logprobs`; responses: with `include`",
    "store": "keep the answer ([guide](../guides/responses.md)); chat: default false, responses:"
    " default true",
    "metadata": "up to 16 pairs of text to find a stored object by",
    "instructions": "what the system says first; not carried over by `previous_response_id`",
    "previous_response_id": "the stored response that this one continues",
    "conversation": "the conversation that this one reads and adds to; not both",
    "max_output_tokens": "default, what the prompt leaves of the context",
    "include": "`message.output_text.logprobs`; the other values that OpenAI knows are of things"
    " that no answer here has",
    "background": "answer at once with `queued`, and work on without the client",
    "truncation": "`disabled` (default), or `auto`: the oldest turns are left out where the prompt"
    " does not fit, and `dropped_items` names them",
    "text": "`format`: `text`, `json_object`, or `json_schema` with its `name` and `schema`;"
    " `verbosity` only `medium`",
    "reasoning": "only `effort` `none` and nulls: these models do not reason apart",
}
# Beyond the tree of `core.errors`.
API_ERRORS = (failures.__name__, chat.__name__)
NO_EFFECT = {
    *("user", "safety_identifier", "prediction", "max_tool_calls"),
    *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
}
ENDPOINTS = (
    ("POST /v1/chat/completions", "chat", "an answer to messages, whole or streamed"),
    ("POST /v1/completions", "chat", "a continuation of text or token ids, whole or streamed"),
    ("POST /v1/embeddings", "chat", "a vector of unit length for each text"),
    ("GET /v1/models", "models:read", "the models and adapters with names, each with its `state`"),
    ("GET /v1/models/{id}", "models:read", "one of them"),
    ("GET /healthz", "no key", "`ok` or `loading`, the models in use, the version"),
    (
        "GET /metrics",
        "models:read, or no key where only this machine can ask",
        "requests, latencies and engines, for Prometheus",
    ),
)

DIFFERENCES = """\
- Nothing is ignored. A known parameter that would change the answer and is not implemented gives
  400 `unsupported_parameter`; an unknown one gives 400 `unknown_parameter`.
- A prompt is never cut. If prompt and `max_tokens` do not fit the model, the answer is 400
  `context_length_exceeded` with all the numbers.
- `top_k`, `min_p`, `repetition_penalty`, `structured_outputs`, `prompt_logprobs` and `timeout` are
  extensions. So is `state` of a model: `stopped` (the first request will load it), `loading`,
  `ready`, `sleeping` (unloaded; the next request loads it again) or `failed`; and `parent`
  of an adapter: its base ([guide](../guides/adapters.md)).
- A model that needs more memory than all models may have gets 507 `model_too_large`; one that finds
  no room for a minute, since others are answering, 503 `engine_loading`.
- A request for a model that is loading waits for it, for up to a minute; then it gets 503
  `engine_loading`. An engine that dies is started again, and a request of which nothing was sent
  yet is computed again, once. What had begun to stream, or met two deaths, gets 503 `engine_died`
  (as its last event); after two, with `x-should-retry: false`, since it may be their reason.
- A full queue gives 429 `engine_busy` with `Retry-After`.
- `system_fingerprint` is made of the model's digest, so it changes when the bytes do.
  `usage.prompt_tokens_details.cached_tokens` counts what the prefix cache saved.
- When the client goes away, its request ends in the engine.
- Schemas are always held to, `strict` or not; a keyword that cannot be is refused by name. An
  answer with calls has `finish_reason` `tool_calls`, also where a function was chosen by name.
- Responses: hosted tools are refused by name. `dropped_items` is an extension, see `truncation`. A
  response that is not a background one ends when its client goes away, and is not stored then.
- `/v1/feedback` is an extension ([guide](../guides/feedback.md)). Batches ask chat completions,
  completions, embeddings and responses ([guide](../guides/batches.md)).
- Not there: images, audio, custom tools."""


def pages() -> dict[str, str]:
    """Path below docs/ -> text, for every generated page."""
    return {
        "reference/cli.md": cli_page(),
        "reference/recipes.md": recipes_page(),
        "reference/errors.md": errors_page(),
        "reference/api.md": api_page(),
    }


def cli_page() -> str:
    parts = [
        "# Verbs",
        "`bessemer VERB --help` prints the same. Exit status: 0, done; 1, it could not be done, or"
        " a check found faults; 2, the command line is wrong. Errors go to standard error and end"
        " with the next command.",
        _block(_help((), bessemer)),
    ]
    for verb in VERBS:
        command = bessemer.get_command(click.Context(bessemer), verb)
        assert command is not None
        parts.append(f"## bessemer {verb}")
        parts += [_block(_help(words, part)) for words, part in _with_parts((verb,), command)]
    return _page(parts)


def recipes_page() -> str:
    return _page(
        [
            "# Recipe keys",
            "A recipe is a TOML file. A key that is not here is refused with the one that was"
            " probably meant. `--set a.b=value` overrides a value; `bessemer explain"
            " recipes/teach.toml` prints every value of one recipe, where it comes from and why.",
            "## Training",
            "`bessemer train RECIPE`. A section that is absent has its defaults; without `[lora]`,"
            " every weight is trained.",
            *_recipe_tables(TrainRecipe),
            "### The recipes that come along",
            "What `recipes/` sets; the rest has its default.",
            *(_shipped(path) for path in sorted(RECIPES.glob("*.toml"))),
            "## Evaluation",
            "`bessemer eval` has options for `items` and `shots`; the others have their defaults"
            " and are kept with the run.",
            *_recipe_tables(EvalRecipe),
        ]
    )


def errors_page() -> str:
    phrases = _phrases()
    rows = [
        (f"`{cls.code}`", str(cls.status), f"`{cls.__name__}`", phrases.get(cls.__name__, ""))
        for cls in _tree(BessemerError)
    ]
    fault = errors.NotFound("there is no run 'run_0'", next_step="bessemer runs")
    return _page(
        [
            "# Errors",
            "Every error that a person or a client is shown is one of these. The command line"
            " prints the message and the next step; the API answers in OpenAI's shape, with the"
            " status and code below.",
            _block(_tree_text()),
            "With the codes that clients see, and the API's own errors:",
            _table(("code", "status", "class", "what it means"), rows),
            "In the terminal:",
            _block(f"error: {fault}"),
            "In the API:",
            _block(failures.error_body(fault).decode(), "json"),
            "`type` is `invalid_request_error` below 500, `permission_error` for 403,"
            " `rate_limit_error` for 429 and `server_error` from 500 on. 429 and 503 come with"
            " `Retry-After`. After a stream has begun, the error is its last event and no"
            " `[DONE]` follows.",
        ]
    )


def _resources() -> list[tuple[str, str, str]]:
    # Routes are only looked at here: no handler runs, so none misses its platform.
    routes = resource_routes(cast(Platform, None))
    return [
        (
            f"{route.method} {route.path}",
            ", ".join(route.query),
            inspect.getdoc(route.handle).splitlines()[0].rstrip("."),
        )
        for route in routes
    ]


def api_page() -> str:
    return _page(
        [
            "# API",
            "OpenAI's shapes, so that its clients work with another `base_url`. Keys come from"
            f" `bessemer key create` (scopes {', '.join(f'`{s}`' for s in DEFAULT_SCOPES)}) and go"
            " into the header `Authorization: Bearer ...`.",
            _table(("endpoint", "scope", "answer"), ENDPOINTS),
            "Objects, their lists and what can be done with them (lists take `limit`, `order`,"
            " `after` where their query says so):",
            _table(("endpoint", "query", "what it does"), _resources()),
            "Everything else of OpenAI's specification answers 501 with the code"
            " `not_implemented`, and what OpenAI itself has retired 404 with the code `retired`.",
            f"A body is JSON of at most {MAX_BODY_BYTES // 2**20} MiB. Every answer carries"
            " `x-request-id`.",
            "## POST /v1/chat/completions",
            *_parameter_tables(chat_request.ChatBody, chat_request._NEUTRAL),
            f"At most {chat_request.MAX_MESSAGES:,} messages. One with audio or images is refused,"
            " and one with a `name` where the model's chat template writes none. A refusal is what"
            " the assistant said; `parsed` and `parsed_arguments`, which OpenAI's client adds, are"
            " left.",
            "## POST /v1/responses",
            *_parameter_tables(response_request.ResponseBody, response_request._NEUTRAL),
            "`input` is a string, or items: messages (text), `function_call`,"
            " `function_call_output`, `item_reference`."
            " ([guide](../guides/responses.md))",
            "## POST /v1/completions",
            *_parameter_tables(completion_request.CompletionBody, {}),
            "## POST /v1/embeddings",
            *_parameter_tables(embeddings_request.EmbeddingBody, {}),
            "Any model makes vectors: encoders (`bessemer pull all-minilm-l6-v2`) as they were"
            " taught to, decoders of their last hidden states. Control tokens written into a text"
            " are text. A text that is longer than the model reads is refused, not cut.",
            "## What differs from OpenAI",
            DIFFERENCES,
        ]
    )


def _with_parts(
    words: tuple[str, ...], command: click.Command
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        for name, part in command.commands.items():
            yield from _with_parts((*words, name), part)


def _help(words: Sequence[str], command: click.Command) -> str:
    name = " ".join(("bessemer", *words))
    context = click.Context(
        command, info_name=name, terminal_width=WIDTH, **bessemer.context_settings
    )
    return command.get_help(context)


def _recipe_tables(kind: type[Frozen]) -> Iterator[str]:
    yield _table(("key", "value", "default", "what it is"), list(_rows(kind, "", {})))
    yield from _section_tables(kind, "")


def _section_tables(kind: type[pydantic.BaseModel], prefix: str) -> Iterator[str]:
    for name, field in kind.model_fields.items():
        for section in sections_of(field.annotation):
            defaults = field.default.model_dump() if isinstance(field.default, Frozen) else {}
            yield f"### [{prefix}{name}]{_tag(section)}"
            yield _table(
                ("key", "value", "default", "what it is"),
                list(_rows(section, f"{prefix}{name}.", defaults)),
            )
            yield from _section_tables(section, f"{prefix}{name}.")


def _tag(section: type[pydantic.BaseModel]) -> str:
    """The one value that makes a table this kind of section."""
    choices = typing.get_args(getattr(section.model_fields.get("kind"), "annotation", None))
    return f' with kind = "{choices[0]}"' if len(choices) == 1 else ""


def _rows(
    kind: type[pydantic.BaseModel], prefix: str, defaults: dict[str, Any]
) -> Iterator[tuple[str, ...]]:
    for name, field in kind.model_fields.items():
        if sections_of(field.annotation):
            continue
        default = "required" if field.is_required() else _value(defaults.get(name, field.default))
        kind_of_value = _kind(field.annotation, field.metadata)
        yield f"`{prefix}{name}`", kind_of_value, default, field.description or ""


def _kind(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """`integer from 1`, `"linear" or "cosine"`: a value as a person says it."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(args[0], args[1:])
    if origin in (typing.Union, types.UnionType):
        return _kind(next(part for part in args if part is not types.NoneType), metadata)
    if origin is Literal:
        return " or ".join(f'"{choice}"' for choice in args)
    if origin is tuple and args[-1] is Ellipsis:
        return f"list of {_kind(args[0])}"
    if origin is tuple:
        return f"{len(args)} numbers"
    names = {int: "integer", float: "number", str: "text", bool: "true or false"}
    return names[annotation] + _limits(metadata)


def _limits(metadata: Iterable[Any]) -> str:
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    limits = {
        name: value
        for constraint in metadata
        for part in (constraint, *getattr(constraint, "metadata", ()))
        for name in words
        if (value := getattr(part, name, None)) is not None
    }
    return "".join(f" {words[name]} {value:,}" for name, value in limits.items())


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _shipped(path: Path) -> str:
    lines = [line for line in explain(load(path, TrainRecipe)) if line.source == "recipe"]
    rows = [(f"`{line.key}`", line.value) for line in lines]
    return f"`recipes/{path.name}`:\n\n{_table(('key', 'value'), rows)}"


def _tree(cls: type[BessemerError]) -> Iterator[type[BessemerError]]:
    """The product's errors in reading order, whatever else was imported, and in which order."""
    yield cls
    known = list(vars(errors))
    ours = [c for c in cls.__subclasses__() if c.__module__ in (*API_ERRORS, errors.__name__)]
    for child in sorted(
        ours, key=lambda c: (known.index(c.__name__) if c.__name__ in known else 999, c.__name__)
    ):
        yield from _tree(child)


def _tree_text() -> str:
    assert errors.__doc__ is not None
    return errors.__doc__[errors.__doc__.index("BessemerError") :].rstrip()


def _phrases() -> dict[str, str]:
    """Class -> what the tree says of it; for the API's errors, what their docstring says."""
    found = dict(re.findall(r"^ +(\w+) +(?:\d{3} +)?([^\d\s].*)$", _tree_text(), re.MULTILINE))
    for cls in _tree(BessemerError):
        if cls.__module__ in API_ERRORS and cls.__doc__:
            found[cls.__name__] = cls.__doc__.splitlines()[0].rstrip(".")
    return found


def _parameter_tables(body: type[msgspec.Struct], neutral: Any) -> Iterator[str]:
    info = msgspec.inspect.type_info(body)
    assert isinstance(info, msgspec.inspect.StructType)
    fields = {field.name: field for field in info.fields}
    unknown = set(fields) - set(MEANING) - NO_EFFECT - set(neutral)
    assert not unknown, f"say in MEANING or NO_EFFECT what these are: {sorted(unknown)}"
    taken = sorted(
        (field for name, field in fields.items() if name in MEANING),
        key=lambda field: list(MEANING).index(field.name),
    )
    rows = [
        (f"`{f.name}`", "yes" if f.required else "", _range(f.type), MEANING[f.name]) for f in taken
    ]
    yield _table(("parameter", "required", "range", "notes"), rows)
    left = ", ".join(f"`{name}`" for name in fields if name in NO_EFFECT)
    yield f"Taken, without effect on the answer: {left}."
    if not neutral:
        return
    yield "Refused with 400 `unsupported_parameter`, unless absent, null, or:"
    refused = [
        (f"`{name}`", ", ".join(f"`{msgspec.json.encode(v).decode()}`" for v in allowed) or "-")
        for name, allowed in neutral.items()
    ]
    yield _table(("parameter", "may be"), refused)


def _range(kind: Any) -> str:
    """The limits of a number, wherever in the type they stand."""
    parts = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
    for part in parts:
        least, most = getattr(part, "ge", None), getattr(part, "le", None)
        if least is not None and most is not None and abs(most) < 2**31 - 1:
            return f"{least} to {most}"
        if least is not None and abs(least) < 2**31:
            return f"from {least}"
    return ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in lines)


def _block(text: str, language: str = "text") -> str:
    return f"```{language}\n{text}\n```"


def _page(parts: Iterable[str]) -> str:
    return NOTE + "\n" + "\n\n".join(parts) + "\n"


def main() -> None:
    for name, text in pages().items():
        path = DOCS / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        print(f"wrote {path.relative_to(DOCS.parent)}")


if __name__ == "__main__":
    main()
