"""A tiny random BERT on disk, with a real WordPiece vocabulary and a sentence model's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import WordPieceTrainer
from transformers import BertConfig, BertModel

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = [
    "A man is eating food.",
    "A man is eating a piece of bread!",
    "The girl is carrying a baby, unbelievably carefully.",
    "Naïve façade: 東京 [SEP] and [CLS]",
    "x",
]
CONTEXT = 48


def tiny_bert(**more: Any) -> BertModel:
    """A random model whose LayerNorms and biases matter."""
    shape = {
        "vocab_size": 260,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
    }
    transformers.set_seed(0)
    model = BertModel(BertConfig(**shape | more))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 1.0 if "weight" in name else 0.0, 0.3)
    return model.eval()


def write_bert(folder: Path, model: BertModel | None = None, pooling: str = "mean_tokens") -> Path:
    (model or tiny_bert()).save_pretrained(folder)
    wordpiece().save(str(folder / "tokenizer.json"))
    kinds = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [
        {"path": path, "type": f"sentence_transformers.models.{kind}"}
        for kind, path in kinds.items()
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    modes = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": False}
    settings = {"word_embedding_dimension": 32, **modes, f"pooling_mode_{pooling}": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": CONTEXT}))
    return folder


def wordpiece() -> Tokenizer:
    """BERT's tokenizer, taught on `TEXTS`; the file cuts and pads, as published ones do."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    trainer = WordPieceTrainer(vocab_size=250, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8, pad_id=ids["[PAD]"], pad_token="[PAD]")
    return tokenizer
