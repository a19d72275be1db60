"""Files that are there whole, or not at all, and that nobody else has put there."""

import contextlib
import errno
import os
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
    with full_disk_explained(path), tempfile.TemporaryDirectory(prefix=PREFIX, dir=path.parent) as folder:
        temporary = Path(folder).absolute() / path.name
        yield temporary
        with temporary.open("rb+") as file:  # on the disk before it takes the place of what is there
            os.fsync(file.fileno())
        os.replace(temporary, path)


def open_own(path: str | Path, mode: str, permissions: int = 0o666, **settings: Any) -> IO[Any]:
    """Opens a file as `open` does, if it is a regular file of this user and not a link to one.

    Where others can write to a folder, they can put a link there, under a name that is to be written to, to a file that
    they cannot write to but this user can.

    Args:
        path: The file.
        mode: As `open` takes it.
        permissions: Of a new file, less what the umask takes away.
        settings: As `open` takes them.

    Raises:
        PermissionError: if it is a link, no regular file, of another user, or has a second name to write to.
        OSError: as `open`.

    Example:

    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "link").symlink_to(folder / "somewhere else")
    >>> open_own(folder / "link", "ab")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    PermissionError: .../link is a link. Nothing is read from it or written to it: remove it, or take another folder.
    """

    def opener(name: str, flags: int) -> int:
        # Without waiting for whoever is at the other end of a pipe, and emptied only when it is known whose it is.
        extra = sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK"))
        descriptor = os.open(name, (flags & ~os.O_TRUNC) | extra, permissions)
        try:
            if reason := _not_own(os.fstat(descriptor), Path(path), bool(flags & (os.O_WRONLY | os.O_RDWR))):
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


def _not_own(status: os.stat_result, path: Path, is_written: bool = False) -> str:
    """Returns what speaks against a file or a folder being this user's own; nothing if it is."""
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        return "is no regular file"
    if is_written and stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        return "has a second name (a hard link)"
    if not hasattr(os, "geteuid") or status.st_uid == os.geteuid():
        return ""
    # On some network drives all that a user makes is another's by name.
    with tempfile.TemporaryFile(dir=path if path.is_dir() else path.parent) as probe:
        is_as_all = os.fstat(probe.fileno()).st_uid == status.st_uid
    return "" if is_as_all else "belongs to another user"


def _refused(path: str | Path, reason: str) -> PermissionError:
    return PermissionError(
        f"{path} {reason}. Nothing is read from it or written to it: remove it, or take another folder."
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
