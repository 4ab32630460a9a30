"""Our BERT is the reference's, whatever stands beside a text; its folder is read with care."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, BertModel

from bessemer.core.errors import BessemerError, IntegrityError, InvalidInput, UnsafeWeights
from bessemer.models.attention import WholeAttention, positions
from bessemer.models.encoder import Encoder, load_encoder, pooled
from bessemer.models.encoder_config import EncoderConfig, is_encoder
from bessemer.text.tokenizer import Tokenizer
from tests.models.bert_folder import CONTEXT, TEXTS, tiny_bert, write_bert

LENGTHS = [5, 1, 17, 16, 3, 30]


def some_ids(vocabulary: int = 260) -> Tensor:
    return torch.randint(0, vocabulary, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))


def states(encoder: Encoder, ids_T: Tensor, lengths: list[int]) -> Tensor:
    with torch.no_grad():
        hidden_TD: Tensor = encoder(ids_T, positions(lengths), WholeAttention(lengths))
    return hidden_TD


def states_of_transformers(model: BertModel, ids_T: Tensor, lengths: list[int]) -> Tensor:
    """One text at a time, so that nothing is padded."""
    with torch.no_grad():
        parts = [model(part[None]).last_hidden_state[0] for part in ids_T.split(lengths)]
    return torch.cat(parts)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"num_attention_heads": 1, "num_hidden_layers": 1},
        {"hidden_size": 48, "intermediate_size": 20, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    ],
)
def test_hidden_states_equal_transformers(more: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_bert(**more)
    folder, ids_T = write_bert(tmp_path / "m", model), some_ids()
    for dtype, tolerance in ((torch.float32, 2e-5), (torch.float64, 1e-10)):
        expected = states_of_transformers(model.to(dtype), ids_T, LENGTHS)
        found = states(load_encoder(folder, dtype), ids_T, LENGTHS)
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    assert found.std() > 0.1


def test_what_stands_beside_a_text_changes_nothing(tmp_path: Path) -> None:
    encoder, ids_T = load_encoder(write_bert(tmp_path / "m"), torch.float64), some_ids()
    together = states(encoder, ids_T, LENGTHS).split(LENGTHS)
    for part, ids in zip(together, ids_T.split(LENGTHS), strict=True):
        torch.testing.assert_close(part, states(encoder, ids, [len(ids)]), atol=1e-12, rtol=0)


def test_a_prefix_of_bert_and_heads_of_pretraining_are_understood(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "m")
    expected = states(load_encoder(folder), some_ids(), LENGTHS)
    weights = {f"bert.{name}": part for name, part in weights_of(folder).items()}
    weights["cls.predictions.bias"] = torch.zeros(260)
    weights["bert.embeddings.position_ids"] = torch.arange(64)
    write(folder, weights)
    assert torch.equal(states(load_encoder(folder), some_ids(), LENGTHS), expected)


def test_pooling_gives_one_vector_of_unit_length(tmp_path: Path) -> None:
    hidden_TD = states(load_encoder(write_bert(tmp_path / "m"), torch.float64), some_ids(), LENGTHS)
    parts = hidden_TD.split(LENGTHS)
    wanted = {
        "mean": [part.mean(0) for part in parts],
        "cls": [part[0] for part in parts],
        "last": [part[-1] for part in parts],
    }
    for pooling, vectors in wanted.items():
        expected = torch.stack([vector / vector.norm() for vector in vectors])
        found = pooled(hidden_TD, LENGTHS, pooling)  # type: ignore[arg-type]
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert pooled(hidden_TD.bfloat16(), LENGTHS, "mean").dtype == torch.float32


def test_what_the_folder_says_of_sentences_is_read(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "m", pooling="cls_token")
    config = EncoderConfig.from_folder(folder)
    assert (config.pooling, config.context_length, config.positions) == ("cls", CONTEXT, 64)
    assert is_encoder(folder)
    for name in ("modules.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    plain = EncoderConfig.from_folder(folder)
    assert (plain.pooling, plain.context_length) == ("mean", 64)


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def write(folder: Path, weights: dict[str, Tensor]) -> None:
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _set(name: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def _dense(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"type": "sentence_transformers.models.Dense", "path": "2_Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))


def _missing(folder: Path) -> None:
    weights = weights_of(folder)
    del weights["encoder.layer.1.output.dense.bias"]
    write(folder, weights)


def _surplus(folder: Path) -> None:
    write(folder, weights_of(folder) | {"encoder.layer.9.output.dense.bias": torch.zeros(32)})


def _other_shape(folder: Path) -> None:
    write(folder, weights_of(folder) | {"embeddings.LayerNorm.bias": torch.zeros(31)})


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (_set("config.json", model_type="roberta"), InvalidInput, "'roberta'"),
        (_set("config.json", hidden_act="relu"), InvalidInput, "'relu'"),
        (_set("config.json", position_embedding_type="relative_key"), InvalidInput, "relative_key"),
        (_set("config.json", num_attention_heads=5), InvalidInput, "5 heads"),
        (_set("sentence_bert_config.json", max_seq_length=65), InvalidInput, "64 positions"),
        (_set("1_Pooling/config.json", pooling_mode_max_tokens=True), InvalidInput, "max_tokens"),
        (_dense, InvalidInput, "'Dense'"),
        (_missing, IntegrityError, "1 missing .*layer.1.output.dense.bias"),
        (_surplus, IntegrityError, "1 not in the model .*layer.9"),
        (_other_shape, IntegrityError, r"LayerNorm.bias has shape \[31\]"),
        (_pickled, UnsafeWeights, "pytorch_model.bin"),
    ],
)
def test_a_folder_that_is_no_such_model_is_refused(
    fault: Callable[[Path], None], error: type[BessemerError], words: str, tmp_path: Path
) -> None:
    folder = write_bert(tmp_path / "m")
    fault(folder)
    with pytest.raises(error, match=words):
        load_encoder(folder)


@pytest.mark.parametrize("text", [*TEXTS[:3], "unbelievably", "  spaces\tand\nlines  ", "ÉTÉ"])
def test_wordpiece_ids_are_the_files_own(text: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_bert(tmp_path / "m"))
    reference = tokenizers.Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json"))
    reference.no_truncation()
    reference.no_padding()
    assert tokenizer.encode_document(text) == reference.encode(text).ids
    assert tokenizer.encode(text) == reference.encode(text, add_special_tokens=False).ids


def test_wordpiece_takes_written_control_tokens_for_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_bert(tmp_path / "m"))
    separator = tokenizer.control_id("[SEP]")
    ids = tokenizer.encode_document("carefully [SEP] x")
    assert ids.count(separator or -1) == 1 and ids[-1] == separator
    assert tokenizer.decode(tokenizer.encode("A man is eating food")) == "a man is eating food"


@pytest.mark.wheel
@pytest.mark.slow
def test_the_pinned_sentence_model_is_the_references(sentence_model_folder: Path) -> None:
    model = BertModel.from_pretrained(sentence_model_folder, dtype=torch.float64).eval()
    theirs = AutoTokenizer.from_pretrained(sentence_model_folder)
    tokenizer = Tokenizer.load(sentence_model_folder)
    texts = [*TEXTS[:3], "x", " ".join(TEXTS[:3] * 9), "Straße — “quotes” 🙂 e\u0301te\u0301"]
    documents = [tokenizer.encode_document(text) for text in texts]
    assert documents == [theirs(text, truncation=False)["input_ids"] for text in texts]
    lengths = [len(ids) for ids in documents]
    ids_T = torch.tensor([id_ for ids in documents for id_ in ids])
    expected = states_of_transformers(model, ids_T, lengths)
    found = states(load_encoder(sentence_model_folder, torch.float64), ids_T, lengths)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    single = states(load_encoder(sentence_model_folder), ids_T, lengths)
    torch.testing.assert_close(single.double(), expected, atol=2e-5, rtol=0)
    vectors_ND = pooled(found, lengths, EncoderConfig.from_folder(sentence_model_folder).pooling)
    likeness = vectors_ND[0] @ vectors_ND.T
    assert likeness[1] > 0.7 > 0.2 > likeness[2]  # food and bread; food and a baby
