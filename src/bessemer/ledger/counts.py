"""What a request used, or may use at most: tokens of each class, and time of a device."""

from __future__ import annotations

from typing import NamedTuple

from bessemer.core.errors import InvalidInput

MOST = 10**12  # of any one count, so that sums of millions fit 64 bits


class Counts(NamedTuple):
    """Classes that do not overlap: a token is counted, and paid for, in exactly one of them.

    (OpenAI's `usage` counts cached tokens among the prompt's and reasoning among the completion's;
    whoever fills these in subtracts.)
    """

    prompt: int = 0  # tokens read and computed
    cached: int = 0  # tokens read and found in the KV cache
    completion: int = 0  # tokens written that the caller sees
    reasoning: int = 0  # tokens written that the caller does not see
    device_ms: int = 0  # milliseconds of a device, for training
    training: int = 0  # tokens trained on, each as often as it was

    @property
    def tokens(self) -> int:
        """Read and written, which rate limits speak of."""
        return self.prompt + self.cached + self.completion + self.reasoning

    def check(self) -> Counts:
        """Itself.

        Raises:
            InvalidInput: a count that is not a whole number from 0 to `MOST`.
        """
        for name, count in self._asdict().items():
            # `True` is an int to Python and a mistake to us.
            if type(count) is not int or not 0 <= count <= MOST:
                raise InvalidInput(
                    f"{name} is {count!r}; a count is a whole number from 0 to {MOST:,}", param=name
                )
        return self
