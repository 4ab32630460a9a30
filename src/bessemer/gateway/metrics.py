"""`GET /metrics` in Prometheus' text format: requests, latencies, and what the engines say.

Counters of an engine begin at zero when its worker is started again, as Prometheus expects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bessemer.app.chat import EngineFigures
from bessemer.app.latencies import Histogram, Latencies
from bessemer.core.protocols import EngineInfo

# An answer that its client did not wait for, as nginx counts it.
CLIENT_GONE = 499

# The engines' own counters, and what they are.
COUNTERS = {
    "requests": "requests taken on",
    "prompt_tokens": "tokens of prompts",
    "cached_tokens": "tokens of prompts that the prefix cache saved",
    "computed_tokens": "tokens computed, of prompts and answers",
    "completion_tokens": "tokens drawn",
    "proposed_tokens": "tokens guessed ahead",
    "accepted_tokens": "tokens guessed ahead and kept",
    "steps": "steps taken",
    "preemptions": "sequences sent back to wait for want of memory",
    "expired": "requests whose time passed",
    "queued_s": "seconds that requests waited before their first step",
}
GAUGES = {
    "running": "sequences computed now",
    "waiting": "sequences that wait",
    "kv_tokens": "tokens held in the KV cache",
    "kv_budget_tokens": "tokens that the KV cache may hold",
    "tokens_per_s": "recent speed of steps, prompts included",
    "memory_bytes": "peak resident memory of the worker",
}


class Sample(NamedTuple):
    """One line: the labels as they are written, and the value."""

    labels: str
    value: float


class Metrics:
    """What the gateway counts. Lives on one event loop."""

    def __init__(self, latencies: Latencies | None = None) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.latencies = latencies or Latencies()

    def count(self, route: str, status: int | None) -> None:
        """An answer has ended; `status` None if none was begun."""
        self.requests[route, status or CLIENT_GONE] += 1

    def text(self, engines: Iterable[EngineFigures]) -> bytes:
        """All of it."""
        lines = [*self._requests(), *self._latencies(), *_engines(list(engines))]
        return ("\n".join(lines) + "\n").encode()

    def _requests(self) -> Iterator[str]:
        found = [
            Sample(_labels(route=route, status=str(status)), count)
            for (route, status), count in sorted(self.requests.items())
        ]
        yield from _family("http_requests_total", "counter", "answers by route and status", found)

    def _latencies(self) -> Iterator[str]:
        models = sorted(self.latencies.models.items())
        first = [(name, found.first) for name, found in models]
        between = [(name, found.between) for name, found in models]
        yield from _histograms("first_token_seconds", "until the first piece of an answer", first)
        yield from _histograms("inter_token_seconds", "between pieces of an answer", between)


def _engines(engines: list[EngineFigures]) -> Iterator[str]:
    states = [Sample(_labels(model=one.model, state=one.state), 1) for one in engines]
    yield from _family("engine_state", "gauge", "1 for the state each engine is in", states)
    needs = [Sample(_labels(model=one.model), one.need_bytes) for one in engines]
    yield from _family("engine_need_bytes", "gauge", "memory planned for an engine", needs)
    infos = [(_labels(model=one.model), one.info) for one in engines if one.info is not None]
    for name, meaning in GAUGES.items():
        yield from _family(f"engine_{name}", "gauge", meaning, _gauge(infos, name))
    for name, meaning in COUNTERS.items():
        found = [Sample(labels, info.counters.get(name, 0)) for labels, info in infos]
        written = f"engine_{name.replace('queued_s', 'queued_seconds')}_total"
        yield from _family(written, "counter", meaning, found)


def _gauge(infos: list[tuple[str, EngineInfo]], name: str) -> list[Sample]:
    return [Sample(labels, getattr(info, name)) for labels, info in infos]


def _family(name: str, kind: str, meaning: str, samples: list[Sample]) -> Iterator[str]:
    yield f"# HELP bessemer_{name} {meaning}"
    yield f"# TYPE bessemer_{name} {kind}"
    for labels, value in samples:
        yield f"bessemer_{name}{labels} {value:.12g}"


def _histograms(name: str, meaning: str, found: list[tuple[str, Histogram]]) -> Iterator[str]:
    yield f"# HELP bessemer_{name} {meaning}"
    yield f"# TYPE bessemer_{name} histogram"
    for model, histogram in found:
        below = 0
        for bound, count in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
            below += count
            yield f"bessemer_{name}_bucket{_labels(model=model, le=str(bound))} {below}"
        yield f"bessemer_{name}_sum{_labels(model=model)} {histogram.total:.12g}"
        yield f"bessemer_{name}_count{_labels(model=model)} {below}"


def _labels(**values: str) -> str:
    written = (f'{name}="{_escaped(value)}"' for name, value in values.items())
    return "{" + ",".join(written) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
