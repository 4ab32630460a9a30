"""What guessing ahead is worth: tokens/s with and without, and how many guesses were right.

    python benchmarks/speculation.py                  nobody and n-gram lookup guess, by turns
    python benchmarks/speculation.py --draft MODEL    and a draft model
    python benchmarks/speculation.py --layers 10      and the model's own first layers, as a draft
    python benchmarks/speculation.py --bits 4         and the model itself, rounded, as a draft
    python benchmarks/speculation.py --steps          what a step costs by its tokens
    python benchmarks/speculation.py --rules --bits 4     which rule accepts how much of a draft

Copying: answers that repeat most of their prompt (a text to quote, code with one name to change).
Ordinary: questions with nothing to copy. Each greedily and sampled at temperature 0.8 with a seed,
so that all get the same requests. `same`: answers equal to those without guesses (in bf16 a step
with more tokens rounds differently). Every answer has the same length; the time is that of the
whole, prefill included; medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import inspect
import json
import statistics
import tempfile
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

import torch

from bessemer.app.catalog import DEFAULT_MODEL
from bessemer.app.machine import usable_cores
from bessemer.app.models import find_model
from bessemer.app.platform import Platform
from bessemer.app.pull import pull
from bessemer.core.protocols import GenerateRequest, Sampling
from bessemer.inference.cache import KVCache
from bessemer.inference.engine import EngineSettings, NativeEngine
from bessemer.inference.precision import DTYPES, choose
from bessemer.inference.prepared import PreparedDecoder
from bessemer.inference.runner import Runner
from bessemer.inference.scheduler import Share, Step
from bessemer.inference.sequence import EngineSequence
from bessemer.models.attention import PackedAttention, positions
from bessemer.models.decoder import Decoder
from bessemer.models.folder import load_decoder, save_decoder
from bessemer.text.chat_encoding import encode_prompt
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer

WAYS = {
    "greedy": Sampling(temperature=0),
    "sampled": Sampling(temperature=0.8, top_p=0.95, seed=7),
}
STEP_ROWS, STEP_GUESSES, STEP_PAST = (1, 2, 4, 8, 16), (0, 1, 2, 4, 8), 256


def copying() -> list[str]:
    """Prompts whose answers repeat them."""
    sources = (textwrap.shorten, json.dumps, inspect.cleandoc, statistics.median)
    code = [inspect.getsource(function)[:900] for function in sources]
    documents = [inspect.cleandoc(function.__doc__ or "")[:900] for function in sources]
    return [
        *(f"Repeat this text word for word, and nothing else:\n\n{text}" for text in documents),
        *(f"Write this code again with the first argument renamed:\n\n{text}" for text in code),
    ]


def ordinary() -> list[str]:
    """Questions with nothing to copy."""
    return [
        "Why is the sky blue?",
        "Write a short story about a lighthouse keeper.",
        "What are three good habits for learning a language?",
        "Explain what a database index is to a beginner.",
        "Describe a market in the morning.",
        "How does a bicycle stay upright?",
        "Give me advice for a first day at a new job.",
        "What is the difference between weather and climate?",
    ]


class Round(NamedTuple):
    answers: list[list[int]]
    elapsed_s: float
    proposed: int
    accepted: int

    @property
    def speed(self) -> float:
        return sum(map(len, self.answers)) / self.elapsed_s


def answer_all(
    engine: NativeEngine, prompts: list[list[int]], way: Sampling, at_once: int, new: int
) -> Round:
    """Answer all prompts, `at_once` of them at any time."""

    async def run() -> list[list[int]]:
        turn = asyncio.Semaphore(at_once)

        async def one(ids: list[int]) -> list[int]:
            asked = GenerateRequest(request_id="b", prompt_ids=ids, max_tokens=new, sampling=way)
            async with turn:
                return [id_ async for chunk in engine.generate(asked) for id_ in chunk.ids]

        return await asyncio.gather(*map(one, prompts))

    counters = engine.counters
    before, begin = dataclasses.replace(counters), time.perf_counter()
    answers = asyncio.run(run())
    elapsed_s = time.perf_counter() - begin
    proposed = counters.proposed_tokens - before.proposed_tokens
    return Round(answers, elapsed_s, proposed, counters.accepted_tokens - before.accepted_tokens)


def measure(folder: Path, guesses: dict[str, str | Path], options: argparse.Namespace) -> None:
    tokenizer, template = Tokenizer.load(folder), ChatTemplate.load(folder)
    engines = {
        name: NativeEngine.open(folder, name, EngineSettings(options.precision, guesses=who))  # type: ignore[arg-type]
        for name, who in guesses.items()
    }
    print(
        f"{DEFAULT_MODEL}, {engines['off'].info_now().precision}, {options.new} tokens an answer,"
        f" {torch.get_num_threads()} threads"
    )
    print(f"{'':<10}{'':<9}at once  guesses  tokens/s   ratio  guessed  right  same")
    for at_once in options.at_once:
        for kind, texts in (("copying", copying()), ("ordinary", ordinary())):
            prompts = [
                encode_prompt([{"role": "user", "content": text}], tokenizer, template)
                for text in texts[:: max(1, 8 // options.prompts)]
            ]
            for way, sampling in WAYS.items():
                rounds: dict[str, list[Round]] = {name: [] for name in engines}
                for _ in range(options.rounds):
                    for name, engine in engines.items():
                        found = answer_all(engine, prompts, sampling, at_once, options.new)
                        rounds[name].append(found)
                report(kind, way, at_once, rounds)
    for engine in engines.values():
        engine.close()


def report(kind: str, way: str, at_once: int, rounds: dict[str, list[Round]]) -> None:
    plain = statistics.median(each.speed for each in rounds["off"])
    for name, found in rounds.items():
        speed, first = statistics.median(each.speed for each in found), found[0]
        right = f"{first.accepted / first.proposed:.0%}" if first.proposed else "-"
        pairs = zip(first.answers, rounds["off"][0].answers, strict=True)
        same = sum(one == other for one, other in pairs)
        print(
            f"{kind:<10}{way:<9}{at_once:>7}  {name:<7}{speed:>10.1f}{speed / plain:>8.2f}"
            f"{first.proposed:>9}{right:>7}{same:>4}/{len(first.answers)}",
            flush=True,
        )


def measure_steps(folder: Path, dtype: torch.dtype) -> None:
    """Medians of the time of a step, by sequences and by guesses of each."""
    model = PreparedDecoder(load_decoder(folder, dtype))
    cache = KVCache(
        model.config, model.dtype, rows=max(STEP_ROWS), context_length=1024, kv_bytes=1 << 30
    )
    runner = Runner(model, cache)
    sequences = []
    for _ in range(max(STEP_ROWS)):
        ids = torch.randint(100, 40_000, (STEP_PAST,)).tolist()
        asked = GenerateRequest(request_id="b", prompt_ids=ids, max_tokens=99)
        sequence = EngineSequence.for_tokens(asked, print)
        sequence.row = cache.acquire(ids, "nothing")
        runner.run(Step([], [Share(sequence, STEP_PAST)]))
        sequences.append(sequence)
    cells = [(rows, more) for rows in STEP_ROWS for more in STEP_GUESSES if rows * more <= 32]
    times: dict[tuple[int, int], list[float]] = {cell: [] for cell in cells}
    for _ in range(12):
        for rows, more in cells:
            for sequence in sequences[:rows]:
                assert sequence.row is not None
                sequence.row.computed, sequence.proposed = STEP_PAST - 1, [5] * more
            step = Step([Share(sequence, 1 + more) for sequence in sequences[:rows]], [])
            begin = time.perf_counter()
            runner.run(step)
            times[rows, more].append(time.perf_counter() - begin)
    medians = {cell: 1e3 * statistics.median(found[2:]) for cell, found in times.items()}
    sizes = torch.tensor([[1.0, rows * (1 + more)] for rows, more in cells])
    fixed, each = torch.linalg.lstsq(sizes, torch.tensor([[medians[c]] for c in cells])).solution
    for rows in STEP_ROWS:
        row = [f"{more}: {medians[rows, more]:.1f}" for r, more in cells if r == rows]
        print(f"{rows:>2} sequences, ms by guesses of each   {'   '.join(row)}")
    print(f"a step is {float(fixed):.1f} ms and {float(each):.2f} ms a token")
    print(f"a token costs {float(each / fixed):.3f} of the fixed part")


def first_layers(folder: Path, layers: int, target: Path) -> Path:
    """A draft that needs no training: the model without its upper layers."""
    decoder = load_decoder(folder, torch.float32)
    cut = Decoder(dataclasses.replace(decoder.config, layers=layers))
    cut.load_state_dict(decoder.state_dict(), strict=False)
    save_decoder(cut, target)
    _copy_tokenizer(folder, target)
    return target


def rounded(folder: Path, bits: int, target: Path) -> Path:
    """A draft as good as drafts get, if no faster: the model with its layers' matrices rounded."""
    decoder = load_decoder(folder, torch.float32)
    levels = 2 ** (bits - 1) - 1
    with torch.no_grad():
        for matrix in (p for p in decoder.model.layers.parameters() if p.dim() == 2):
            groups = matrix.view(-1, 32)
            scales = groups.abs().amax(1, keepdim=True).clamp_min(1e-8) / levels
            groups.copy_((groups / scales).round() * scales)
    save_decoder(decoder, target)
    _copy_tokenizer(folder, target)
    return target


def _copy_tokenizer(folder: Path, target: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).exists():
            (target / name).write_bytes((folder / name).read_bytes())


def measure_rules(folder: Path, draft: Path) -> None:
    """Exact chances that a draft's token is accepted, over places of both kinds of answers.

    p is the model's distribution, q the draft's, at the temperature of a request. Leviathan's rule
    accepts with sum min(p, q); ours with the overlap of the intervals in which the same noise gives
    the same token; the draft's likeliest token is right with its p.
    """
    tokenizer, template = Tokenizer.load(folder), ChatTemplate.load(folder)
    engine = NativeEngine.open(folder, "rules", EngineSettings("fp32", guesses="off"))
    prompts = [
        encode_prompt([{"role": "user", "content": text}], tokenizer, template)
        for text in (*copying()[::2], *ordinary()[::2])
    ]
    answers = answer_all(engine, prompts, WAYS["sampled"], 8, 48).answers
    engine.close()
    models = [load_decoder(each, torch.float32) for each in (folder, draft)]
    for temperature in (0.5, 0.8, 1.0):
        found: list[tuple[float, float, float]] = []
        for prompt, said in zip(prompts, answers, strict=True):
            p_TV, q_TV = (chances(model, prompt, said, temperature) for model in models)
            least = torch.minimum(p_TV, q_TV).sum(1)
            ends_p, ends_q = p_TV.cumsum(1), q_TV.cumsum(1)
            starts = torch.maximum(ends_p - p_TV, ends_q - q_TV)
            ours = (torch.minimum(ends_p, ends_q) - starts).clamp_(min=0).sum(1)
            likeliest = p_TV.gather(1, q_TV.argmax(1, keepdim=True))[:, 0]
            found += zip(least.tolist(), ours.tolist(), likeliest.tolist(), strict=True)
        means = [statistics.fmean(column) for column in zip(*found, strict=True)]
        print(
            f"temperature {temperature}: Leviathan {means[0]:.3f}, the same noise {means[1]:.3f},"
            f" the draft's likeliest {means[2]:.3f} ({len(found)} places)"
        )


def chances(model: Decoder, prompt: list[int], said: list[int], temperature: float) -> torch.Tensor:
    """(T, V) in float64, for each token of the answer."""
    ids = [*prompt, *said]
    with torch.no_grad():
        hidden = model(torch.tensor(ids), positions([len(ids)]), PackedAttention([len(ids)]))
        logits = model.logits(hidden[len(prompt) - 1 : -1])
    return torch.softmax(logits.double() / temperature, -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", action="store_true")
    parser.add_argument("--rules", action="store_true")
    parser.add_argument("--draft", help="a model of this home")
    parser.add_argument("--layers", type=int, help="of the model, as a draft")
    parser.add_argument("--bits", type=int, help="of the model, rounded, as a draft")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=8, help="of each kind")
    parser.add_argument("--new", type=int, default=96, help="tokens of an answer")
    parser.add_argument("--at-once", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--precision", default="auto", choices=("auto", *DTYPES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with Platform.open() as platform, tempfile.TemporaryDirectory() as kept:
        principal = platform.local_principal()
        folder = pull(platform, principal, DEFAULT_MODEL).path
        guesses: dict[str, str | Path] = {"off": "off", "ngram": "ngram"}
        if options.draft:
            guesses["draft"] = find_model(platform, principal, options.draft).path
        elif options.layers:
            guesses["draft"] = first_layers(folder, options.layers, Path(kept))
        elif options.bits:
            guesses["draft"] = rounded(folder, options.bits, Path(kept))
        if options.steps:
            measure_steps(folder, choose(options.precision))
        elif options.rules:
            draft = guesses["draft"]
            assert isinstance(draft, Path), "--rules needs --draft, --layers or --bits"
            measure_rules(folder, draft)
        else:
            measure(folder, guesses, options)


if __name__ == "__main__":
    main()
