"""A docstring's first paragraph as one line of prose, and that line with a name masked."""

from __future__ import annotations

import re

LONGEST = 600  # characters; with a signature of 200, some 250 tokens
SHORTEST_WORDS = 3
MASK = "____"

_SIGNATURE = re.compile(r"[\w.]+\s*\(.*\)(\s*->.*)?[:.]?", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?=\s)")
_WORD = re.compile(r"[^\W\d_]+")


def first_paragraph(docstring: str) -> str | None:
    """The first paragraph that is prose, cut at a sentence's end; None if there is none.

    A first paragraph that only repeats the signature is passed over.

    >>> first_paragraph("wait(timeout) -> int\\n\\nWait for the child\\nto end.\\n\\nMore.")
    'Wait for the child to end.'
    """
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", docstring.strip())]
    if paragraphs and _SIGNATURE.fullmatch(paragraphs[0]):
        paragraphs = paragraphs[1:]
    return _prose(paragraphs[0]) if paragraphs else None


def mask(text: str, name: str) -> str:
    """`text` with every whole occurrence of `name` masked, alone or after a dot.

    >>> mask("os.path.join() joins; join(a, b)", "join")
    'os.path.____() joins; ____(a, b)'
    """
    return re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", MASK, text)


def count_words(text: str) -> int:
    """Runs of letters; the mask is none."""
    return len(_WORD.findall(text.replace(MASK, " ")))


def _prose(text: str) -> str | None:
    if len(text) > LONGEST or text.endswith(":"):
        # What follows a colon is not here.
        ends = [match.end() for match in _SENTENCE_END.finditer(text) if match.end() <= LONGEST]
        if not ends:
            return None
        text = text[: ends[-1]]
    letters = sum(char.isalpha() or char == " " for char in text)
    is_prose = letters >= 0.7 * len(text) and ">>>" not in text
    return text if is_prose and count_words(text) >= SHORTEST_WORDS else None
