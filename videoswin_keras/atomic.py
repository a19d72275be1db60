"""Files that are there whole, or not at all."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

PREFIX = ".part-"  # of temporary names; a process that is killed leaves them behind


_NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows has no quotas


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`, with its ending; what is written there replaces `path` at the end.

    After an error nothing is left of it, and `path` is as it was.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "greeting.txt"
    >>> with replacing(path) as temporary:
    ...     _ = temporary.write_text("hello")
    >>> path.read_text()
    'hello'
    """
    path = Path(path)
    temporary = path.with_name(f"{PREFIX}{os.getpid()}-{path.name}")
    try:
        with full_disk_explained(path):
            yield temporary
            with temporary.open("rb+") as file:  # on the disk before it takes the place of what is there
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def full_disk_explained(path: str | Path) -> Iterator[None]:
    """Says which file could not be written, and what to do, where there is no room left for it.

    Raises:
        OSError: in the place of one that says only that there is no room.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.errno not in _NO_ROOM:
            raise
        raise OSError(
            f"There is no room left to write {path} ({os.strerror(error.errno)}). Make room there, or choose another "
            f"folder; what was saved before is whole."
        ) from error
