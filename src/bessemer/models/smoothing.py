"""Make a decoder easier to compute in 8 bits without changing what it computes.

SmoothQuant (Xiao et al., 2023): a few inputs of a matrix are far larger than the rest, and one
scale a token then leaves the rest few of its 255 steps. Dividing input i by s_i and multiplying
column i of the matrix by it changes nothing but how hard each of them is to round:

    s_i = max |x_i| ** 0.5 / max |w_i| ** 0.5

The division is written into what comes before: a norm's weight, or the rows of `up_proj`. Factors
are powers of two, so in floating point the decoder stays the same function to the bit.

Which inputs are large is a property of the weights more than of the text: the inputs are measured
on random tokens, so no data is needed (docs/logbook.md compares it with real text).

    T tokens   I inputs   O outputs
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bessemer.models.attention import PackedAttention
from bessemer.models.decoder import Decoder, FeedForward, Layer, SelfAttention
from bessemer.models.norm import RMSNorm

TOKENS = 512
DOCUMENT = 256


@torch.no_grad()
def smooth(decoder: Decoder, seed: int = 0) -> None:
    """Move large inputs' size into the matrices; the decoder computes the same as before."""
    sizes = _input_sizes(decoder, seed)
    for layer in decoder.model.layers:
        assert isinstance(layer, Layer), layer
        attention, mlp = layer.self_attn, layer.mlp
        assert isinstance(attention, SelfAttention) and isinstance(mlp, FeedForward)
        queries = [attention.q_proj, attention.k_proj, attention.v_proj]
        _move(sizes[attention.q_proj], layer.input_layernorm, queries)
        _move(sizes[mlp.gate_proj], layer.post_attention_layernorm, [mlp.gate_proj, mlp.up_proj])
        _move(sizes[mlp.down_proj], mlp.up_proj, [mlp.down_proj])


def _input_sizes(decoder: Decoder, seed: int) -> dict[nn.Module, Tensor]:
    """The largest |x_i| that each linear layer saw of every input, (I,)."""
    sizes: dict[nn.Module, Tensor] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes[layer] = inputs[0].abs().amax(0)

    linears = [module for module in decoder.modules() if isinstance(module, nn.Linear)]
    hooks = [linear.register_forward_pre_hook(note) for linear in linears]
    generator = torch.Generator().manual_seed(seed)
    ids_T = torch.randint(decoder.config.vocab_size, (TOKENS,), generator=generator)
    length = min(DOCUMENT, decoder.config.context_length)
    positions_T = torch.arange(TOKENS) % length
    lengths = [length] * (TOKENS // length) + [TOKENS % length] * (TOKENS % length > 0)
    try:
        decoder(ids_T, positions_T, PackedAttention(lengths))
    finally:
        for hook in hooks:
            hook.remove()
    return sizes


def _move(size_I: Tensor, source: RMSNorm | nn.Linear, users: Sequence[nn.Linear]) -> None:
    """Divide what `source` gives by s, and multiply the columns of everything that takes it."""
    widest_I = torch.stack([user.weight.abs().amax(0) for user in users]).amax(0)
    logs_I = 0.5 * (size_I.clamp(min=1e-5).log2() - widest_I.clamp(min=1e-5).log2())
    factors_I = torch.exp2((logs_I - logs_I.mean()).round())
    source.weight.div_(factors_I if source.weight.dim() == 1 else factors_I[:, None])
    if isinstance(source, nn.Linear) and source.bias is not None:
        source.bias.div_(factors_I)
    for user in users:
        user.weight.mul_(factors_I)
