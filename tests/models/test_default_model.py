"""The pinned default model, as the product converts it: the reference's function and ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bessemer.models.attention import PackedAttention, positions
from bessemer.models.decoder import Decoder
from bessemer.models.folder import load_decoder
from bessemer.text.tokenizer import Tokenizer

pytestmark = [pytest.mark.wheel, pytest.mark.slow]

QUESTION = "What is the capital of France?"
TEXTS = [
    "def main(args):\n    return [int(a) for a in args if a != '']  # 1234567\n",
    "The sky is blue because shorter wavelengths scatter more than longer ones.",
    "naïve façade 東京 e\u0301te\u0301 🙂 Straße — “quotes” …",
    "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n",
    "  spaces   and\ttabs\r\n\r\nlines ",
    "<repo_name>a/b<file_sep>c.py",
]


@pytest.fixture(scope="module")
def reference_tokenizer(default_model_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(default_model_folder)


@pytest.fixture(scope="module")
def reference(default_model_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(default_model_folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def decoder(default_model_folder: Path) -> Decoder:
    return load_decoder(default_model_folder)


def logits(decoder: Decoder, lengths: list[int], ids_T: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return decoder.logits(decoder(ids_T, positions(lengths), PackedAttention(lengths)))


@pytest.mark.parametrize("text", TEXTS)
def test_ids_equal_transformers(
    text: str, default_model_folder: Path, reference_tokenizer: Any
) -> None:
    ids = Tokenizer.load(default_model_folder).encode(text)
    assert ids == reference_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert Tokenizer.load(default_model_folder).decode(ids, skip_special=False) == text


def test_logits_in_float32_equal_transformers(
    decoder: Decoder, reference: Any, reference_tokenizer: Any
) -> None:
    documents = [torch.tensor(reference_tokenizer(text)["input_ids"]) for text in TEXTS]
    with torch.no_grad():
        expected = torch.cat([reference(ids_T[None]).logits[0] for ids_T in documents])
    found = logits(decoder, [len(ids_T) for ids_T in documents], torch.cat(documents))
    torch.testing.assert_close(found, expected, atol=5e-4, rtol=0)


def test_says_that_the_capital_of_france_is_paris(
    decoder: Decoder, reference_tokenizer: Any
) -> None:
    ids: list[int] = reference_tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_dict=False
    )
    prompt_tokens = len(ids)
    while len(ids) < prompt_tokens + 20 and ids[-1] != reference_tokenizer.eos_token_id:
        scores_TV = logits(decoder, [len(ids)], torch.tensor(ids))
        ids.append(int(scores_TV[-1].argmax()))
    answer = reference_tokenizer.decode(ids[prompt_tokens:], skip_special_tokens=True)
    assert answer.startswith("The capital of France is Paris.")


def test_logits_in_float64_equal_transformers(
    default_model_folder: Path, reference: Any, reference_tokenizer: Any
) -> None:
    ids_T = torch.tensor(reference_tokenizer(TEXTS[1])["input_ids"])
    with torch.no_grad():
        expected = reference.double()(ids_T[None]).logits[0]
    reference.float()  # exact again: its weights were float32
    found = logits(load_decoder(default_model_folder, torch.float64), [len(ids_T)], ids_T)
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=0)
