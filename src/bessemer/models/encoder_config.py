"""What a sentence encoder looks like, read from its Hugging Face folder. No torch.

`config.json` says what the network is. Beside it `sentence-transformers` says how many tokens it
was taught to read and how its hidden states become one vector (`modules.json` and the folder of
its pooling); a setting that would change the vector and is not known here is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bessemer.core.errors import IntegrityError, InvalidInput
from bessemer.core.protocols import Pooling

POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
_LARGEST_SIZE = 1 << 24


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The numbers of one BERT.

    Attributes:
        positions: rows of the table of positions.
        context_length: tokens it was taught to read, which may be fewer.
        pooling: how the hidden states become one vector.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    positions: int
    context_length: int
    token_types: int = 2
    norm_eps: float = 1e-12
    pooling: Pooling = "mean"

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "layers", "heads", "positions")
        for name in (*sizes, "context_length", "token_types"):
            value = getattr(self, name)
            if type(value) is not int or not 0 < value <= _LARGEST_SIZE:
                raise InvalidInput(f"{name} must be from 1 to {_LARGEST_SIZE:,}; got {value!r}")
        if self.hidden_size % self.heads:
            raise InvalidInput(f"{self.heads} heads cannot share {self.hidden_size} dimensions")
        if self.context_length > self.positions:
            raise InvalidInput(
                f"the model reads {self.context_length} tokens but knows {self.positions} positions"
            )

    @classmethod
    def from_folder(cls, folder: Path) -> EncoderConfig:
        """Read `config.json` and what `sentence-transformers` wrote beside it.

        Raises:
            IntegrityError: a file is missing, is not JSON, or lacks a setting.
            InvalidInput: an architecture or setting that the encoder does not have.
        """
        tree = _read(folder / "config.json")
        if tree is None:
            raise IntegrityError(f"{folder} has no config.json")
        _refuse_what_is_not_here(tree)
        sentences = _read(folder / "sentence_bert_config.json") or {}
        try:
            positions = tree["max_position_embeddings"]
            return cls(
                vocab_size=tree["vocab_size"],
                hidden_size=tree["hidden_size"],
                intermediate_size=tree["intermediate_size"],
                layers=tree["num_hidden_layers"],
                heads=tree["num_attention_heads"],
                positions=positions,
                context_length=sentences.get("max_seq_length") or positions,
                token_types=tree.get("type_vocab_size", 2),
                norm_eps=float(tree.get("layer_norm_eps", 1e-12)),
                pooling=own_pooling(folder),
            )
        except KeyError as fault:
            raise IntegrityError(f"config.json lacks {fault.args[0]!r}") from fault
        except (TypeError, ValueError) as fault:
            raise IntegrityError(f"config.json has a value of the wrong kind: {fault}") from fault


def is_encoder(folder: Path) -> bool:
    """Whether the folder's model makes vectors and no text."""
    tree = _read(folder / "config.json")
    return tree is not None and tree.get("model_type") == "bert"


def own_pooling(folder: Path) -> Pooling:
    """How the model was taught to pool, by `modules.json`; the mean where nothing is said.

    Raises:
        InvalidInput: another kind of pooling, or layers behind it.
    """
    modules = _read(folder / "modules.json") or []
    pooling: Pooling = "mean"
    for module in modules:
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            settings = _read(folder / str(module["path"]) / "config.json") or {}
            pooling = _pooling(settings)
        elif kind not in ("Transformer", "Normalize"):
            raise InvalidInput(f"this sentence model has a module {kind!r}, which is not supported")
    return pooling


def _pooling(settings: dict[str, Any]) -> Pooling:
    chosen = [key for key, on in settings.items() if key.startswith("pooling_mode_") and on]
    if len(chosen) != 1 or chosen[0] not in POOLINGS:
        raise InvalidInput(
            f"this sentence model pools by {', '.join(chosen) or 'nothing'}; known are"
            f" {', '.join(POOLINGS)}, one of them"
        )
    return POOLINGS[chosen[0]]


def _refuse_what_is_not_here(tree: dict[str, Any]) -> None:
    problems = []
    if (family := tree.get("model_type")) != "bert":
        problems.append(f"model_type {family!r} (only 'bert')")
    if (activation := tree.get("hidden_act", "gelu")) != "gelu":
        problems.append(f"activation {activation!r} (only 'gelu')")
    if (kind := tree.get("position_embedding_type", "absolute")) != "absolute":
        problems.append(f"position_embedding_type {kind!r} (only 'absolute')")
    if tree.get("is_decoder") or tree.get("add_cross_attention"):
        problems.append("a decoder's attention")
    if problems:
        raise InvalidInput(
            "this model needs what the encoder does not have: " + "; ".join(problems)
        )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as fault:
        raise IntegrityError(f"{path} is not JSON: {fault}") from fault
