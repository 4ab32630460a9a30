"""The encoder of sentences: BERT (Devlin et al., 2018), in plain PyTorch.

Its parameter names are Hugging Face's. Learned positions, token types, LayerNorm after each
block, exact GELU, biases everywhere; dropout is left out, as everywhere in this house. Like the
decoder it is flat over tokens: `attend` decides which token sees which.

    T tokens   N documents   D hidden size   F feed-forward size   H heads
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bessemer.core.protocols import Pooling
from bessemer.models.attention import Attend
from bessemer.models.encoder_config import EncoderConfig
from bessemer.models.folder import hold_against, read_headers, read_tensors


class Embeddings(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, hidden)
        self.position_embeddings = nn.Embedding(config.positions, hidden)
        self.token_type_embeddings = nn.Embedding(config.token_types, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=config.norm_eps)

    def forward(self, ids_T: Tensor, positions_T: Tensor) -> Tensor:
        # One text at a time: every token is of type 0.
        x_TD = self.word_embeddings(ids_T) + self.token_type_embeddings.weight[0]
        out: Tensor = self.LayerNorm(x_TD + self.position_embeddings(positions_T))
        return out


class Projections(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)


class AddAndNorm(nn.Module):
    def __init__(self, inner: int, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)

    def forward(self, y_TF: Tensor, x_TD: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dense(y_TF) + x_TD)
        return out


class EncoderAttention(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.self = Projections(config)  # Hugging Face's name for it
        self.output = AddAndNorm(config.hidden_size, config)

    def forward(self, x_TD: Tensor, layer: int, attend: Attend) -> Tensor:
        parts = (self.self.query, self.self.key, self.self.value)
        q_THD, k_THD, v_THD = (part(x_TD).view(len(x_TD), self.heads, -1) for part in parts)
        mixed_THD = attend(layer, q_THD, k_THD, v_THD)
        out: Tensor = self.output(mixed_THD.reshape(len(x_TD), -1), x_TD)
        return out


class Intermediate(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, x_TD: Tensor) -> Tensor:
        return F.gelu(self.dense(x_TD))


class EncoderLayer(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention = EncoderAttention(config)
        self.intermediate = Intermediate(config)
        self.output = AddAndNorm(config.intermediate_size, config)

    def forward(self, x_TD: Tensor, layer: int, attend: Attend) -> Tensor:
        x_TD = self.attention(x_TD, layer, attend)
        out: Tensor = self.output(self.intermediate(x_TD), x_TD)
        return out


class Stack(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))


class Encoder(nn.Module):
    """Hidden states of documents, each token seeing its whole document.

    >>> hidden_TD = encoder(ids_T, positions([3, 5]), WholeAttention([3, 5]))
    >>> vectors_ND = pooled(hidden_TD, [3, 5], "mean")
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Stack(config)

    def forward(self, ids_T: Tensor, positions_T: Tensor, attend: Attend) -> Tensor:
        """Hidden states after the last layer, (T, D). Arguments as `Decoder.forward`'s."""
        x_TD: Tensor = self.embeddings(ids_T, positions_T)
        for index, layer in enumerate(self.encoder.layer):
            x_TD = layer(x_TD, index, attend)
        return x_TD


def pooled(hidden_TD: Tensor, lengths: Sequence[int], pooling: Pooling) -> Tensor:
    """One vector of unit length for each document, (N, D), in float32 or better.

    Args:
        pooling: the mean over a document's tokens, its first (`cls`) or its last token.
    """
    ends = torch.tensor(lengths, device=hidden_TD.device).cumsum(0)
    if pooling == "mean":
        wide_TD = hidden_TD if hidden_TD.dtype == torch.float64 else hidden_TD.float()
        sums_ND = wide_TD.new_zeros(len(lengths), wide_TD.shape[1])
        owners_T = torch.repeat_interleave(ends.diff(prepend=ends.new_zeros(1)))
        vectors_ND = sums_ND.index_add_(0, owners_T, wide_TD)
    else:
        places = ends - 1 if pooling == "last" else ends - torch.tensor(lengths)
        vectors_ND = hidden_TD[places]
        vectors_ND = vectors_ND if hidden_TD.dtype == torch.float64 else vectors_ND.float()
    return F.normalize(vectors_ND, dim=1)


def load_encoder(folder: Path, dtype: torch.dtype = torch.float32) -> Encoder:
    """The encoder in `folder`, its weights cast to `dtype`.

    Raises:
        UnsafeWeights: the weights are pickled, or a safetensors header is corrupt.
        IntegrityError: tensors are missing, left over or of another shape than the config says.
        InvalidInput: an architecture that the encoder does not have.
    """
    config = EncoderConfig.from_folder(folder)
    check_encoder(folder)
    with torch.device("meta"):
        encoder = Encoder(config)
    expected = encoder.state_dict()
    stored = {
        own: tensor.to(dtype)
        for name, tensor in read_tensors(folder)
        if (own := name.removeprefix("bert.")) in expected
    }
    encoder.load_state_dict(stored, assign=True)
    return encoder.requires_grad_(False)


def check_encoder(folder: Path) -> None:
    """Hold the headers of the weight files against `config.json`, without reading the weights.

    Raises:
        UnsafeWeights, IntegrityError, InvalidInput: as `load_encoder`.
    """
    config = EncoderConfig.from_folder(folder)
    with torch.device("meta"):
        expected = {name: list(part.shape) for name, part in Encoder(config).state_dict().items()}
    found = {stored.name.removeprefix("bert."): stored for stored in read_headers(folder)}
    hold_against(expected, found, folder, _may_be_ignored)


def _may_be_ignored(name: str) -> bool:
    """Heads of pretraining, and tables of numbers that follow from the rest."""
    return name.startswith(("pooler.", "cls.")) or name.endswith("position_ids")
