"""Perplexity of the default model in each precision, on text of the standard library's docs.

    python benchmarks/perplexity.py [--tokens 16384]

Ours are scored by the engine that serves them: `prefill` reads the text in chunks of 256 tokens,
`decode` in chunks of 4, so that both kinds of products are measured (`inference.products`). The
GGUF rows are the weights that llama.cpp and OpenVINO read from our export, made whole again and
scored in bfloat16: what their files lose, before their own rounding of activations.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import math
import tempfile
from pathlib import Path

import torch

from bessemer.app.catalog import DEFAULT_MODEL
from bessemer.app.machine import usable_cores
from bessemer.app.platform import Platform
from bessemer.app.pull import pull
from bessemer.inference.engine import EngineSettings, NativeEngine
from bessemer.models import gguf_export
from bessemer.models.gguf_import import import_gguf
from bessemer.models.quantizing import quantize_folder
from bessemer.text.tokenizer import Tokenizer

MODULES = (
    "argparse", "asyncio", "collections", "configparser", "csv", "datetime", "decimal", "difflib",
    "email", "fractions", "functools", "heapq", "inspect", "ipaddress", "itertools", "json",
    "logging", "mailbox", "optparse", "pathlib", "pickle", "random", "re", "shelve", "smtplib",
    "statistics", "string", "subprocess", "tarfile", "textwrap", "threading", "typing", "unittest",
    "urllib.request", "uuid", "zipfile",
)  # fmt: skip
WINDOW = 512


def text() -> str:
    """Docstrings of modules, classes and functions, in the order of their names."""
    found: list[str] = []
    for name in MODULES:
        module = importlib.import_module(name)
        found.append(inspect.getdoc(module) or "")
        for _, member in sorted(vars(module).items()):
            if getattr(member, "__module__", None) == name:
                found.append(inspect.getdoc(member) or "")
    return "\n\n".join(dict.fromkeys(found))


async def perplexity(folder: Path, ids: list[int], precision: str, chunk_tokens: int) -> float:
    settings = EngineSettings(precision=precision, chunk_tokens=chunk_tokens)  # type: ignore[arg-type]
    engine = NativeEngine.open(folder, "benchmark", settings)
    try:
        windows = [ids[i : i + WINDOW] for i in range(0, len(ids) - 1, WINDOW)]
        scores = await asyncio.gather(*(engine.score(window) for window in windows))
    finally:
        engine.close()
    return math.exp(-sum(map(sum, scores)) / sum(map(len, scores)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=16_384)
    options = parser.parse_args()
    torch.set_num_threads(usable_cores())
    with Platform.open() as platform:
        folder = pull(platform, platform.local_principal(), DEFAULT_MODEL).path
    ids = Tokenizer.load(folder).encode(text())[: options.tokens]
    exact = asyncio.run(perplexity(folder, ids, "fp32", 256))
    print(f"{DEFAULT_MODEL}, {len(ids):,} tokens of docstrings, windows of {WINDOW}")
    print(f"{'':<26}{'size':>9}{'prefill':>10}{'':>9}{'decode':>10}")
    print(f"{'float32':<26}{'':>9}{exact:>10.3f}")

    def row(name: str, path: Path, size: int, chunks: tuple[int, ...]) -> None:
        values = [asyncio.run(perplexity(path, ids, "bf16", chunk)) for chunk in chunks]
        told = "".join(f"{value:>10.3f}{100 * (value / exact - 1):>+8.2f}%" for value in values)
        print(f"{name:<26}{size / 1e6:>6.0f} MB{told}", flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        row("bessemer bf16", folder, _size(folder) // 2, (256, 4))  # stored in float32
        for kind in ("int8", "int4"):
            quantize_folder(folder, work / kind, kind)  # type: ignore[arg-type]
            row(f"bessemer {kind}", work / kind, _size(work / kind), (256, 4))
        for kind in ("q8_0", "q4_0"):
            file, imported = work / f"{kind}.gguf", work / f"from-{kind}"
            about = gguf_export.About(DEFAULT_MODEL, "benchmark", None)
            gguf_export.export_gguf(folder, file, kind, about)  # type: ignore[arg-type]
            imported.mkdir()
            import_gguf(file, imported)
            row(f"GGUF {kind}, made whole", imported, file.stat().st_size, (256,))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


if __name__ == "__main__":
    main()
