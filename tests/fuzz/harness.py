"""One reader on one damaged file: a valid result or a documented error, in bounded time and memory."""

from __future__ import annotations

import hashlib
import logging
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.mutations import damaged
from zoo.data.bad_samples import SampleError

KEPT = Path(__file__).parent / "kept"
SECONDS = 20  # of CPU for one file of a few kB: what takes longer hangs
ADDRESSES = 512 << 20  # bytes that reading such a file may add to the address space


@dataclass(frozen=True)
class Case:
    """One file of a format, and how it is read.

    Attributes:
        name: of the case.
        file: below the folder, the one that is damaged.
        kind: of its content, see `tests.fuzz.mutations`.
        make: writes the folder with valid files.
        read: reads the folder; raises an AssertionError of its own where the result makes no sense.
        errors: what a damaged file may raise, and nothing derived from it.
    """

    name: str
    file: str
    kind: str
    make: Callable[[Path], Any]
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...] = (SampleError,)


@dataclass(frozen=True)
class Reader:
    """A family of formats that is given one share of the time."""

    name: str
    cases: tuple[Case, ...]


class Hang(BaseException):
    """Reading took too long; no reader may catch it."""


class ReaderError(AssertionError):
    """What a reader did that it must not do."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


@contextmanager
def limits() -> Iterator[None]:
    """Bounds of CPU time and address space; a reader beyond them gets a Hang or a MemoryError."""

    def stop(*_: Any) -> None:
        raise Hang

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    former = signal.signal(signal.SIGPROF, stop)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ADDRESSES, hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, former)


def _is_memory(error: BaseException | None) -> bool:
    if error is None:
        return False
    assert error.__cause__ is not error, "an error that is its own cause"
    return isinstance(error, MemoryError) or "allocate" in str(error) or _is_memory(error.__cause__)


def attempt(case: Case, root: Path, content: bytes) -> bool:
    """Read a damaged file; whether it was accepted.

    Raises:
        ReaderError: The reader did what it must not do.
    """
    path = root / case.file
    path.write_bytes(content)
    try:
        with limits(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.read(root)
        return True
    except Hang as error:
        raise ReaderError(f"hang {_where(error)}", f"{case.name}: did not end within {SECONDS} s of CPU") from error
    except case.errors as error:
        documented = type(error) in case.errors
        if documented and not _is_memory(error) and (path.name in str(error) or str(root) in str(error)):
            return False
        what = "runs out of memory" if _is_memory(error) else "raises" if not documented else "does not name the file"
        raise ReaderError(f"{type(error).__name__} {_where(error)}", f"{case.name}: {what}: {error!r}") from error
    except Exception as error:
        raise ReaderError(f"{type(error).__name__} {_where(error)}", f"{case.name}: raises {error!r}") from error


def _where(error: BaseException) -> str:
    """The innermost line of the project, which tells one fault from another."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/tests/" not in frame.filename]
    own = [frame for frame in frames if "/zoo/" in frame.filename] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "the check of its result"


def kept_files(case: Case) -> list[Path]:
    """Inputs that once broke a reader."""
    return sorted((KEPT / case.name).glob("*"))


def keep(case: Case, content: bytes) -> Path:
    """Store an input that broke a reader."""
    folder = KEPT / case.name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(content).hexdigest()[:12]
    path.write_bytes(content)
    return path


@dataclass
class Tally:
    """What a run found.

    Attributes:
        files: damaged files that were read.
        accepted: those that still made sense.
        broken: text of each fault by its key.
    """

    files: int = 0
    accepted: int = 0
    broken: dict[str, str] = field(default_factory=dict)


def search(case: Case, root: Path, tally: Tally, *, examples: int, number: int | None) -> None:
    """Try damaged files; a fault is kept and told once.

    Args:
        case: What is read.
        root: An empty folder.
        tally: Is added to.
        examples: How many files at most.
        number: Of the random sequence; None: the same one always.
    """
    case.make(root)
    valid = (root / case.file).read_bytes()
    assert attempt(case, root, valid), f"{case.name}: the valid file is refused"
    last: dict[str, bytes] = {}

    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=number is None,
        phases=(Phase.generate,),  # files are small as they are; shrinking takes minutes
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(st.data())
    def run(data: st.DataObject) -> None:
        content = data.draw(damaged(valid, case.kind))
        tally.files += 1
        try:
            tally.accepted += attempt(case, root, content)
        except ReaderError as error:
            if error.key in tally.broken:
                return
            last[error.key] = content
            raise

    logging.disable(logging.CRITICAL)
    try:
        (run if number is None else seed(number)(run))()
    except ReaderError as error:
        tally.broken[error.key] = f"{error} ({keep(case, last[error.key])})"
    finally:
        logging.disable(logging.NOTSET)


def search_for(case: Case, folder: Path, tally: Tally, seconds: float) -> None:
    """Try damaged files until the time is up."""
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        number += 1
        root = folder / str(number)
        root.mkdir()
        search(case, root, tally, examples=300, number=number)
