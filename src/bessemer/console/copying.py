"""*Copy as curl, Python, CLI*: what a page shows or does, as the calls that do the same elsewhere.

A page hands over the calls, and `base.html` shows them below it:

    calls = [ApiCall("List the files", "GET", "/v1/files", python="files.list")]
    return page(request, "files.html", calls=calls, ...)

Keys are named by their environment variables, so no copied text holds a secret. Every text is run
by the tests (`tests/console/copied.py`), which compare what it answers with what the page shows.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, urlencode

Method = Literal["GET", "POST", "DELETE"]

# The endpoints of an organization want an admin key, by the name that OpenAI's client reads; those
# that its client does not know are extensions of ours, for keys of projects.
_ADMIN_PATHS = ("/v1/organization", "/v1/projects")
_WIDTH = 88


class Text(NamedTuple):
    """One way to say it; `name` is `curl`, `Python` or `CLI`."""

    name: str
    text: str


@dataclass(frozen=True)
class ApiCall:
    """A request to the API, and how the official `openai` client and the command line say it.

    Args:
        title: what it does, as a heading says it: `List the files`.
        path: as the specification writes it, `/v1/files/{file_id}`.
        ids: what stands in the gaps of `path`, from left to right.
        query: a list is sent as `name[]`, a mapping as `name[key]`, as OpenAI's client sends them.
        body: JSON; with `files`, the fields of a form.
        files: form fields whose value is the content of a file at this path.
        python: the method of the client, `files.retrieve`; None where it has none, for which the
            client's own `get`, `post` and `delete` are called.
        answer: what comes back: an object, or the bytes of a text.
        cli: the words after `bessemer`, or None where no verb does it.
    """

    title: str
    method: Method
    path: str
    ids: Sequence[str] = ()
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    python: str | None = None
    answer: Literal["object", "text"] = "object"
    cli: Sequence[str] | None = None

    def __post_init__(self) -> None:
        assert len(self._gaps) == len(self.ids), f"{self.path} with {self.ids}"

    def texts(self, base_url: str) -> list[Text]:
        """All ways there are.

        Args:
            base_url: of the server, without `/v1`: `http://127.0.0.1:8000`.
        """
        found = [
            Text("curl", self.as_curl(base_url)),
            Text("Python", self.as_python(base_url)),
        ]
        command = self.as_cli()
        return found if command is None else [*found, Text("CLI", command)]

    def as_curl(self, base_url: str) -> str:
        """For any POSIX shell."""
        lines = [f"curl -sS {self._curl_method}{shlex.quote(base_url + self._target)}"]
        lines.append(f'  -H "Authorization: Bearer ${self.key_variable}"')
        if self.files:
            fields = {**(self.body or {}), **{name: f"@{at}" for name, at in self.files.items()}}
            lines += [f"  -F {shlex.quote(f'{name}={value}')}" for name, value in fields.items()]
        elif self.body is not None:
            lines.append('  -H "Content-Type: application/json"')
            lines.append(f"  -d {shlex.quote(_json(self.body))}")
        return " \\\n".join(lines)

    def as_python(self, base_url: str) -> str:
        """A whole program over the official client, which prints what came back."""
        lines = ["import os", "", "from openai import OpenAI", ""]
        argument = "admin_api_key" if self.is_admin else "api_key"
        url, key = _literal(f"{base_url}/v1"), f'os.environ["{self.key_variable}"]'
        lines.append(_call("client = OpenAI", [f"base_url={url}", f"{argument}={key}"]))
        if self.python is None:
            lines.append(_call(f"answer = client.{self.method.lower()}", self._raw_arguments()))
            lines[:1] = ["import json", "import os"]
            lines.append("print(json.dumps(answer, indent=2))")
        else:
            lines.append(_call(f"answer = client.{self.python}", self._arguments()))
            shown = "answer.to_json()" if self.answer == "object" else "answer.text"
            lines.append(f"print({shown})")
        return "\n".join(lines)

    def as_cli(self) -> str | None:
        """The verb in the terminal of the machine the server runs on, or None."""
        return None if self.cli is None else shlex.join(["bessemer", *self.cli])

    @property
    def is_admin(self) -> bool:
        return self.python is not None and self.path.startswith(_ADMIN_PATHS)

    @property
    def key_variable(self) -> str:
        """The environment variable that holds the key."""
        return "OPENAI_ADMIN_KEY" if self.is_admin else "OPENAI_API_KEY"

    @property
    def _gaps(self) -> list[str]:
        return re.findall(r"\{(\w+)\}", self.path)

    @property
    def _filled(self) -> str:
        ids = iter(self.ids)
        return re.sub(r"\{\w+\}", lambda _: quote(next(ids), safe=""), self.path)

    @property
    def _target(self) -> str:
        query = urlencode(list(_flat(self.query)))
        return f"{self._filled}?{query}" if query else self._filled

    @property
    def _curl_method(self) -> str:
        has_body = self.body is not None or bool(self.files)
        plain = "POST" if has_body else "GET"
        return "" if self.method == plain else f"-X {self.method} "

    def _arguments(self) -> list[str]:
        """The last id comes first, the ones before it by their names: the client's own custom."""
        named = list(zip(self._gaps[:-1], self.ids[:-1], strict=True))
        named += [*self.query.items(), *(self.body or {}).items()]
        files = [f'{name}=open({_literal(at)}, "rb")' for name, at in self.files.items()]
        first = [_literal(self.ids[-1])] if self.ids else []
        return [*first, *(f"{name}={_literal(value)}" for name, value in named), *files]

    def _raw_arguments(self) -> list[str]:
        target = self._target.removeprefix("/v1")
        body = [] if self.body is None else [f"body={_literal(self.body)}"]
        return [_literal(target), "cast_to=object", *body]


@dataclass(frozen=True)
class Command:
    """What only a verb in the terminal does: `cli` are the words after `bessemer`."""

    title: str
    cli: Sequence[str]
    key_variable: None = None

    def texts(self, base_url: str) -> list[Text]:
        """The one way there is; it needs no address."""
        return [Text("CLI", shlex.join(["bessemer", *self.cli]))]


Call = ApiCall | Command


def _call(name: str, arguments: Sequence[str]) -> str:
    whole = f"{name}({', '.join(arguments)})"
    if len(whole) <= _WIDTH:
        return whole
    lines = "".join(f"    {argument},\n" for argument in arguments)
    return f"{name}(\n{lines})"


def _literal(value: Any) -> str:
    """Python that makes `value`, with the quotes that formatters prefer.

    >>> print(_literal({"name": ["it's", 'a "name"', None]}))
    {"name": ["it's", 'a "name"', None]}
    """
    if isinstance(value, str):
        plain = repr(value)
        return f'"{plain[1:-1]}"' if plain[0] == "'" and '"' not in value else plain
    if isinstance(value, Mapping):
        inside = (f"{_literal(key)}: {_literal(each)}" for key, each in value.items())
        return f"{{{', '.join(inside)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_literal, value))}]"
    return repr(value)


def _json(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, ensure_ascii=False)
    return text if len(text) <= _WIDTH else json.dumps(body, ensure_ascii=False, indent=2)


def _flat(query: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in query.items():
        if isinstance(value, Mapping):
            yield from _flat({f"{name}[{key}]": each for key, each in value.items()})
        elif isinstance(value, (list, tuple)):
            yield from ((f"{name}[]", str(each)) for each in value)
        elif isinstance(value, bool):
            yield name, "true" if value else "false"
        else:
            yield name, str(value)
