"""Files that are there whole, or not at all, and that nobody else has put there."""

import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

PREFIX = ".part-"  # of temporary folders; a process that is killed leaves them behind


_NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows has no quotas


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary file of the same name in a folder beside `path`; what is written there replaces `path`.

    The folder's name cannot be guessed, and nobody else can write to it. After an error nothing is left of it, and
    `path` is as it was. A link at `path` is replaced, not followed.

    Example:

    >>> path = Path(tempfile.mkdtemp()) / "greeting.txt"
    >>> with replacing(path) as temporary:
    ...     _ = temporary.write_text("hello")
    >>> path.read_text()
    'hello'
    """
    path = Path(path)
    with full_disk_explained(path), folder_beside(path) as folder:
        temporary = folder / path.name
        yield temporary
        with temporary.open("rb+") as file:  # on the disk before it takes the place of what is there
            os.fsync(file.fileno())
        os.replace(temporary, path)


@contextlib.contextmanager
def folder_beside(path: str | Path) -> Iterator[Path]:
    """Makes a folder beside `path`, whose name cannot be guessed and to which nobody else can write; removes it."""
    folder = Path(path).absolute().parent / f"{PREFIX}{secrets.token_hex(8)}"
    # Windows gives what is made without a mode the permissions of the folder that it is in; a mode would stay.
    folder.mkdir(0o777 if os.name == "nt" else 0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def open_own(path: str | Path, mode: str, is_shared: bool = False, **settings: Any) -> IO[Any]:
    """Opens a file as `open` does, if it is a regular file of this user and not a link to one.

    Where others can write to a folder, they can put a link there, under a name that is to be written to, to a file that
    they cannot write to but this user can.

    Args:
        path: The file.
        mode: As `open` takes it.
        is_shared: Whether it may be another user's.
        settings: As `open` takes them.

    Raises:
        PermissionError: if it is a link, no regular file, of another user, or has a second name to write to.
        OSError: as `open`.

    Example:

    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "link").symlink_to(folder / "somewhere else")
    >>> open_own(folder / "link", "ab")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    PermissionError: .../link is a link. Nothing is read from it or written to it. Take another folder; to go ...
    """

    def opener(name: str, flags: int) -> int:
        # Without waiting for whoever is at the other end of a pipe, and emptied only when it is known whose it is.
        extra = sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK"))
        descriptor = os.open(name, (flags & ~os.O_TRUNC) | extra, 0o666)
        try:
            is_written = bool(flags & (os.O_WRONLY | os.O_RDWR))
            if reason := _not_own(os.fstat(descriptor), Path(path), is_written, is_shared):
                raise _refused(path, reason)
            if flags & os.O_TRUNC:
                os.ftruncate(descriptor, 0)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    if os.path.islink(path):
        raise _refused(path, "is a link")
    try:
        return open(path, mode, opener=opener, **settings)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # it became a link meanwhile; a pipe that nobody reads
            raise _refused(path, "is no regular file") from error
        raise


def make_own_folder(path: str | Path) -> None:
    """Makes a folder where there is none.

    Raises:
        PermissionError: if there is a link, or a folder of another user.
        OSError: if it cannot be made.
    """
    if os.path.islink(path):
        raise _refused(path, "is a link")
    Path(path).mkdir(parents=True, exist_ok=True)
    if reason := _not_own(os.lstat(path), Path(path)):
        raise _refused(path, reason)


def _not_own(status: os.stat_result, path: Path, is_written: bool = False, is_shared: bool = False) -> str:
    """Returns what speaks against a file or a folder being this user's own; nothing if it is."""
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        return "is no regular file"
    if is_written and stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        return "has a second name (a hard link)"
    if is_shared or not hasattr(os, "geteuid") or status.st_uid == os.geteuid():
        return ""
    # On some network drives all that a user makes is another's by name.
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=path if path.is_dir() else path.parent) as probe:
        if os.fstat(probe.fileno()).st_uid == status.st_uid:
            return ""
    return "belongs to another user"


def _refused(path: str | Path, reason: str) -> PermissionError:
    return PermissionError(
        f"{path} {reason}. Nothing is read from it or written to it. Take another folder; to go on with results of "
        "your own that are there, copy them to a folder of yours."
    )


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
