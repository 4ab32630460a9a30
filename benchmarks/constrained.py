"""What a constraint costs: tokens/s of the default model with and without one, and its share kept.

    python benchmarks/constrained.py [--repeat 3] [--new 96]

One engine, a tiny prompt, 1 and 8 requests. `free` draws without a constraint; `any text` has a
constraint that lets everything through, so each token pays for its mask and nothing else changes;
`one by one` draws each token of a schema's object; `forced ahead` takes tokens that the schema
leaves no choice about without a step of their own. The last column is the share of finished answers
that parse and validate (pydantic). Medians over the repeats.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from typing import Literal, NamedTuple

import pydantic
import torch

from bessemer.app.catalog import DEFAULT_MODEL
from bessemer.app.machine import usable_cores
from bessemer.app.platform import Platform
from bessemer.app.pull import pull
from bessemer.core.protocols import Constraint, GenerateRequest, Sampling
from bessemer.inference.engine import NativeEngine
from bessemer.text.tokenizer import Tokenizer

REQUESTS = (1, 8)


class Reading(pydantic.BaseModel, extra="forbid"):
    station: Literal["north", "south", "east", "west"]
    temperature_celsius: int = pydantic.Field(ge=-40, le=60)
    wind_direction_degrees: int = pydantic.Field(ge=0, le=360)
    precipitation_expected: bool


SCHEMA = Constraint("json_schema", json.dumps(Reading.model_json_schema()))
ANY_TEXT = Constraint("regex", r"(.|\n)*")
WAYS: dict[str, tuple[Constraint | None, int | None]] = {
    "free": (None, None),
    "any text": (ANY_TEXT, None),
    "object, one by one": (SCHEMA, 0),
    "object, forced ahead": (SCHEMA, None),
}


class Measured(NamedTuple):
    tokens_per_s: float
    finished: int
    valid: int


async def measure(
    engine: NativeEngine, tokenizer: Tokenizer, way: str, count: int, new: int, seed: int
) -> Measured:
    """Tokens after every request had its first chunk, over the time they took."""
    constraint, top_logprobs = WAYS[way]
    ids = tokenizer.encode("The weather report as JSON: ")
    stops = sorted(tokenizer.eos_ids) if constraint is SCHEMA else []

    async def one(number: int) -> tuple[list[tuple[float, int]], str | None, str]:
        asked = GenerateRequest(
            request_id="b",
            prompt_ids=ids,
            max_tokens=new,
            # A text that ended early would be measured with fewer beside it.
            sampling=Sampling(seed=seed + number, logit_bias={} if stops else NO_END),
            stop_ids=stops,
            top_logprobs=top_logprobs,
            constraint=constraint,
        )
        said: list[int] = []
        stamps = []
        async for chunk in engine.generate(asked):
            said += chunk.ids
            stamps.append((time.perf_counter(), len(chunk.ids)))
        return stamps, chunk.finish_reason, tokenizer.decode(said)

    answers = await asyncio.gather(*(one(number) for number in range(count)))
    begin = max(stamps[0][0] for stamps, _, _ in answers)
    later = [(at, n) for stamps, _, _ in answers for at, n in stamps if at > begin]
    speed = sum(n for _, n in later) / (max(at for at, _ in later) - begin)
    done = [text for _, reason, text in answers if reason == "stop" and stops]
    return Measured(speed, len(done), sum(map(validates, done)))


NO_END = {0: -100.0, 2: -100.0}  # <|endoftext|>, <|im_end|>


def validates(text: str) -> bool:
    try:
        Reading.model_validate_json(text)
    except pydantic.ValidationError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--new", type=int, default=96, help="most tokens of an answer")
    options = parser.parse_args()
    torch.set_num_threads(usable_cores())
    with Platform.open() as platform:
        folder = pull(platform, platform.local_principal(), DEFAULT_MODEL).path
    tokenizer = Tokenizer.load(folder)
    engine = NativeEngine.open(folder, "benchmark")
    print(f"{DEFAULT_MODEL}, {engine.info_now().precision}, {usable_cores()} threads, decode")
    print(f"{'tokens/s':<24}{'requests':>9}{'tokens/s':>10}{'us a token':>12}{'valid':>12}")
    try:
        for way in WAYS:  # compile, and warm up
            asyncio.run(measure(engine, tokenizer, way, 2, 24, 99))
        for count in REQUESTS:
            for way in WAYS:
                runs = [
                    asyncio.run(measure(engine, tokenizer, way, count, options.new, 1000 * seed))
                    for seed in range(options.repeat)
                ]
                speed = statistics.median(run.tokens_per_s for run in runs)
                done, valid = sum(run.finished for run in runs), sum(run.valid for run in runs)
                share = f"{valid} of {done}" if done else ""
                print(f"{way:<24}{count:>9}{speed:>10,.1f}{1e6 / speed:>12,.0f}{share:>12}")
    finally:
        engine.close()


if __name__ == "__main__":
    main()
