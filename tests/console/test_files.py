"""The pages of files: the list, the lines of one, and what is wrong in them."""

from __future__ import annotations

import json
import re

import pytest
from starlette.testclient import TestClient

from bessemer.app import files
from bessemer.app.files import Purpose
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.data.given_splits import check_shape, shape_named
from tests.console.copied import House, house

__all__ = ["house"]  # a fixture

CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "4"},
    ]
}
PAIR = {
    "input": {"messages": [{"role": "user", "content": "Hi"}]},
    "preferred_output": [{"role": "assistant", "content": "Hello!"}],
    "non_preferred_output": [{"role": "assistant", "content": "What?"}],
}


def keep(platform: Platform, text: str | bytes, purpose: Purpose = "fine-tune") -> str:
    data = text.encode() if isinstance(text, str) else text
    return files.add_bytes(platform, platform.local_principal(), "chats.jsonl", purpose, data).id


def lines(*values: object) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def test_an_empty_list_says_what_to_do_next(client: TestClient) -> None:
    text = client.get("/files").text
    assert "No files yet" in text and 'href="/fine-tuning/new"' in text


def test_the_list_is_by_purpose_and_in_pages(client: TestClient, platform: Platform) -> None:
    evals = keep(platform, "{}\n", "evals")
    chats = [keep(platform, lines(CHAT)) for _ in range(51)]
    assert evals in client.get("/files?purpose=evals").text
    first = client.get("/files?purpose=fine-tune").text
    assert evals not in first and chats[-1] in first and chats[0] not in first
    (older,) = re.findall(r'href="(/files\?[^"]*after=[^"]*)"', first)
    assert chats[0] in client.get(older.replace("&amp;", "&")).text


def test_a_chat_is_shown_as_its_messages(client: TestClient, platform: Platform) -> None:
    text = client.get(f"/files/{keep(platform, lines(CHAT, CHAT))}").text
    assert "2 lines, each a good chat" in text
    for said in ("system", "Be brief.", "user", "What is 2 + 2?", "assistant"):
        assert said in text
    assert "/fine-tuning/new?training_file=file-" in text


def test_a_pair_shows_which_answer_is_preferred(client: TestClient, platform: Platform) -> None:
    text = client.get(f"/files/{keep(platform, lines(PAIR))}").text
    assert "each a good preference" in text
    assert text.index("is-preferred") < text.index("Hello!") < text.index("is-rejected")


def test_calls_of_tools_parts_and_weights_are_readable(
    client: TestClient, platform: Platform
) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    chat = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "in parts"}]},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "3"},
            {"role": "assistant", "content": "no", "weight": 0},
            {"role": "assistant", "content": "3"},
        ],
        "tools": [{"type": "function", "function": {"name": "add", "parameters": {}}}],
    }
    text = client.get(f"/files/{keep(platform, lines(chat))}").text
    assert "Nothing is wrong" in text
    for said in ("in parts", "calls a tool", "add(", "answers c1", "not learned", "beside the"):
        assert said in text, said


@pytest.mark.parametrize(
    "broken",
    [
        '{"messages": [',
        '{"messages": []}',
        "[1]",
        lines({"messages": [{"role": "user", "content": "Hi"}], "extra": 1}).strip(),
        lines(PAIR).strip(),
        '{"a": 1, "a": 2}',
        '{"messages": NaN}',
    ],
)
def test_a_broken_line_is_shown_in_place_with_what_a_job_says_of_it(
    client: TestClient, platform: Platform, broken: str
) -> None:
    file_id = keep(platform, lines(CHAT) + broken + "\n" + lines(CHAT))
    path = files.get(platform, platform.local_principal(), file_id).path
    with pytest.raises(Exception) as refused:
        check_shape(path, shape_named("chats"))
    page = client.get(f"/files/{file_id}").text
    assert "1 of 3 lines is broken" in page
    shown = page[page.index('id="line-2"') : page.index('id="line-3"')]
    assert "is-broken" in page and unescaped(broken) in unescaped(shown)
    for fault in refused.value.facts["faults"]:  # type: ignore[attr-defined]
        assert fault["line"] == 2 and fault["message"] in unescaped(shown)


def unescaped(text: str) -> str:
    for name, sign in (("#34", '"'), ("#39", "'"), ("lt", "<"), ("gt", ">"), ("amp", "&")):
        text = text.replace(f"&{name};", sign)
    return text


def test_text_of_a_file_is_never_markup(client: TestClient, platform: Platform) -> None:
    evil = "<script>alert(1)</script>"
    chat = {"messages": [{"role": "user", "content": evil}, {"role": "assistant", "content": evil}]}
    odd = {"messages": [{"role": evil, "content": evil}]}
    sent = lines(chat, odd) + evil + "\n"
    file_id = files.add_bytes(
        platform, platform.local_principal(), f"{evil}.jsonl", "fine-tune", sent.encode()
    ).id
    for address in ("/files", f"/files/{file_id}"):
        text = client.get(address).text
        assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text


def test_bytes_that_are_no_text_are_named_and_shown(client: TestClient, platform: Platform) -> None:
    file_id = keep(platform, lines(CHAT).encode() + b'{"messages": "\xff\xfe"}\n')
    text = client.get(f"/files/{file_id}").text
    assert "byte 15 is not UTF-8 (0xFF)" in text and "\ufffd" in text


def test_huge_lines_are_cut_and_say_so(client: TestClient, platform: Platform) -> None:
    long = {"messages": [*CHAT["messages"][:2], {"role": "assistant", "content": "x" * 900_000}]}
    text = client.get(f"/files/{keep(platform, lines(long) + 'y' * 900_000)}").text
    assert len(text) < 20_000
    assert "898,500 more characters" in text and "896,000 more bytes" in text


def test_the_lines_of_a_long_file_come_in_pages(client: TestClient, platform: Platform) -> None:
    text = lines(*([CHAT] * 60)) + "\n\n{broken\n" + lines(*([CHAT] * 20))
    file_id = keep(platform, text)
    first = client.get(f"/files/{file_id}").text
    assert "page 1 of 4" in first and 'id="line-25"' in first and 'id="line-26"' not in first
    # Two blank lines count as lines and are not shown.
    assert f'href="/files/{file_id}?line=63#line-63"' in first
    there = client.get(f"/files/{file_id}?line=63").text
    assert "page 3 of 4" in there and "{broken" in there and "is-asked" in there
    assert client.get(f"/files/{file_id}?page=5").status_code == 404
    assert client.get(f"/files/{file_id}?page=0").status_code == 400


def test_a_page_knows_the_shape_that_the_first_lines_told(
    client: TestClient, platform: Platform
) -> None:
    file_id = keep(platform, lines(*([PAIR] * 30), CHAT))
    text = client.get(f"/files/{file_id}?page=2").text
    assert "is a chat, but line 1 is a preference" in text


@pytest.mark.parametrize(("purpose", "sent"), [("evals", '{"item": {"q": "Hi"}}\n{oops\n')])
def test_lines_for_other_purposes_are_json(
    client: TestClient, platform: Platform, purpose: Purpose, sent: str
) -> None:
    text = client.get(f"/files/{keep(platform, sent, purpose)}").text
    assert "1 of 2 lines is broken" in text and "&#34;q&#34;: &#34;Hi&#34;" in text


def test_other_files_are_shown_as_text_or_not_at_all(
    client: TestClient, platform: Platform
) -> None:
    table = keep(platform, "step,train_loss\n1,<b>\n", "fine-tune-results")
    assert "1,&lt;b&gt;" in client.get(f"/files/{table}").text
    picture = keep(platform, b"\x89PNG\0", "user_data")
    assert "This is no text" in client.get(f"/files/{picture}").text
    sent = client.get(f"/files/{picture}/content")
    assert sent.content == b"\x89PNG\0"
    assert sent.headers["content-disposition"].startswith("attachment")
    assert sent.headers["content-type"] == "application/octet-stream"


def test_a_file_is_uploaded_and_deleted(client: TestClient, platform: Platform) -> None:
    answer = client.post(
        "/files",
        files={"file": ("mine.jsonl", lines(CHAT).encode())},
        data={"purpose": "fine-tune"},
    )
    assert answer.status_code == 303
    address = answer.headers["location"]
    assert "mine.jsonl" in client.get(address).text
    assert client.post(f"{address}/delete").headers["location"] == "/files"
    assert client.get(address).status_code == 404
    assert "mine.jsonl" not in client.get("/files").text


def test_an_upload_that_makes_no_sense_is_refused(client: TestClient) -> None:
    sent = {"file": ("a.jsonl", b"{}")}
    wrong = client.post("/files", files=sent, data={"purpose": "fine-tune-results"})
    assert wrong.status_code == 400 and "nothing is uploaded for" in wrong.text
    none = client.post("/files", files={"file": ("", b"")}, data={"purpose": "evals"})
    assert none.status_code == 400 and "no file was chosen" in none.text
    two = client.post("/files", files=[("file", ("a", b"{}")), ("more", ("b", b"{}"))])
    assert two.status_code == 400 and "Too many files. Maximum number of files is 1." in two.text
    huge = client.post("/files", content=b"x", headers={"content-length": str(10**12)})
    assert huge.status_code == 413


def test_a_reader_looks_and_changes_nothing(
    client: TestClient, reader: TestClient, platform: Platform
) -> None:
    address = f"/files/{keep(platform, lines(CHAT))}"
    assert 'method="post" action="/files' in client.get("/files").text
    for page in ("/files", address):
        text = reader.get(page).text
        assert 'action="/files' not in text and "/fine-tuning/new?" not in text
    sent = {"file": ("a.jsonl", b"{}")}
    assert reader.post("/files", files=sent, data={"purpose": "evals"}).status_code == 403
    assert reader.post(f"{address}/delete").status_code == 403
    assert client.get(address).status_code == 200


def test_a_file_of_another_project_is_not_there(neighbor: TestClient, platform: Platform) -> None:
    file_id = keep(platform, lines(CHAT))
    assert file_id not in neighbor.get("/files").text
    for way in (f"/files/{file_id}", f"/files/{file_id}/content"):
        assert neighbor.get(way).status_code == 404
    assert neighbor.post(f"/files/{file_id}/delete").status_code == 404
    found, _ = files.list_files(platform, platform.local_principal(), PageRequest())
    assert [file.id for file in found] == [file_id]


def test_another_sites_form_changes_nothing(client: TestClient, platform: Platform) -> None:
    file_id = keep(platform, lines(CHAT))
    foreign = {"origin": "https://elsewhere.example"}
    assert client.post(f"/files/{file_id}/delete", headers=foreign).status_code == 403
    assert client.post("/files", headers=foreign).status_code == 403
    assert client.get(f"/files/{file_id}").status_code == 200


def test_what_is_copied_lists_uploads_reads_and_deletes(house: House) -> None:
    file_id = keep(house.platform, lines(CHAT))
    calls = house.page("/files?purpose=fine-tune").calls
    for name, ran in house.run(calls["List the files"]).items():
        found = ran.json if name == "CLI" else ran.json["data"]
        assert [file["id"] for file in found] == [file_id]
    (house.folder / "chats.jsonl").write_text(lines(CHAT))
    uploaded = [ran.json for ran in house.run(calls["Upload a file"]).values()]
    assert {file["purpose"] for file in uploaded} == {"fine-tune"}
    address = f"/files/{uploaded[0]['id']}"
    of_one = house.page(address).calls
    for told in house.run(of_one["Look at the file"]).values():
        assert told.json["id"] == uploaded[0]["id"]
    for told in house.run(of_one["Read its content"]).values():
        assert json.loads(told.out) == CHAT
    for file, name in zip(uploaded, of_one["Delete the file"], strict=False):
        address = f"/files/{file['id']}"
        deleting = {name: house.page(address).calls["Delete the file"][name]}
        for told in house.run(deleting).values():
            assert file["id"] in told.out and "deleted" in told.out
            assert house.page(address).status == 404
