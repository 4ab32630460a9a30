"""How each family spells its settings in `config.json`: read into a `ModelConfig`, and written."""

from __future__ import annotations

import math
from typing import Any

from bessemer.core.errors import IntegrityError, InvalidInput
from bessemer.models.config import (
    ARCHITECTURES,
    LatentConfig,
    Llama3Scaling,
    ModelConfig,
    MoeConfig,
    YarnScaling,
)
from bessemer.models.scheme import gguf_kind_of, kind_of

Tree = dict[str, Any]


def read(tree: Tree) -> ModelConfig:
    """A parsed `config.json`.

    Raises:
        InvalidInput: an architecture or setting that the decoder does not have.
        IntegrityError: a setting is missing or of the wrong kind.
    """
    family = tree.get("model_type")
    if not isinstance(family, str) or family not in ARCHITECTURES:
        raise InvalidInput(
            f"model_type {family!r} is not one of {', '.join(ARCHITECTURES)}, so the native engine"
            " does not serve it",
            next_step='train it from its folder (model.name = "./FOLDER"; needs transformers), and'
            " serve it with another engine",
        )
    try:
        _refuse_what_is_not_here(family, tree)
        return _read_gpt2(tree) if family == "gpt2" else _read_llama(family, tree)
    except KeyError as fault:
        raise IntegrityError(f"config.json lacks {fault.args[0]!r}") from fault
    except (TypeError, ValueError, AttributeError, ArithmeticError) as fault:
        raise IntegrityError(f"config.json has a value of the wrong kind: {fault}") from fault


def write(config: ModelConfig, dtype: str) -> Tree:
    """As `config.json`."""
    tree: Tree = {
        "architectures": [ARCHITECTURES[config.family]],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "initializer_range": config.initializer_range,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "tie_word_embeddings": config.tied,
        "torch_dtype": dtype,
        "use_cache": True,
    }
    return tree | (_write_gpt2(config) if config.family == "gpt2" else _write_llama(config))


def _read_llama(family: Any, tree: Tree) -> ModelConfig:
    latent = _read_latent(tree) if family == "deepseek_v3" else None
    bias = bool(tree.get("attention_bias", False)) and family not in ("mistral", "mixtral")
    head_dim = tree.get("head_dim") or _default_head_dim(family, tree)
    return ModelConfig(
        family=family,
        vocab_size=tree["vocab_size"],
        hidden_size=tree["hidden_size"],
        intermediate_size=tree["intermediate_size"],
        layers=tree["num_hidden_layers"],
        heads=tree["num_attention_heads"],
        kv_heads=tree.get("num_key_value_heads") or tree["num_attention_heads"],
        head_dim=latent.plain_dim + latent.rotary_dim if latent else head_dim,
        context_length=tree.get("max_position_embeddings", 2048),
        norm_eps=tree.get("rms_norm_eps", 1e-6),
        rope_theta=float(_rope(tree).get("rope_theta", 10_000.0)),
        rope_scaling=_read_scaling(tree),
        tied=tree.get("tie_word_embeddings", False),
        qkv_bias=family == "qwen2" or bias,
        output_bias=family != "qwen2" and bias,
        mlp_bias=family == "llama" and tree.get("mlp_bias", False),
        qk_norm=family in ("qwen3", "qwen3_moe"),
        layer_windows=_read_windows(family, tree),
        moe=_read_moe(family, tree),
        latent=latent,
        initializer_range=tree.get("initializer_range", 0.02),
        bos_token_id=tree.get("bos_token_id"),
        eos_token_id=tree.get("eos_token_id"),
        pad_token_id=tree.get("pad_token_id"),
    )


def _default_head_dim(family: str, tree: Tree) -> int:
    # Qwen3's own default does not follow from the hidden size.
    return 128 if family == "qwen3" else int(tree["hidden_size"] // tree["num_attention_heads"])


def _write_llama(config: ModelConfig) -> Tree:
    tree: Tree = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.rotary_dim,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": _write_scaling(config.rope_scaling),
        "hidden_act": "silu",
        "attention_bias": config.output_bias,
    }
    if config.family == "llama":
        tree["mlp_bias"] = config.mlp_bias
    return tree | _write_windows(config) | _write_moe(config) | _write_latent(config)


def _read_windows(family: str, tree: Tree) -> tuple[int | None, ...] | None:
    width, layers = tree.get("sliding_window"), int(tree["num_hidden_layers"])
    if family in ("llama", "deepseek_v3") or width is None:
        return None
    if family.startswith("qwen") and not tree.get("use_sliding_window"):
        return None
    if family in ("mistral", "mixtral", "qwen3_moe"):  # all layers, whatever max_window_layers says
        return (int(width),) * layers
    kinds = tree.get("layer_types") or [
        "full_attention" if i < tree.get("max_window_layers", 28) else "sliding_attention"
        for i in range(layers)
    ]
    return tuple(int(width) if kind == "sliding_attention" else None for kind in kinds)


def _write_windows(config: ModelConfig) -> Tree:
    if config.family not in ("mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe"):
        return {}
    windows = config.layer_windows or ()
    width = next((width for width in windows if width is not None), None)
    tree: Tree = {"sliding_window": width}
    if config.family.startswith("qwen"):
        tree["use_sliding_window"] = width is not None
    if config.family in ("qwen2", "qwen3") and width is not None:
        kinds = ["full_attention" if w is None else "sliding_attention" for w in windows]
        tree |= {"layer_types": kinds, "max_window_layers": kinds.index("sliding_attention")}
    return tree


def _read_moe(family: str, tree: Tree) -> MoeConfig | None:
    rate = tree.get("router_aux_loss_coef", 0.001)
    if family == "mixtral":
        return MoeConfig(
            experts=tree["num_local_experts"], top_k=tree["num_experts_per_tok"],
            size=tree["intermediate_size"], loss_rate=rate,
        )  # fmt: skip
    if family == "qwen3_moe":
        step, plain = tree.get("decoder_sparse_step", 1), set(tree.get("mlp_only_layers") or ())
        layers = range(tree["num_hidden_layers"])
        return MoeConfig(
            experts=tree.get("num_local_experts") or tree["num_experts"],
            top_k=tree["num_experts_per_tok"],
            size=tree["moe_intermediate_size"],
            normalize=tree.get("norm_topk_prob", False),
            dense_layers=frozenset(i for i in layers if i in plain or (i + 1) % step),
            loss_rate=rate,
        )
    if family == "deepseek_v3":
        return MoeConfig(
            experts=tree.get("n_routed_experts") or tree["num_local_experts"],
            top_k=tree["num_experts_per_tok"],
            size=tree["moe_intermediate_size"],
            shared_size=tree["moe_intermediate_size"] * (tree.get("n_shared_experts") or 0),
            gate="sigmoid",
            normalize=tree.get("norm_topk_prob", True),
            groups=tree.get("n_group") or 1,
            top_groups=tree.get("topk_group") or 1,
            scale=float(tree.get("routed_scaling_factor", 1.0)),
            dense_layers=frozenset(range(tree.get("first_k_dense_replace", 0))),
        )
    return None


def _write_moe(config: ModelConfig) -> Tree:
    moe = config.moe
    if moe is None:
        return {}
    tree: Tree = {"num_experts_per_tok": moe.top_k}
    if config.family == "mixtral":
        return tree | {"num_local_experts": moe.experts, "router_aux_loss_coef": moe.loss_rate}
    tree |= {"moe_intermediate_size": moe.size, "norm_topk_prob": moe.normalize}
    if config.family == "qwen3_moe":
        return tree | {
            "num_experts": moe.experts,
            "decoder_sparse_step": 1,
            "mlp_only_layers": sorted(moe.dense_layers),
            "router_aux_loss_coef": moe.loss_rate,
        }
    assert moe.dense_layers == frozenset(range(len(moe.dense_layers))), moe.dense_layers
    return tree | {
        "n_routed_experts": moe.experts,
        "n_shared_experts": moe.shared_size // moe.size,
        "n_group": moe.groups,
        "topk_group": moe.top_groups,
        "routed_scaling_factor": moe.scale,
        "first_k_dense_replace": len(moe.dense_layers),
    }


def _read_latent(tree: Tree) -> LatentConfig:
    return LatentConfig(
        query_rank=tree.get("q_lora_rank"),
        kv_rank=tree["kv_lora_rank"],
        plain_dim=tree["qk_nope_head_dim"],
        rotary_dim=tree["qk_rope_head_dim"],
        value_dim=tree["v_head_dim"],
        interleaved=tree.get("rope_interleave", True),
    )


def _write_latent(config: ModelConfig) -> Tree:
    latent = config.latent
    if latent is None:
        return {}
    return {
        "q_lora_rank": latent.query_rank,
        "kv_lora_rank": latent.kv_rank,
        "qk_nope_head_dim": latent.plain_dim,
        "qk_rope_head_dim": latent.rotary_dim,
        "v_head_dim": latent.value_dim,
        "rope_interleave": latent.interleaved,
    }


def _read_gpt2(tree: Tree) -> ModelConfig:
    hidden, heads = tree["n_embd"], tree["n_head"]
    return ModelConfig(
        family="gpt2",
        vocab_size=tree["vocab_size"],
        hidden_size=hidden,
        intermediate_size=tree.get("n_inner") or 4 * hidden,
        layers=tree["n_layer"],
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        context_length=tree["n_positions"],
        norm_eps=tree.get("layer_norm_epsilon", 1e-5),
        tied=tree.get("tie_word_embeddings", True),
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        attention_scales=(
            bool(tree.get("scale_attn_weights", True)),
            bool(tree.get("scale_attn_by_inverse_layer_idx", False)),
        ),
        initializer_range=tree.get("initializer_range", 0.02),
        bos_token_id=tree.get("bos_token_id"),
        eos_token_id=tree.get("eos_token_id"),
        pad_token_id=tree.get("pad_token_id"),
    )


def _write_gpt2(config: ModelConfig) -> Tree:
    by_size, by_layer = config.attention_scales
    return {
        "n_embd": config.hidden_size,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_positions": config.context_length,
        "n_inner": config.intermediate_size,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": "gelu_new",
        "scale_attn_weights": by_size,
        "scale_attn_by_inverse_layer_idx": by_layer,
    }


def _refuse_what_is_not_here(family: str, tree: Tree) -> None:
    if gguf := gguf_kind_of(tree):
        raise InvalidInput(
            f"this model is a GGUF file ({gguf}), which OpenVINO answers with and nothing else here"
            " reads",
            next_step="use the model that it was made from; bessemer models names it",
        )
    problems = []
    activation = tree.get("activation_function" if family == "gpt2" else "hidden_act")
    known = ("gelu_new", "gelu_pytorch_tanh") if family == "gpt2" else ("silu",)
    if activation is not None and activation not in known:
        problems.append(f"activation {activation!r} (only {known[0]})")
    if strange := set(tree.get("layer_types") or ()) - {"full_attention", "sliding_attention"}:
        problems.append(f"layer_types {sorted(strange)}")
    if family == "llama" and "sliding_attention" in (tree.get("layer_types") or ()):
        problems.append("sliding windows in a Llama")
    if tree.get("quantization_config") and kind_of(tree) is None:
        problems.append("weights quantized inside the folder")
    if tree.get("add_cross_attention"):
        problems.append("cross-attention")
    if family == "deepseek_v3" and tree.get("moe_layer_freq", 1) != 1:
        problems.append(f"moe_layer_freq {tree['moe_layer_freq']}")
    if float(_rope(tree).get("partial_rotary_factor", 1.0)) != 1.0:
        problems.append("partial rotary embeddings")
    kind = _rope_type(_rope(tree))
    kinds = ("default", "llama3", "yarn") if family == "deepseek_v3" else ("default", "llama3")
    if kind not in kinds:
        problems.append(f"rope_type {kind!r} (only {' and '.join(kinds)})")
    if problems:
        raise InvalidInput(
            "this model needs what the decoder does not have: " + "; ".join(problems)
        )


def _rope(tree: Tree) -> Tree:
    """Rotary settings: the newer `rope_parameters`, or `rope_theta` with `rope_scaling`."""
    top = {key: tree[key] for key in ("rope_theta", "partial_rotary_factor") if tree.get(key)}
    return top | (tree.get("rope_scaling") or {}) | (tree.get("rope_parameters") or {})


def _rope_type(rope: Tree) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _read_scaling(tree: Tree) -> Llama3Scaling | YarnScaling | None:
    rope = _rope(tree)
    kind = _rope_type(rope)
    if kind == "llama3":
        return Llama3Scaling(
            factor=float(rope["factor"]),
            low_freq_factor=float(rope["low_freq_factor"]),
            high_freq_factor=float(rope["high_freq_factor"]),
            original_context_length=int(rope["original_max_position_embeddings"]),
        )
    return _read_yarn(rope) if kind == "yarn" else None


def _read_yarn(rope: Tree) -> YarnScaling:
    factor = float(rope["factor"])
    one, all_dims = rope.get("mscale"), rope.get("mscale_all_dim")
    attention = rope.get("attention_factor")
    if attention is None:
        both = one and all_dims
        attention = _mscale(factor, one) / _mscale(factor, all_dims) if both else _mscale(factor, 1)
    return YarnScaling(
        factor=factor,
        original_context_length=int(rope["original_max_position_embeddings"]),
        beta_fast=float(rope.get("beta_fast") or 32),
        beta_slow=float(rope.get("beta_slow") or 1),
        attention=float(attention),
        softmax=_mscale(factor, all_dims) ** 2 if all_dims else 1.0,
        truncate=bool(rope.get("truncate", True)),
        written=tuple((key, value) for key, value in rope.items() if key != "rope_theta"),
    )


def _mscale(factor: float, by: Any) -> float:
    return 1.0 if factor <= 1 else 0.1 * float(by) * math.log(factor) + 1.0


def _write_scaling(scaling: Llama3Scaling | YarnScaling | None) -> Tree | None:
    if scaling is None:
        return None
    if isinstance(scaling, YarnScaling):
        return dict(scaling.written)
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_context_length,
    }
