"""llama.cpp as a second opinion, where the package `xllamacpp` is installed.

In a process of its own, since two libraries' compute threads in one slow each other down.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

needs_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None,
    reason="xllamacpp, which carries llama.cpp, is not installed: its reading is not checked",
)

_SCRIPT = """
import json, sys, urllib.request
import xllamacpp

path, prompt, tokens = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
params = xllamacpp.CommonParams()
params.model.path = path
params.n_ctx = 256
params.n_parallel = 1
params.warmup = False
params.cpuparams.n_threads = 2
server = xllamacpp.Server(params)
asked = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "top_k": 1, "ignore_eos": True}
request = urllib.request.Request(
    server.listening_address + "/completion",
    json.dumps({**asked, "return_tokens": True, "cache_prompt": False}).encode(),
    {"Content-Type": "application/json"},
)
print("ANSWER" + urllib.request.urlopen(request).read().decode())
"""


def greedy(path: Path, prompt: list[int] | str, tokens: int) -> list[int]:
    """The likeliest token after `prompt`, and so on, as llama.cpp finds them in the file."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(path), json.dumps(prompt), str(tokens)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("ANSWER")]
    assert done.returncode == 0 and said, (done.returncode, done.stderr[-3000:])
    answer = json.loads(said[0].removeprefix("ANSWER"))
    ids: list[int] = answer["tokens"]
    return ids
