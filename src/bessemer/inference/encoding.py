"""The steps of an encoder: as many waiting texts as fit into one, whole, and all of them at once.

An encoder keeps nothing between steps, so there is no cache and nothing to schedule but the queue,
in which each client has its own line.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from bessemer.core.errors import (
    AdapterNotLoaded,
    BessemerError,
    Busy,
    ContextLengthExceeded,
    InvalidInput,
)
from bessemer.inference import precision as precisions
from bessemer.inference.fair_queue import FairQueue
from bessemer.inference.prepared_encoder import PreparedEncoder
from bessemer.inference.scheduler import Counters
from bessemer.inference.sequence import EngineSequence
from bessemer.inference.stepper import Occupancy
from bessemer.models.attention import WholeAttention, positions
from bessemer.models.encoder import pooled

# A step of so many tokens keeps two cores busy for some hundredths of a second.
STEP_TOKENS = 2048
# Texts are short, and one request may bring two thousand of them.
MAX_WAITING = 4096


class EncoderStepper:
    """Dynamic batching by tokens. Takes only sequences that want a vector.

    Args:
        step_tokens: texts are computed together up to so many; a longer one alone.
    """

    def __init__(
        self, model: PreparedEncoder, context_length: int, step_tokens: int = STEP_TOKENS
    ) -> None:
        self._model = model
        self._step_tokens = step_tokens
        self._context_length = context_length
        self._waiting = FairQueue()
        self._running: list[EngineSequence] = []
        self._tokens_per_s = 10_000.0  # measured as it goes
        self.counters = Counters()
        self.conditions: dict[str, str] = {}

    @property
    def idle(self) -> bool:
        return not self._waiting

    def admit(self, sequence: EngineSequence) -> bool:
        """Queue a sequence, or send it the reason why not."""
        try:
            self._check(sequence)
        except BessemerError as error:
            sequence.send("error", error)
            return False
        self._waiting.push(sequence)
        self.counters.requests += 1
        self.counters.prompt_tokens += sequence.prompt_tokens
        return True

    def step(self) -> bool:
        """Compute the next texts, clients in turn; False if there are none."""
        self._running = batch = self._next_batch()
        if not batch:
            return False
        start = time.perf_counter()
        vectors = self._vectors(batch)
        tokens = sum(len(sequence.ids) for sequence in batch)
        self.counters.steps += 1
        self.counters.computed_tokens += tokens
        speed = tokens / (time.perf_counter() - start)
        self._tokens_per_s += 0.1 * (speed - self._tokens_per_s)
        self._running = []
        for sequence, vector in zip(batch, vectors, strict=True):
            sequence.send("result", vector)
        return True

    def refuse_the_rest(self, error: BessemerError) -> None:
        """Tell everybody who still waits."""
        for sequence in (*self._running, *self._waiting):
            if not sequence.cancelled:
                sequence.send("error", error)

    @property
    def adapters(self) -> list[str]:
        """None are."""
        return []

    def load_adapter(self, digest: str, folder: Path) -> None:
        """Raises InvalidInput: adapters of encoders are merged."""
        raise InvalidInput(
            "this model is an encoder, and adapters are served over decoders only",
            next_step="merge the adapter into its base with peft, and pull the merged model",
        )

    def unload_adapter(self, digest: str) -> None:
        """Raises AdapterNotLoaded: none ever was."""
        raise AdapterNotLoaded(f"the adapter {digest[:19]} is not loaded in this engine")

    def occupancy(self) -> Occupancy:
        return Occupancy(
            context_length=self._context_length,
            precision=precisions.name_of(self._model.dtype),
            running=len(self._running),
            waiting=len(self._waiting),
            max_running=self._step_tokens,
            tokens_per_s=self._tokens_per_s,
        )

    def _next_batch(self) -> list[EngineSequence]:
        batch: list[EngineSequence] = []
        room = self._step_tokens
        while (sequence := self._waiting.first()) and (not batch or len(sequence.ids) <= room):
            self._waiting.pop()
            if not sequence.cancelled:
                sequence.admitted_at = time.monotonic()
                self.counters.queued_s += sequence.admitted_at - sequence.arrived_at
                self._waiting.charge(sequence.client, len(sequence.ids))
                batch.append(sequence)
                room -= len(sequence.ids)
        return batch

    def _vectors(self, batch: list[EngineSequence]) -> list[list[float]]:
        lengths = [len(sequence.ids) for sequence in batch]
        ids_T = torch.tensor([id_ for sequence in batch for id_ in sequence.ids])
        hidden_TD = self._model.forward(ids_T, positions(lengths), WholeAttention(lengths))
        chosen = [sequence.pooling or self._model.config.pooling for sequence in batch]
        of_kind = {kind: pooled(hidden_TD, lengths, kind).tolist() for kind in set(chosen)}
        return [of_kind[kind][place] for place, kind in enumerate(chosen)]

    def _check(self, sequence: EngineSequence) -> None:
        if sequence.wanted != "vector":
            raise InvalidInput(
                "this model is an encoder: it turns texts into vectors and writes none",
                next_step="POST /v1/embeddings",
            )
        if sequence.pooling == "last":
            raise InvalidInput(
                "an encoder's last token stands for nothing; pooling is mean or cls",
                param="pooling",
            )
        if sequence.adapter is not None:
            raise AdapterNotLoaded(f"the adapter {sequence.adapter[:19]} is not loaded here")
        rows, limit = self._model.config.vocab_size, self._context_length
        if not sequence.ids:
            raise InvalidInput("the text is empty: there is no token to make a vector of")
        if any(not 0 <= id_ < rows for id_ in sequence.ids):
            raise InvalidInput(f"a token id is outside the vocabulary of {rows}")
        if len(sequence.ids) > limit:
            raise ContextLengthExceeded(
                f"this model's context is {limit} tokens; the text has {len(sequence.ids)}",
                next_step="cut the text into shorter ones",
                prompt_tokens=len(sequence.ids),
                context_length=limit,
            )
        if len(self._waiting) >= MAX_WAITING:
            todo = sum(len(waiting.ids) for waiting in self._waiting)
            raise Busy(
                f"{len(self._waiting)} texts wait: the queue is full",
                retry_after_s=max(1.0, round(todo / self._tokens_per_s, 1)),
            )
