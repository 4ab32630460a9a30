"""How a job trains, in the words of OpenAI's API: `supervised`, `dpo` or `reinforcement`.

    {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1, "n_epochs": "auto"}}}

"auto" is replaced by a number once the files were read (`fine_tuning_recipe`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bessemer.core.errors import InvalidInput
from bessemer.text.grader_objects import read_grader

Auto = Literal["auto"]
Kind = Literal["supervised", "dpo", "reinforcement"]
Whole = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class Hyperparameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of every method. The multiplier is of the method's own learning rate."""

    n_epochs: Auto | Annotated[int, Meta(ge=1, le=50)] = "auto"
    batch_size: Auto | Annotated[int, Meta(ge=1, le=256)] = "auto"
    learning_rate_multiplier: Auto | Annotated[float, Meta(gt=0)] = "auto"


class DpoHyperparameters(Hyperparameters, frozen=True, forbid_unknown_fields=True, kw_only=True):
    beta: Auto | Annotated[float, Meta(gt=0, le=2)] = "auto"


class ReinforcementHyperparameters(
    Hyperparameters, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """`compute_multiplier` scales the answers to each prompt, `eval_samples` counts prompts."""

    reasoning_effort: Literal["default", "low", "medium", "high"] = "default"
    compute_multiplier: Auto | Annotated[float, Meta(gt=0.00001, le=10)] = "auto"
    eval_interval: Auto | Whole = "auto"
    eval_samples: Auto | Whole = "auto"


class Supervised(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hyperparameters: Hyperparameters = Hyperparameters()


class Dpo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hyperparameters: DpoHyperparameters = DpoHyperparameters()


class Reinforcement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`grader` is JSON that `text.grader_objects` reads."""

    grader: dict[str, Any]
    hyperparameters: ReinforcementHyperparameters = ReinforcementHyperparameters()


class Method(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """The method, and its section under its own name."""

    type: Kind
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: Reinforcement | None = None

    @property
    def section(self) -> Supervised | Dpo | Reinforcement:
        found = {
            "supervised": self.supervised, "dpo": self.dpo, "reinforcement": self.reinforcement
        }[self.type]  # fmt: skip
        assert found is not None, "checked() comes first"
        return found

    def checked(self) -> Method:
        """With a section, and no other's, and a grader that can be read.

        Raises:
            InvalidInput: there is another's, or one is needed, or the grader is none for a run.
        """
        for other in ("supervised", "dpo", "reinforcement"):
            if other != self.type and getattr(self, other) is not None:
                raise InvalidInput(
                    f"'method.{other}' has no meaning with the type '{self.type}'.",
                    param=f"method.{other}",
                )
        if self.type == "supervised":
            return _with(self, supervised=self.supervised or Supervised())
        if self.type == "dpo":
            return _with(self, dpo=self.dpo or Dpo())
        if self.reinforcement is None:
            raise InvalidInput(
                "Missing required parameter: 'method.reinforcement'.", param="method.reinforcement"
            )
        effort = self.reinforcement.hyperparameters.reasoning_effort
        if effort != "default":
            raise InvalidInput(
                "models here have no dial for their reasoning; leave reasoning_effort out",
                param="method.reinforcement.hyperparameters.reasoning_effort",
            )
        place = "method.reinforcement.grader"
        read_grader(self.reinforcement.grader, place).require_alone("in a run")
        return self

    def settled(self, **numbers: float) -> Method:
        """With these numbers in place of "auto"."""
        section = self.section
        numbers = {key: value for key, value in numbers.items() if _has(section, key)}
        chosen = msgspec.structs.replace(section.hyperparameters, **numbers)
        return _with(self, **{self.type: msgspec.structs.replace(section, hyperparameters=chosen)})


def _has(section: Supervised | Dpo | Reinforcement, key: str) -> bool:
    return key in section.hyperparameters.__struct_fields__


def _with(method: Method, **parts: object) -> Method:
    return msgspec.structs.replace(method, **parts)
