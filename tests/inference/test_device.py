"""What a GPU would do, on a CPU: memory allocated at once, shapes that repeat, recorded steps.

No GPU has run this. A stand-in replays what it recorded by computing it again into the same
memory, which is what a CUDA graph does; the rest is the same code on another `torch.device`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import GenerateRequest, Sampling, TokenChunk
from bessemer.inference import devices
from bessemer.inference.bucketed import Bucket, BucketedDecoder
from bessemer.inference.cache import KVCache
from bessemer.inference.engine import EngineSettings, NativeEngine
from bessemer.inference.graphs import Graph, Work
from bessemer.inference.prepared import PreparedDecoder
from bessemer.inference.sequence import EngineSequence
from bessemer.inference.speculation import PromptLookup
from bessemer.inference.stepper import Stepper
from bessemer.models.attention import PackedAttention, positions
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder
from bessemer.models.folder import load_decoder, save_decoder
from tests.inference.conftest import SHAPE, VOCABULARY

Tiny = Callable[[str], Path]


class Recording:
    """A `Graph` for a CPU: each replay computes the work again, into the memory of the first."""

    made: list[Recording]

    def __init__(self) -> None:
        self.replays = 0

    @classmethod
    def kind(cls) -> type[Recording]:
        """A class of its own, so that what one test records is counted apart."""
        return type("Counted", (cls,), {"made": []})

    @torch.inference_mode()
    def capture(self, work: Work) -> torch.Tensor:
        self.made.append(self)
        self._work, self._output = work, work()
        return self._output.fill_(torch.nan)  # values come with the first replay, as on a GPU

    @torch.inference_mode()
    def replay(self) -> None:
        self.replays += 1
        self._output.copy_(self._work())


def stepper_over(
    folder: Path, make_graph: Callable[[], Graph] | None, rows: int = 5, **options: Any
) -> Stepper:
    model = PreparedDecoder(load_decoder(folder, torch.float64))
    cache = KVCache(
        model.config,
        torch.float64,
        rows=rows,
        context_length=model.config.context_length,
        kv_bytes=1 << 22,
        elastic=False,
    )
    return Stepper(model, cache, max_waiting=99, chunk_tokens=16, make_graph=make_graph, **options)


def answer_all(stepper: Stepper, asked: Sequence[GenerateRequest]) -> list[list[TokenChunk]]:
    letters = [deque[tuple[str, Any]]() for _ in asked]
    for request, inbox in zip(asked, letters, strict=True):
        sequence = EngineSequence.for_tokens(request, lambda *news, to=inbox: to.append(news))
        assert stepper.admit(sequence)
    while stepper.step():
        pass
    assert all(kind == "chunk" for inbox in letters for kind, _ in inbox)
    return [[chunk for _, chunk in inbox] for inbox in letters]


def ids_of(chunks: Sequence[TokenChunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.ids]


def requests(count: int, **more: Any) -> list[GenerateRequest]:
    facts: dict[str, Any] = {"sampling": Sampling(temperature=0.0), "top_logprobs": VOCABULARY}
    found = []
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        ids = torch.randint(0, VOCABULARY, (3 + 7 * number,), generator=generator).tolist()
        found.append(
            GenerateRequest(
                request_id=str(number), prompt_ids=ids, max_tokens=6 + 3 * number, **facts | more
            )
        )
    return found


@pytest.mark.parametrize("name", ["llama", "llama3", "qwen2", "qwen3"])
def test_recorded_steps_compute_what_the_network_does(name: str, tiny: Tiny) -> None:
    asked = requests(8)
    kind = Recording.kind()
    answers = answer_all(stepper_over(tiny(name), kind), asked)
    assert sum(recording.replays for recording in kind.made) > 20
    decoder = load_decoder(tiny(name), torch.float64)
    for request, chunks in zip(asked, answers, strict=True):
        drawn = ids_of(chunks)
        ids = torch.tensor([*request.prompt_ids, *drawn])
        with torch.no_grad():
            hidden = decoder(ids, positions([len(ids)]), PackedAttention([len(ids)]))
            logprobs = torch.log_softmax(decoder.logits(hidden), -1)
        assert len(drawn) == request.max_tokens
        for place, chunk in enumerate(chunks, len(request.prompt_ids) - 1):
            assert chunk.logprobs is not None
            for token, logprob in chunk.logprobs[0].top:
                assert logprob == pytest.approx(float(logprobs[place, token]), abs=1e-8)


@pytest.mark.parametrize("drafter", [None, PromptLookup()])
def test_answers_are_those_of_the_path_for_processors(
    tiny: Tiny, drafter: PromptLookup | None
) -> None:
    asked = requests(9, sampling=Sampling(temperature=0.9, seed=4), top_logprobs=None)
    kind = Recording.kind()
    plain = answer_all(stepper_over(tiny("llama"), None, drafter=drafter), asked)
    recorded = answer_all(stepper_over(tiny("llama"), kind, drafter=drafter), asked)
    assert kind.made
    assert [ids_of(chunks) for chunks in plain] == [ids_of(chunks) for chunks in recorded]


def test_each_bucket_is_recorded_once_and_replayed(tiny: Tiny) -> None:
    kind = Recording.kind()
    stepper = stepper_over(tiny("llama"), kind)
    for _ in range(3):
        answer_all(stepper, requests(5))
    bucketed = stepper._runner.bucketed
    assert bucketed is not None
    assert len(kind.made) == len(bucketed.recorded) <= 4  # 1, 2, 4 and all 5 rows; one length
    assert all(recording.replays > 0 for recording in kind.made)


def long_context(folder: Path) -> KVCache:
    config = ModelConfig(**SHAPE | {"context_length": 1000})
    save_decoder(Decoder(config).init_weights(seed=3), folder)
    return KVCache(
        config, torch.float64, rows=6, context_length=1000, kv_bytes=1 << 26, elastic=False
    )


def test_buckets_double_and_end_with_the_cache(tmp_path: Path) -> None:
    cache = long_context(tmp_path)
    decoder = BucketedDecoder(PreparedDecoder(load_decoder(tmp_path)), cache, Recording.kind())
    assert decoder.bucket(1, 1) == Bucket(1, 256)
    assert decoder.bucket(3, 256) == Bucket(4, 256)
    assert decoder.bucket(5, 257) == Bucket(6, 512)
    assert decoder.bucket(6, 1000) == Bucket(6, 1000)


def test_a_row_in_between_keeps_what_it_has(tmp_path: Path) -> None:
    """Row 0 waits in the middle of its prompt while row 1 decodes."""
    cache = long_context(tmp_path)
    decoder = load_decoder(tmp_path, torch.float64)
    bucketed = BucketedDecoder(PreparedDecoder(decoder), cache, Recording.kind())
    waiting, decoding = cache.acquire(range(90)), cache.acquire(range(40))
    assert waiting is not None and decoding is not None
    for layer_2RKSE in cache.layers_2RKSE:
        layer_2RKSE[:, 0, :, :50] = 7.0
    waiting.computed = 50
    bucketed.run([0, 5], [waiting.computed, 0])
    for layer_2RKSE in cache.layers_2RKSE:
        assert bool((layer_2RKSE[:, 0, :, :50] == 7.0).all())
        assert bool((layer_2RKSE[:, 1, :, 0] != 0).any())
        assert bool((layer_2RKSE[:, 1, :, 1:] == 0).all())


def test_shapes_are_right_on_a_device_without_numbers() -> None:
    """Everything a step makes is on the model's device: "meta" refuses to meet a CPU's tensor."""
    meta = torch.device("meta")
    config = ModelConfig(**SHAPE)
    with meta:
        decoder = Decoder(config)
    model = PreparedDecoder(decoder)
    cache = KVCache(config, model.dtype, rows=8, context_length=96, kv_bytes=1 << 20, device=meta)
    logits_BV = BucketedDecoder(model, cache, Recording.kind()).run([1, 2, 3], [5, 0, 90])
    assert logits_BV.device.type == "meta"
    assert logits_BV.shape == (3, VOCABULARY)


def test_what_no_gpu_path_knows_is_refused_or_stays(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(InvalidInput, match="on the CPU alone"):
        NativeEngine.open(tiny("llama"), "d", EngineSettings(device="cuda", deterministic=True))
    NativeEngine.open(tiny("llama"), "d", EngineSettings(device="auto", deterministic=True)).close()


def test_a_missing_gpu_is_named(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.choose("auto").type == devices.choose("cpu").type == "cpu"
    with pytest.raises(InvalidInput, match="the device is to be cuda, and this torch"):
        devices.choose("cuda")
    with pytest.raises(InvalidInput, match="--device cpu"):
        NativeEngine.open(tiny("llama"), "d", EngineSettings(device="cuda"))
