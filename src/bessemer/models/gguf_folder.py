"""A model's GGUF export as a folder of its own: what OpenVINO answers with.

The file stands where the weights would; tokenizer and template lie beside it, so text becomes
tokens as for the model that it was made from. `scheme` says how `config.json` tells of it.
"""

from __future__ import annotations

import json
from pathlib import Path

from bessemer.core.errors import InvalidInput
from bessemer.core.runs import write_atomically
from bessemer.models.config import ModelConfig, read_tree
from bessemer.models.folder import copy_companions
from bessemer.models.gguf_export import About, Progress, export_gguf
from bessemer.models.quantizing import check_not_coded
from bessemer.models.scheme import GGUF_FILE, GgufKind, gguf_settings


def write_gguf_folder(
    source: Path,
    target: Path,
    kind: GgufKind,
    about: About,
    progress: Progress = lambda _done, _total: None,
) -> None:
    """Export the decoder in `source` to the folder `target`, tokenizer and template included.

    Raises:
        InvalidInput: it is quantized already, is of a family or setting that GGUF has not, or
            stretches its rotary frequencies, which OpenVINO reads past.
        BessemerError: as `export_gguf`.
    """
    check_not_coded(source)
    if ModelConfig.from_folder(source).rope_scaling is not None:
        raise InvalidInput(
            "this model stretches its rotary frequencies (Llama 3.1 and later), which OpenVINO"
            " reads past",
            next_step="use int8 or int4",
        )
    target.mkdir(parents=True, exist_ok=True)
    export_gguf(source, target / GGUF_FILE, kind, about, progress)
    tree = read_tree(source) | {"quantization_config": gguf_settings(kind)}
    write_atomically(target / "config.json", (json.dumps(tree, indent=2) + "\n").encode())
    copy_companions(source, target)
