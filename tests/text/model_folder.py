"""A small model folder made on the spot: a real BPE with ChatML's control tokens."""

import json
import random
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<filename>"]
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "The quick brown fox jumps over the lazy dog. Hello world! It's 12345 or 67.",
    "def encode(self, text: str) -> list[int]:\n    return self._backend.encode(text)\n\n\n",
    "naïve café — 東京 は 日本 の 首都 です. Привет, мир! 🙂🙃🏳️‍🌈 \t\r\n",
]
ALPHABETS = [
    "abcdefghij klmnop .,!?'",
    "0123456789 +-*/=()[]{}:;\n\t    ",
    " \n\t\r\u00a0\u2003\u200b\ufeff",
    "äöüßéàçñ東京日本🙂🏳️‍🌈👩‍👩‍👧ЖшяعربिहнदीไทยΩ",
    "\x00\x01\x7f\u0300\u202e\ud7ff\ue000\U0010ffff<|>",
]


def write_model_folder(folder: Path, template: str = CHATML) -> Path:
    """GPT-2-style byte-level BPE with single digits; ids 0 to 3 are control tokens."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=CONTROL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS * 3, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "chat_template": template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    return folder


def varied_strings(count: int, seed: int) -> list[str]:
    """Words, code, white space, every script, emoji, control tokens; the same for a seed."""
    source = random.Random(seed)
    texts = []
    for _ in range(count):
        pieces = []
        for _ in range(source.randrange(0, 8)):
            alphabet = source.choice(ALPHABETS)
            pieces.append("".join(source.choices(alphabet, k=source.randrange(0, 12))))
            pieces.append(source.choice(["", "", "", " ", "\n", *CONTROL, *CORPUS]))
            pieces.append(chr(source.randrange(0x20, 0xD800)) if source.random() < 0.3 else "")
        texts.append("".join(pieces))
    return texts
