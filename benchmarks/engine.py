"""Prefill, decode, CPU time and memory of the engine beside its peers, in one run.

    pip install openvino-genai xllamacpp      # the peers; what is missing is named and left out
    python benchmarks/engine.py [--repeat 3] [--new 65] [--only bessemer,llama.cpp]

The default model's weights and the same random prompts of 128 tokens for everybody, at 1, 8 and 32
requests at a time, greedy. Each contender runs in a process of its own, one after the other, with
as many threads as there are cores; rounds go through all of them in turn, so that a slow minute of
the machine falls on more than one. For each number of requests: the time until all have their
first token (prefill), and from there until all have `--new` tokens (decode). `per CPU s` divides
the same tokens by the process's CPU time. Medians over the rounds; memory is the peak.

Compare within a class, and see benchmarks/perplexity.py for what each loses: GGUF's q4_0 of this
model loses far more than the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from bessemer.app.catalog import DEFAULT_MODEL
from bessemer.app.machine import usable_cores
from bessemer.app.platform import Platform
from bessemer.app.pull import pull
from bessemer.core.protocols import Engine, GenerateRequest, Sampling
from bessemer.models import gguf_export
from bessemer.models.quantizing import quantize_folder

PROMPT_TOKENS = 128
REQUESTS = (1, 8, 32)
CLASSES = {
    "16-bit": ("bessemer bf16", "llama.cpp bf16", "transformers bf16"),
    "8-bit": ("bessemer int8", "OpenVINO q8_0", "llama.cpp q8_0"),
    "4-bit": ("bessemer int4", "OpenVINO q4_0", "llama.cpp q4_0"),
}
NEEDS = {"OpenVINO": "openvino_genai", "llama.cpp": "xllamacpp", "transformers": "transformers"}
Generate = Callable[[list[list[int]], int], None]
"""Answer all prompts together with so many tokens each."""


def prompts(count: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(100, 40_000, (count, PROMPT_TOKENS), generator=generator).tolist()


def measure(generate: Generate, new: int, seed: int) -> dict[str, dict[str, float]]:
    """By number of requests. No prompt is used twice: caches of prefixes do not help."""
    generate(prompts(2, seed + 1), 3)
    found = {}
    for count in REQUESTS:
        first_s, first_cpu_s = _timed(generate, prompts(count, seed + 10 * count), 1)
        whole_s, whole_cpu_s = _timed(generate, prompts(count, seed + 10 * count + 5), new)
        read, drawn = count * PROMPT_TOKENS, count * (new - 1)
        found[str(count)] = {
            "prefill": read / first_s,
            "decode": drawn / max(whole_s - first_s, 1e-9),
            "prefill_cpu": read / first_cpu_s,
            "decode_cpu": drawn / max(whole_cpu_s - first_cpu_s, 1e-9),
            "memory": _peak_mb(),
        }
    return found


def _timed(generate: Generate, texts: list[list[int]], new: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    generate(texts, new)
    return time.perf_counter() - wall, time.process_time() - cpu


def _peak_mb() -> float:
    """Peak resident memory. Not `ru_maxrss`: a child begins with its parent's."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


# -- the contenders -----------------------------------------------------------------------


def by_engine(engine: Engine) -> Generate:
    async def one(ids: list[int], new: int) -> None:
        request = GenerateRequest(
            request_id="b", prompt_ids=ids, max_tokens=new, sampling=Sampling(temperature=0)
        )
        drawn = 0
        async for chunk in engine.generate(request):
            drawn = chunk.completion_tokens
        assert drawn == new, (drawn, new)

    async def everybody(texts: list[list[int]], new: int) -> None:
        waits: list[Awaitable[None]] = [one(ids, new) for ids in texts]
        await asyncio.gather(*waits)

    return lambda texts, new: asyncio.run(everybody(texts, new))


def bessemer(path: Path) -> Generate:
    from bessemer.inference.engine import EngineSettings, NativeEngine

    # Answers to random prompts soon repeat themselves, which guesses would profit from.
    return by_engine(NativeEngine.open(path, "benchmark", EngineSettings(guesses="off")))


def openvino(path: Path) -> Generate:
    from bessemer.inference.openvino_engine import OpenVinoEngine
    from bessemer.inference.openvino_pipeline import OpenVinoSettings

    settings = OpenVinoSettings(threads=usable_cores())
    return by_engine(OpenVinoEngine.open(path, "benchmark", settings))


def llama_cpp(path: Path) -> Generate:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = max(REQUESTS)
    params.n_ctx = max(REQUESTS) * 256
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = usable_cores()
    params.warmup = False
    server = xllamacpp.Server(params)
    address = server.listening_address + "/completion"

    def one(ids: list[int], new: int) -> None:
        asked = {"prompt": ids, "n_predict": new, "temperature": 0, "top_k": 1}
        asked |= {"ignore_eos": True, "cache_prompt": False}
        request = urllib.request.Request(
            address, json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        answer = json.load(urllib.request.urlopen(request))
        assert answer["tokens_predicted"] == new, answer["tokens_predicted"]

    pool = ThreadPoolExecutor(max(REQUESTS))

    def generate(texts: list[list[int]], new: int) -> None:
        list(pool.map(lambda ids: one(ids, new), texts))
        assert server  # it serves as long as it is held

    return generate


def transformers_bf16(path: Path) -> Generate:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
    model.generation_config.eos_token_id = None

    @torch.inference_mode()
    def generate(texts: list[list[int]], new: int) -> None:
        ids = torch.tensor(texts)
        mask = torch.ones_like(ids)
        model.generate(
            ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False
        )

    return generate


MAKERS: dict[str, Callable[[Path], Generate]] = {
    "bessemer": bessemer,
    "OpenVINO": openvino,
    "llama.cpp": llama_cpp,
    "transformers": transformers_bf16,
}


# -- the run ------------------------------------------------------------------------------


def write_models(work: Path) -> dict[str, Path]:
    """What each contender reads: the same weights, in its format and precision."""
    with Platform.open() as platform:
        folder = pull(platform, platform.local_principal(), DEFAULT_MODEL).path
    for kind in ("int8", "int4"):
        quantize_folder(folder, work / kind, kind)  # type: ignore[arg-type]
    about = gguf_export.About(DEFAULT_MODEL, "benchmark", None)
    for kind in ("bf16", "q8_0", "q4_0"):
        gguf_export.export_gguf(folder, work / f"{kind}.gguf", kind, about)  # type: ignore[arg-type]
    paths = {}
    for name in (name for names in CLASSES.values() for name in names):
        maker, kind = name.split()
        if maker in ("bessemer", "transformers"):
            paths[name] = folder if kind == "bf16" else work / kind
        else:
            paths[name] = work / f"{kind}.gguf"
    return paths


def run(name: str, path: Path, new: int, seed: int) -> dict[str, dict[str, float]]:
    command = [sys.executable, __file__, "--contender", name, "--path", str(path)]
    done = subprocess.run(
        [*command, "--new", str(new), "--seed", str(seed)], capture_output=True, text=True
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    if done.returncode or not said:
        raise SystemExit(f"{name} failed, status {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, dict[str, float]] = json.loads(said[0].removeprefix("FOUND"))
    return found


def print_table(results: dict[str, list[dict[str, dict[str, float]]]]) -> None:
    for title, names in CLASSES.items():
        heads = f"{'requests':>9}{'prefill':>9}{'decode':>9}{'per CPU s':>15}{'memory':>10}"
        print(f"\n{title:<22}{heads}")
        for name in (name for name in names if name in results):
            for count in map(str, REQUESTS):
                rounds = [found[count] for found in results[name]]
                middle = {k: statistics.median(each[k] for each in rounds) for k in rounds[0]}
                print(
                    f"{name:<22}{count:>9}{middle['prefill']:>9,.0f}{middle['decode']:>9,.1f}"
                    f"{middle['prefill_cpu']:>8,.0f}{middle['decode_cpu']:>7,.0f}"
                    f"{middle['memory']:>7,.0f} MB"
                )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--new", type=int, default=65, help="tokens of each answer")
    parser.add_argument("--only", default="", help="contenders, by the beginnings of their names")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        torch.set_num_threads(usable_cores())
        generate = MAKERS[options.contender.split()[0]](options.path)
        print("FOUND" + json.dumps(measure(generate, options.new, options.seed)), flush=True)
        # Threads of engines and servers are daemons of this process; it ends with its figures.
        sys.stdout.flush()
        os._exit(0)
    wanted = tuple(options.only.split(","))
    missing = [name for name, module in NEEDS.items() if importlib.util.find_spec(module) is None]
    for name in missing:
        print(f"{name} is not installed ({NEEDS[name]}): left out")
    with tempfile.TemporaryDirectory() as temporary:
        paths = write_models(Path(temporary))
        names = [n for n in paths if n.split()[0] not in missing and n.startswith(wanted)]
        results: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in names}
        for number in range(options.repeat):
            for name in names:
                results[name].append(run(name, paths[name], options.new, 1000 * number))
                print(f"round {number + 1}: {name}", file=sys.stderr, flush=True)
    print(f"{DEFAULT_MODEL}, {PROMPT_TOKENS}-token prompts, {usable_cores()} threads, tokens/s")
    print_table(results)


if __name__ == "__main__":
    main()
