"""What happens to a sample that cannot be read: an error with its path, or a counted skip."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

logger = logging.getLogger(__name__)


class SampleError(ValueError):
    """A file of a data set is missing, damaged or inconsistent; the message begins with its path."""

    def __init__(self, path: Path | str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = Path(path)
        self.problem = problem


@dataclass
class BadSamples:
    """Applies ``on_bad_sample`` and keeps the skipped samples.

    Attributes:
        policy: ``"error"`` raises at the first bad sample, ``"skip"`` logs a warning, counts it and goes on.
        skipped: the errors of the samples that were skipped.
    """

    policy: Literal["error", "skip"] = "error"
    skipped: list[SampleError] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.policy not in ("error", "skip"):
            raise ValueError(f"on_bad_sample: {self.policy!r}, expected 'error' or 'skip'")

    def __len__(self) -> int:
        return len(self.skipped)

    def handle(self, error: SampleError) -> None:
        """Raise the error, or note it.

        Raises:
            SampleError: under the policy ``"error"``.
        """
        if self.policy == "error":
            raise error
        self.skip(error)

    def skip(self, error: SampleError) -> None:
        """Note a sample that is left out whatever the policy says."""
        self.skipped.append(error)
        logger.warning("skipped %s", error)


@dataclass(frozen=True)
class DataReport:
    """What a data set's ``check_data`` found.

    Attributes:
        lines: what is there, for people.
        problems: one line for each sample that cannot be used, beginning with its path.
    """

    lines: tuple[str, ...]
    problems: tuple[str, ...] = ()
