"""What computes a model: the native engine, or OpenVINO for one that is a GGUF file.

Who asks for a model whose runtime is not installed is told at once, with the command that installs
it, and no worker is started to find out.
"""

from __future__ import annotations

import importlib.util

from bessemer.app.models import NamedModel
from bessemer.core.errors import BessemerError, Missing
from bessemer.models.config import read_tree
from bessemer.models.scheme import GGUF_KINDS, gguf_kind_of


def need_engine(model: NamedModel) -> None:
    """Raise Missing where what computes this model is not installed."""
    try:
        kind = gguf_kind_of(read_tree(model.path))
    except BessemerError:
        return  # loading it will say what is wrong
    if kind is not None:
        need_runtime(kind)


def need_runtime(precision: str) -> None:
    """Raise Missing where what computes models in this precision is not installed."""
    if precision in GGUF_KINDS and importlib.util.find_spec("openvino_genai") is None:
        raise Missing(
            f"{precision} is computed by OpenVINO, which is not installed here",
            next_step='pip install "bessemer[openvino]", or use int8 or int4',
        )
