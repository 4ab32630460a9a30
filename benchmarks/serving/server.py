"""`bessemer up` in a process of its own, on a temporary home with one model and one key.

The model is the default one where this machine's home has it, else a random Llama that is made on
the spot: it says nothing sensible, and costs enough to be queued for.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from bessemer.app.catalog import DEFAULT_MODEL
from bessemer.app.keys import DEFAULT_SCOPES, create_key
from bessemer.app.models import find_model
from bessemer.app.platform import Platform
from bessemer.app.pull import pull
from bessemer.core.errors import NotFound
from bessemer.core.home import Home

READY_S = 120.0
CONTEXT_LENGTH = 4096
_TURNS = ("<|im_start|>", "<|im_end|>")
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Server(NamedTuple):
    """A running server. `url` ends in /v1; `folder` holds the model `model`."""

    url: str
    key: str
    model: str
    folder: Path
    process: psutil.Process

    def worker(self) -> psutil.Process:
        """The engine's process."""
        (found,) = (
            child
            for child in self.process.children()
            if "bessemer.inference.worker" in child.cmdline()
        )
        return found


@contextlib.contextmanager
def served(
    *, tiny: bool = False, threads: int | None = None, scopes: Sequence[str] = DEFAULT_SCOPES
) -> Iterator[Server]:
    """A server that is ready; it ends with the block.

    Args:
        tiny: take the model made on the spot, whatever is here.
        threads: of the engine; by default all cores.
        scopes: of the key.
    """
    with tempfile.TemporaryDirectory(prefix="bessemer-benchmark-") as temporary:
        home = Home(Path(temporary) / "home")
        source = None if tiny else _default_folder()
        model = "random" if source is None else DEFAULT_MODEL
        if source is None:
            source = write_random_model(Path(temporary) / model)
        with Platform.open(home) as platform:
            principal = platform.local_principal()
            folder = pull(platform, principal, str(source), name=model).path
            key = create_key(platform, principal, "benchmark", scopes).secret
        with _up(home, model, threads) as (url, process):
            yield Server(url, key, model, folder, process)


def write_random_model(folder: Path) -> Path:
    """A Llama of 12 million parameters with a byte-level BPE of Python's own documentation."""
    import tokenizers

    from bessemer.data.corpus import topics
    from bessemer.models.config import ModelConfig
    from bessemer.models.decoder import Decoder
    from bessemer.models.folder import save_decoder
    from bessemer.text.bpe import train_bpe

    folder.mkdir()
    train_bpe([topic.text for topic in topics()], 4000, folder)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_special_tokens(list(_TURNS))
    backend.save(str(folder / "tokenizer.json"))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": _TURNS[1]}))
    config = ModelConfig(
        vocab_size=backend.get_vocab_size(),
        hidden_size=384,
        intermediate_size=1024,
        layers=6,
        heads=8,
        kv_heads=8,
        head_dim=48,
        context_length=CONTEXT_LENGTH,
    )
    save_decoder(Decoder(config).init_weights(seed=1), folder)
    (folder / "chat_template.jinja").write_text(_CHATML)
    return folder


def _default_folder() -> Path | None:
    with Platform.open() as platform:
        try:
            return find_model(platform, platform.local_principal(), DEFAULT_MODEL).path
        except NotFound:
            return None


@contextlib.contextmanager
def _up(home: Home, model: str, threads: int | None) -> Iterator[tuple[str, psutil.Process]]:
    log = home.root.parent / "up.log"
    command = [sys.executable, "-m", "bessemer", "up", "--port", "0", "--model", model]
    command += ["--threads", str(threads)] if threads else []
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            env={**os.environ, "BESSEMER_HOME": str(home.root)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        url = _when_ready(process, log)
        yield url, psutil.Process(process.pid)
    except BaseException:
        print(log.read_text(), file=sys.stderr)
        raise
    finally:
        process.terminate()
        process.wait(60)


def _when_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline_s = time.monotonic() + READY_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}")
        lines = (line.split() for line in log.read_text().splitlines())
        url = next((words[1] for words in lines if words[:1] == ["API"]), None)
        if url is not None and _is_ready(url.removesuffix("/v1")):
            return url
        time.sleep(0.1)
    raise TimeoutError(f"the server was not ready after {READY_S:.0f} s")


def _is_ready(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/healthz", timeout=30) as reply:
        return all(model["state"] == "ready" for model in json.load(reply)["models"])
