"""One tree of errors. Each says what happened, with the numbers, and the next command.

BessemerError
  InvalidInput            400  the caller can fix it
    RecipeError                a recipe or its overrides
    DataError                  a line of a data file
    ContextLengthExceeded      prompt and answer do not fit the model
  Unauthenticated         401
  PermissionDenied        403
  NotFound                404
  Conflict                409  the world is not in the state this needs
    HomeLocked                 another server holds this home
    PortInUse
  PayloadTooLarge         413
  IntegrityError          422  bytes are not the bytes that were named
    UnsafeWeights              pickle, or a header that lies
  Busy                    429  full; try again after `retry_after_s`
    RateLimited                more requests or tokens a minute than the key or project may have
  BudgetExceeded          429  what is left of a budget is less than the request may cost
  DeadlineExceeded        504  the request's own time has passed
  Missing                 501  a part of the platform is not installed here
    SandboxUnavailable         generated code cannot be contained here, so it is not run
  DatabaseUnavailable     503  it is away, or another writer keeps it busy
  EngineUnavailable       503
    EngineLoading
    AdapterNotLoaded           another took its place in the engine; asking again loads it
    EngineDied                 it stopped while it worked on this
    ModelTooLarge         507  it needs more memory than all models may have
  RunFailed               500
    OutOfMemory                the machine is too small for the run
    OutOfSpace            507
"""

from __future__ import annotations

from typing import Any


class BessemerError(Exception):
    """The root: everything a person may be shown without a traceback.

    Args:
        message: what happened, with the numbers.
        next_step: the command or change that gets the person on, if there is one.
        param: the name of the field at fault, for API answers.
        **facts: machine-readable details (`prompt_tokens=5000`).
    """

    status = 500
    code = "internal_error"

    def __init__(
        self, message: str, *, next_step: str | None = None, param: str | None = None, **facts: Any
    ) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step
        self.param = param
        self.facts = facts

    def __str__(self) -> str:
        return f"{self.message}\n  next: {self.next_step}" if self.next_step else self.message


class InvalidInput(BessemerError):
    status, code = 400, "invalid_request"


class RecipeError(InvalidInput):
    code = "invalid_recipe"


class DataError(InvalidInput):
    """A line of a data file is not what it should be. `line` counts from 1."""

    code = "invalid_data"

    def __init__(self, message: str, *, line: int | None = None, **more: Any) -> None:
        super().__init__(message if line is None else f"line {line}: {message}", **more)
        self.line = line


class ContextLengthExceeded(InvalidInput):
    code = "context_length_exceeded"


class Unauthenticated(BessemerError):
    status, code = 401, "invalid_api_key"


class PermissionDenied(BessemerError):
    status, code = 403, "permission_denied"


class NotFound(BessemerError):
    status, code = 404, "not_found"


class Conflict(BessemerError):
    status, code = 409, "conflict"


class HomeLocked(Conflict):
    code = "home_locked"


class PortInUse(Conflict):
    code = "port_in_use"


class PayloadTooLarge(BessemerError):
    status, code = 413, "payload_too_large"


class IntegrityError(BessemerError):
    status, code = 422, "integrity_error"


class UnsafeWeights(IntegrityError):
    code = "unsafe_weights"


class Busy(BessemerError):
    status, code = 429, "engine_busy"

    def __init__(self, message: str, *, retry_after_s: float, **more: Any) -> None:
        super().__init__(message, **more)
        self.retry_after_s = retry_after_s


class RateLimited(Busy):
    code = "rate_limit_exceeded"


class BudgetExceeded(BessemerError):
    status, code = 429, "insufficient_quota"


class DeadlineExceeded(BessemerError):
    status, code = 504, "deadline_exceeded"


class Missing(BessemerError):
    status, code = 501, "not_installed"


class SandboxUnavailable(Missing):
    code = "sandbox_unavailable"


class DatabaseUnavailable(BessemerError):
    status, code = 503, "database_unavailable"


class EngineUnavailable(BessemerError):
    status, code = 503, "engine_unavailable"


class EngineLoading(EngineUnavailable):
    code = "engine_loading"


class AdapterNotLoaded(EngineUnavailable):
    code = "adapter_not_loaded"


class EngineDied(EngineUnavailable):
    """The engine stopped while it worked on this, for the `deaths`-th time."""

    code = "engine_died"

    def __init__(self, message: str, *, deaths: int = 1, **more: Any) -> None:
        super().__init__(message, **more)
        self.deaths = deaths


class ModelTooLarge(EngineUnavailable):
    status, code = 507, "model_too_large"


class RunFailed(BessemerError):
    code = "run_failed"


class OutOfMemory(RunFailed):
    code = "out_of_memory"


class OutOfSpace(RunFailed):
    status, code = 507, "out_of_space"


def by_code(code: str) -> type[BessemerError]:
    """The class for a code that crossed a process border; the root if it is unknown."""
    stack: list[type[BessemerError]] = [BessemerError]
    while stack:
        cls = stack.pop()
        if cls.code == code:
            return cls
        stack.extend(cls.__subclasses__())
    return BessemerError
