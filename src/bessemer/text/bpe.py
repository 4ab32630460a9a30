"""Trains a byte-level BPE vocabulary and writes it as a Hugging Face folder.

Digits are single tokens, and every byte has a token, so no text is unknown. The control tokens are
`<|endoftext|>`, which stands between documents, and the sentinels of fill-in-the-middle.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from bessemer.core.errors import InvalidInput
from bessemer.text.infilling import SENTINELS
from bessemer.text.tokenizer import Tokenizer

END_OF_TEXT = "<|endoftext|>"
CONTROL_TOKENS = (END_OF_TEXT, *SENTINELS)
SMALLEST_VOCAB = 256 + len(CONTROL_TOKENS)


def train_bpe(texts: Iterable[str], vocab_size: int, folder: Path) -> Tokenizer:
    """Learn at most `vocab_size` tokens from `texts` and write them to `folder`.

    The same texts in the same order give the same bytes. A small corpus may have fewer pairs to
    merge than asked for; `vocab_size` of the result says how many there are.

    Raises:
        InvalidInput: `vocab_size` is below 260 (256 bytes and the control tokens).
    """
    if vocab_size < SMALLEST_VOCAB:
        raise InvalidInput(
            f"a byte-level vocabulary of {vocab_size} is too small",
            next_step=f"ask for {SMALLEST_VOCAB} or more; 8192 is usual for small models",
            param="vocab_size",
        )
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return _write(backend, folder)


def _write(backend: tokenizers.Tokenizer, folder: Path) -> Tokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return Tokenizer.load(folder)
