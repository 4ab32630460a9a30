"""`openvino_genai` without a model, for tests: with this folder on the path it is the library.

The answer to a prompt is the prompt, repeated, one token a step; sampled, from the place of the
seed. The log-probability of token `i` is `-i / 100`. As in the library, settings that it does not
have cannot be set, no more than `max_num_seqs` are computed in a step, and `cancel` takes effect in
the next one.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

DIE_ID, BREAK_ID, IGNORE_ID = 66, 67, 68  # as prompts: end the process, a step, themselves


class SchedulerConfig:
    __slots__ = (
        "dynamic_split_fuse", "enable_prefix_caching", "max_num_batched_tokens", "max_num_seqs",
        "num_kv_blocks",
    )  # fmt: skip


class GenerationConfig:
    __slots__ = (
        "do_sample", "frequency_penalty", "ignore_eos", "logprobs", "max_new_tokens", "min_p",
        "presence_penalty", "repetition_penalty", "rng_seed", "temperature", "top_k", "top_p",
    )  # fmt: skip


class GenerationHandle:
    def __init__(self, prompt: list[int], config: GenerationConfig) -> None:
        self.prompt, self.config = prompt, config
        self.drawn, self.status = 0, "RUNNING"
        self.unread: list[int] = []

    def can_read(self) -> bool:
        return bool(self.unread)

    def read(self) -> dict[int, Any]:
        ids, self.unread = self.unread, []
        logprobs = [-id_ / 100 for id_ in ids]
        return {0: SimpleNamespace(generated_ids=ids, generated_log_probs=logprobs)}

    def cancel(self) -> None:
        self.status = "CANCEL"

    def get_status(self) -> Any:
        return SimpleNamespace(name=self.status)

    def draw(self) -> None:
        if self.prompt == [DIE_ID]:
            os._exit(9)
        if self.prompt == [BREAK_ID]:
            raise RuntimeError("a broken step")
        if self.prompt == [IGNORE_ID]:
            self.status = "IGNORED"
            return
        start = self.config.rng_seed if self.config.do_sample else 0
        self.unread.append(self.prompt[(start + self.drawn) % len(self.prompt)])
        self.drawn += 1
        if self.drawn == self.config.max_new_tokens:
            self.status = "FINISHED"


class ContinuousBatchingPipeline:
    def __init__(
        self,
        path: str,
        scheduling: SchedulerConfig,
        device: str,
        properties: dict[str, str],
        tokenizer_properties: dict[str, str],
    ) -> None:
        if Path(path).read_bytes()[:4] != b"GGUF":
            raise RuntimeError("Exception from src\nno GGUF")
        assert (device, tokenizer_properties) == ("CPU", {})
        self.scheduling, self.properties = scheduling, properties
        self.step_s = float(os.environ.get("FAKE_OPENVINO_STEP_S", "0"))
        self.requests: dict[int, GenerationHandle] = {}

    def add_request(self, number: int, ids: Any, config: GenerationConfig) -> GenerationHandle:
        assert number not in self.requests
        (prompt,) = ids.data.tolist()
        handle = self.requests[number] = GenerationHandle(prompt, config)
        return handle

    def has_non_finished_requests(self) -> bool:
        return bool(self.requests)

    def step(self) -> None:
        time.sleep(self.step_s)
        self._forget()
        for handle in list(self.requests.values())[: self.scheduling.max_num_seqs]:
            handle.draw()
        self._forget()

    def _forget(self) -> None:
        self.requests = {n: h for n, h in self.requests.items() if h.status == "RUNNING"}
