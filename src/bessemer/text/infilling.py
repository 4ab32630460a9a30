"""Fill-in-the-middle: the sentinel tokens around prefix, suffix and middle, and their order.

    PSM   <prefix> prefix <suffix> suffix <middle> middle <end>
    SPM   <prefix> <suffix> suffix <middle> prefix middle <end>

(Bavarian et al., 2022, "Efficient Training of Language Models to Fill in the Middle"; SPM is its
joint variant, in which prefix and middle are one text.) Training arranges documents so, and a
request with a suffix is the same up to where the middle begins. A model that was trained so has
the sentinels in its tokenizer, by one of the names below.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from bessemer.core.errors import InvalidInput
from bessemer.text.tokenizer import Tokenizer

Order = Literal["psm", "spm"]

# What published models call prefix, suffix and middle.
NAMES = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, and ours
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # CodeLlama
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
)
SENTINELS = NAMES[0]


class Sentinels(NamedTuple):
    """Token ids that announce the three parts."""

    prefix: int
    suffix: int
    middle: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Sentinels | None:
        """Those of a tokenizer, or None: its model was not trained to fill in."""
        for names in NAMES:
            ids = [tokenizer.control_id(name) for name in names]
            if all(id_ is not None for id_ in ids):
                return cls(*(id_ for id_ in ids if id_ is not None))
        return None


class Parts(NamedTuple):
    """A text in three, as token ids."""

    prefix: list[int]
    middle: list[int]
    suffix: list[int]


def arrange(parts: Parts, sentinels: Sentinels, order: Order) -> tuple[list[int], int]:
    """The ids that a model reads, and where the middle begins in them; no end token."""
    if order == "psm":
        before = [sentinels.prefix, *parts.prefix, sentinels.suffix, *parts.suffix]
        before.append(sentinels.middle)
    else:
        before = [sentinels.prefix, sentinels.suffix, *parts.suffix, sentinels.middle]
        before += parts.prefix
    return before + parts.middle, len(before)


def infill_prompt(tokenizer: Tokenizer, prefix: str, suffix: str) -> list[int]:
    """Ids after which the model writes what stands between `prefix` and `suffix` (PSM).

    Raises:
        InvalidInput: the model's tokenizer has no sentinels.
    """
    sentinels = Sentinels.of(tokenizer)
    if sentinels is None:
        raise InvalidInput(
            "this model cannot fill in the middle: its tokenizer has no sentinel tokens such as "
            + ", ".join(SENTINELS),
            next_step="leave 'suffix' out, or train a model with pretrain.fim_rate",
            param="suffix",
        )
    encode = tokenizer.encode
    parts = Parts(encode(prefix, parse_special=False), [], encode(suffix, parse_special=False))
    return tokenizer.prefix_ids + arrange(parts, sentinels, "psm")[0]
