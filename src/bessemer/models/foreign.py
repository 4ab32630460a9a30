"""Any other causal language model of `transformers`, with the face of the native `Decoder`.

Its parameters keep the names that its own folder has, so LoRA, checkpoints and adapters work as
ever. Two things are measured when it is opened, on tensors put in the way of one forward pass, and
not taken from settings: that what goes into the head is the last hidden state times a constant,
and that the logits are what comes out of it times a constant (Cohere's and Granite's scales). Both
constants and the head's bias become part of `forward` and `head_weight`, so that losses which
never hold all logits stay exact. A model whose logits are anything else (Gemma 2's soft-capping)
is refused.

Documents side by side are unpacked: each is a row of a padded batch, padding stands at its end and
no causal layer, attention or recurrence, lets a real token see it. The native engine serves none
of these models. Nothing is fetched, no code of a folder is run, and weights are safetensors only.

    T tokens   N documents   L longest of a group   D hidden size (one more with a biased head)
    V vocabulary
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bessemer.core.errors import IntegrityError, InvalidInput, Missing
from bessemer.models.attention import Attend, padded_groups
from bessemer.models.config import ARCHITECTURES, read_tree
from bessemer.models.decoder import Decoder
from bessemer.models.folder import (
    MAX_SHARD_BYTES,
    copy_companions,
    count_names,
    load_decoder,
    save_decoder,
    weight_files,
)

PROBE_TOKENS = 8


class ForeignDecoder(nn.Module):
    """A causal language model of `transformers`; see `Decoder`, whose face it has.

    Args:
        model: a `PreTrainedModel` with a linear head.

    Raises:
        InvalidInput: its logits are no product of its last hidden state and its head.
    """

    layer_windows = None  # its own affair

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._whole = (model,)  # in a tuple: its parts are this module's, by their own names
        for name, part in model.named_children():
            self.add_module(name, part)
        head = model.get_output_embeddings()
        if model.base_model is model or not isinstance(head, nn.Linear):
            raise self._refusal("it has no linear head on a body of its own")
        self.before_head, self.after_head = self._measured(head)
        self.train()  # as any new module; `transformers` opens its models for use

    @property
    def model_type(self) -> str:
        return str(self.settings.model_type)

    @property
    def settings(self) -> Any:
        """Its `transformers` configuration, of the part that reads text."""
        return self._whole[0].config.get_text_config()

    @property
    def trunk(self) -> nn.Module:
        """Everything but the head."""
        body: nn.Module = self._whole[0].base_model
        return body

    @property
    def head_weight(self) -> Tensor:
        """(V, D): the head's matrix, with its bias as one more column if it has one."""
        head = self._whole[0].get_output_embeddings()
        weight: Tensor = head.weight
        return weight if head.bias is None else torch.cat((weight, head.bias[:, None]), dim=1)

    def forward(self, ids_T: Tensor, positions_T: Tensor, attend: Attend | None = None) -> Tensor:
        """What `head_weight` turns into logits, (T, D).

        Args:
            positions_T: of each token within its document, so 0 where one begins.
            attend: not asked; the model has attention of its own.
        """
        starts = (positions_T == 0).nonzero()[:, 0].tolist()
        ends = [*starts[1:], len(ids_T)]
        lengths = [end - start for start, end in zip(starts, ends, strict=True)]
        parts, places = [], []
        for group in padded_groups(lengths, ids_T.device):
            said = self.trunk(input_ids=ids_T[group.gather_NL], use_cache=False)
            parts.append(said.last_hidden_state.flatten(0, 1).index_select(0, group.keep_I))
            places.append(group.scatter_I)
        back_T = torch.cat(places).argsort()
        hidden_TD = torch.cat(parts).index_select(0, back_T) * (self.before_head * self.after_head)
        if self._whole[0].get_output_embeddings().bias is None:
            return hidden_TD
        return torch.cat((hidden_TD, hidden_TD.new_full((len(ids_T), 1), self.after_head)), dim=1)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        return nn.functional.linear(hidden_ND, self.head_weight)

    def recompute_layers(self, on: bool) -> None:
        """Keep each layer's input only, and compute it again going backward."""
        if not on:
            return
        if not self._whole[0].supports_gradient_checkpointing:
            raise InvalidInput(f"a {self.model_type} cannot recompute its layers")
        self._whole[0].gradient_checkpointing_enable({"use_reentrant": False})

    @property
    def attention_width(self) -> int:
        """Sizes of a query and a value head, summed over the layers that have attention."""
        settings = self.settings
        layers, heads = settings.num_hidden_layers, settings.num_attention_heads
        kinds = getattr(settings, "layer_types", None) or ["attention"] * layers
        each = getattr(settings, "head_dim", None) or settings.hidden_size // heads
        return 2 * int(heads * each) * sum("attention" in k and "linear" not in k for k in kinds)

    @property
    def experts_of_a_token(self) -> int:
        return int(getattr(self.settings, "num_experts_per_tok", None) or 1)

    @property
    def drops_out(self) -> bool:
        """Whether its own configuration leaves inputs out while it trains."""
        rates = self.settings.to_dict().items()
        return any(
            k.endswith(("dropout", "pdrop")) and isinstance(v, float) and v for k, v in rates
        )

    def save(self, folder: Path, *, like: Path | None = None) -> None:
        """Write a folder as `transformers` does, with tokenizer and template files of `like`."""
        self._whole[0].save_pretrained(folder, max_shard_size=MAX_SHARD_BYTES)
        if like is not None:
            copy_companions(like, folder)

    def _measured(self, head: nn.Linear) -> tuple[float, float]:
        """The constants before and after the head."""
        generator = torch.Generator().manual_seed(0)
        # Large and in float64: a soft-cap shows, and a constant is not rounded.
        hidden_1TD, out_1TV = (
            100 * torch.randn(1, PROBE_TOKENS, size, generator=generator, dtype=torch.float64)
            for size in (head.in_features, head.out_features)
        )
        seen: list[Tensor] = []

        def after_body(_module: nn.Module, _inputs: Any, said: Any) -> Any:
            said.last_hidden_state = hidden_1TD
            return said

        def before_head(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            seen.append(inputs[0])
            return (inputs[0].to(head.weight.dtype),)

        hooks = [
            self.trunk.register_forward_hook(after_body),
            head.register_forward_pre_hook(before_head),
            head.register_forward_hook(lambda *_: out_1TV),
        ]
        try:
            with torch.no_grad():
                said = self._whole[0].eval()(torch.arange(PROBE_TOKENS)[None], use_cache=False)
        except (TypeError, AttributeError, RuntimeError) as fault:
            raise self._refusal(f"it does not take token ids alone: {fault}") from fault
        finally:
            for hook in hooks:
                hook.remove()
        if len(seen) != 1:
            raise self._refusal(f"its head is used {len(seen)} times")
        before = _constant(seen[0], hidden_1TD)
        after = _constant(said.logits, out_1TV)
        if before is None or after is None:
            capping = getattr(self.settings, "final_logit_softcapping", None)
            why = f" (final_logit_softcapping {capping})" if capping else ""
            raise self._refusal(f"its logits are no product with its last hidden state{why}")
        return before, after

    def _refusal(self, why: str) -> InvalidInput:
        return InvalidInput(
            f"a {self.model_type} cannot be trained here: {why}",
            next_step="docs/guides/bring-a-model.md says which models can",
        )


def _constant(found: Tensor, given: Tensor) -> float | None:
    """What `given` was multiplied with to become `found`; None if it was something else."""
    if found.shape != given.shape:
        return None
    factor = float((found.double() * given.double()).sum() / given.double().square().sum())
    near = torch.allclose(found.double(), factor * given.double(), rtol=1e-5, atol=1e-3)
    return factor if near and factor else None


def open_decoder(folder: Path, dtype: torch.dtype = torch.float32) -> Decoder | ForeignDecoder:
    """The native decoder where the folder's family has one, else the model of `transformers`.

    Raises:
        Missing: it is not a native family, and `transformers` is not installed.
        UnsafeWeights, IntegrityError, InvalidInput: as `load_decoder` and `load_foreign`.
    """
    if read_tree(folder).get("model_type") in ARCHITECTURES:
        return load_decoder(folder, dtype)
    return load_foreign(folder, dtype)


def save_network(network: Decoder | ForeignDecoder, folder: Path, *, like: Path | None) -> None:
    """Write the network as a Hugging Face folder of its own kind."""
    if isinstance(network, ForeignDecoder):
        network.save(folder, like=like)
    else:
        save_decoder(network, folder, like=like)


def load_foreign(folder: Path, dtype: torch.dtype = torch.float32) -> ForeignDecoder:
    """A causal language model that `transformers` knows and that is not native.

    Raises:
        Missing: `transformers` is not installed.
        UnsafeWeights: pickled weights.
        IntegrityError: tensors are missing, left over or of another shape.
        InvalidInput: `transformers` does not know it, or the loop cannot train it.
    """
    tree = read_tree(folder)
    kind = tree.get("model_type")
    if importlib.util.find_spec("transformers") is None:
        raise Missing(
            f"training a {kind} needs transformers, which is not installed here",
            next_step='pip install "bessemer[transformers]"; without it: '
            + ", ".join(ARCHITECTURES),
        )
    if tree.get("quantization_config"):
        raise InvalidInput(f"{folder} holds weights that are quantized inside the folder")
    if (folder / "adapter_config.json").exists():
        raise InvalidInput(f"{folder} holds an adapter beside a model; give each its own folder")
    weight_files(folder)  # refuses what is pickled
    model, report = _from_pretrained(folder, dtype, kind)
    missing, surplus, shapes = (
        sorted(str(name) for name in report[part])
        for part in ("missing_keys", "unexpected_keys", "mismatched_keys")
    )
    if missing or surplus or shapes:
        counts = (("missing", missing), ("not in the model", surplus), ("of another shape", shapes))
        raise IntegrityError(
            f"the weights in {folder} do not fit its config.json: "
            + ", ".join(count_names(what, names) for what, names in counts)
        )
    return ForeignDecoder(model)


def _from_pretrained(folder: Path, dtype: torch.dtype, kind: Any) -> tuple[Any, dict[str, Any]]:
    os.environ["HF_HUB_OFFLINE"] = (
        "1"  # read at import: whatever the folder says, nothing is fetched
    )
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        found: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (ValueError, KeyError, OSError, ImportError, RuntimeError, TypeError) as fault:
        said = str(fault).strip().splitlines() or [type(fault).__name__]
        raise InvalidInput(
            f"model_type {kind!r} is neither one of {', '.join(ARCHITECTURES)} nor one that this"
            f" transformers opens from {folder}: {said[0][:300]}"
        ) from fault
    model, report = found
    model.set_experts_implementation("eager")  # in any precision, and in a fixed order
    return model, report
