"""Asked again once, and only where nobody has seen anything of the answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from bessemer.app.second_try import second_try, stream_second_try
from bessemer.core.errors import BessemerError, EngineDied, EngineUnavailable


class Engine:
    """Says "a" and "b"; at the first asks raises these faults instead, before word `after`."""

    def __init__(self, *faults: BessemerError, after: int = 0) -> None:
        self.faults, self.after = list(faults), after
        self.asked = self.closed = 0

    async def stream(self) -> AsyncGenerator[str, None]:
        self.asked += 1
        try:
            for number, word in enumerate(("a", "b")):
                if self.faults and number == self.after:
                    raise self.faults.pop(0)
                yield word
        finally:
            self.closed += 1

    async def whole(self) -> list[str]:
        return [word async for word in self.stream()]


async def test_what_was_not_seen_is_asked_again_once() -> None:
    for after in (0, 1):
        assert await second_try(Engine(EngineDied("it"), after=after).whole) == ["a", "b"]
    assert [w async for w in stream_second_try(Engine(EngineDied("it")).stream)] == ["a", "b"]


async def test_two_deaths_are_enough() -> None:
    for way in ("whole", "stream"):
        engine = Engine(EngineDied("it"), EngineDied("it"))
        with pytest.raises(EngineDied, match="died twice") as found:
            if way == "whole":
                await second_try(engine.whole)
            else:
                await anext(stream_second_try(engine.stream))
        assert (found.value.deaths, engine.asked) == (2, 2)


async def test_a_stream_that_has_begun_is_not_begun_again() -> None:
    engine, seen = Engine(EngineDied("it"), after=1), list[str]()
    with pytest.raises(EngineDied) as found:
        async for word in stream_second_try(engine.stream):
            seen.append(word)
    assert (seen, engine.asked, found.value.deaths) == (["a"], 1, 1)


async def test_other_errors_are_nobodys_death() -> None:
    engine = Engine(EngineUnavailable("it does not load"))
    with pytest.raises(EngineUnavailable, match="does not load"):
        await second_try(engine.whole)
    assert engine.asked == 1


async def test_closing_the_stream_closes_what_is_asked() -> None:
    engine = Engine()
    stream = stream_second_try(engine.stream)
    await anext(stream)
    await stream.aclose()
    assert engine.closed == 1
