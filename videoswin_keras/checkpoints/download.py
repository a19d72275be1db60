"""Downloads a checkpoint: resumes what was cut off, checks what arrived, and leaves no half file under its name."""

import contextlib
import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from videoswin_keras.progress import Bar

CHUNK = 2**20  # bytes read at a time
TIMEOUT = 60.0  # seconds without a byte before a connection counts as broken
ATTEMPTS = 5  # requests in a row that bring nothing new before giving up

_BROKEN = (HTTPException, ConnectionError, TimeoutError)  # worth another attempt
_BUSY = (408, 429, 500, 502, 503, 504)  # HTTP answers worth another attempt


class DownloadError(OSError):
    """A file that could not be downloaded; says from where, why, and what to do."""


def _failure(url: str, reason: str) -> DownloadError:
    return DownloadError(
        f"Downloading {url} failed: {reason}\n"
        "Download the file by hand, with a browser for example, and pass its path instead."
    )


class _Interrupted(Exception):
    """A request that another one may well continue."""


def cache_directory() -> Path:
    """Returns the folder of downloaded weights, and makes it where it does not exist.

    It is `videoswin_keras` in Keras's own folder: `KERAS_HOME` where that is set, else `~/.keras`.

    Raises:
        OSError: if the folder cannot be made.

    Example:

    >>> cache_directory().name
    'videoswin_keras'
    """
    # Keras has the same in `keras_home`, which is not public.
    path = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "videoswin_keras"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"The folder {path} for downloaded weights cannot be made: {error}. Set KERAS_HOME to a folder that you "
            "may write to."
        ) from error
    return path


def download(
    url: str,
    directory: str | Path,
    sha256_prefix: str | None = None,
    progress: bool = True,
    open_url: Callable[..., Any] = urlopen,
    wait: Callable[[float], object] = time.sleep,
) -> Path:
    """Downloads a file, unless it is there already.

    The file is named after the address: eight digits that tell addresses apart, then the last part of its path.
    While it is incomplete its name ends in `.part`; a later call, after an interruption of any kind, continues it.
    A broken connection is taken up again, up to five times in a row without anything new. Where the server cannot
    continue, the download starts over.
    The file is renamed only when its length is what the server announced and its hash what `sha256_prefix` says.
    Of several processes that ask for one file, one downloads; the others wait for it (a `.lock` file).

    Args:
        url: http or https address.
        directory: Folder of the file; made where it does not exist.
        sha256_prefix: What the file's SHA-256 in hexadecimal must begin with. A file that is there already is
            checked too, and downloaded again where it does not fit.
        progress: Whether to show a progress bar.
        open_url: What to open a `urllib.request.Request` with; takes it and `timeout` in seconds.
        wait: Called with the seconds to let pass before another attempt: 1, 2, 4, ….

    Returns:
        Path of the file.

    Raises:
        DownloadError: if the address is no http(s) address of a file, the server refuses it, the connection breaks
            and stays broken, the file is not the expected one, or it cannot be written.

    Example:

    >>> download("ftp://example.org/model.pth", "weights")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    DownloadError: Downloading ftp://example.org/model.pth failed: only http and https addresses can be downloaded.
    """
    target = Path(directory) / file_name(url)
    if _is_whole(target, sha256_prefix):
        return target
    part, lock = (target.with_name(target.name + ending) for ending in (".part", ".lock"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock):
            if not _is_whole(target, sha256_prefix):  # another process may have fetched it meanwhile
                digest = _fetch(url, part, progress, open_url, wait)
                if not digest.startswith((sha256_prefix or "").lower()):
                    part.unlink()
                    raise _failure(
                        url,
                        f"the file's SHA-256 is {digest}, expected to begin with {sha256_prefix}. It was damaged on "
                        "the way, or its publisher has replaced it; what had arrived was removed.",
                    )
                os.replace(part, target)
    except DownloadError:
        raise
    except OSError as error:
        raise _failure(url, f"it cannot be written: {error}.") from error
    return target


def file_name(url: str) -> str:
    """Returns the name of the downloaded file: eight digits that tell addresses apart, and the last part of the path.

    Raises:
        DownloadError: if `url` is no http or https address of a file.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _failure(url, "only http and https addresses can be downloaded.")
    name = re.sub(r"[^\w.+-]", "_", PurePosixPath(unquote(parts.path)).name)
    if not name.strip("."):
        raise _failure(url, "the address names no file.")
    # Different publishers may call different files the same, "model.pth" for example.
    return f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"


def _is_whole(path: Path, sha256_prefix: str | None) -> bool:
    """Whether the file is there; a file without `.part` is complete, so there is nothing but its hash to check."""
    return path.is_file() and (
        sha256_prefix is None or _sha256(path).hexdigest().startswith(sha256_prefix.lower())  # damaged since?
    )


def _sha256(path: Path) -> Any:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits for the lock file `path` and holds it; the system releases it even if the process is killed."""
    while True:
        with path.open("ab") as file:
            _lock(file)
            # Whoever held it before has removed it; the next may be waiting for a new one of that name.
            if _is_at(path, file):
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):  # Windows keeps an open file; the empty file may stay
                        path.unlink()
                return


def _is_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: BinaryIO) -> None:
    if sys.platform == "win32":
        import msvcrt

        while True:
            with contextlib.suppress(OSError):  # gives up every ten seconds
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                return
    else:
        import fcntl

        # Some network file systems know no locks. There, two downloads at once end in a wrong length or hash.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)


def _fetch(url: str, part: Path, progress: bool, open_url: Callable[..., Any], wait: Callable[[float], object]) -> str:
    """Completes `part`, in as many requests as it takes, and returns its SHA-256."""
    failures, furthest = 0, _size(part)
    name = part.name.removesuffix(".part")
    settings: Any = {"desc": name, "unit": "B", "unit_scale": True, "unit_divisor": 1024, "disable": not progress}
    with Bar(**settings, leave=False) as bar:  # only what has arrived leaves its bar
        while True:
            try:
                digest = _receive(url, part, open_url, bar)
                bar.leave = True
                return digest
            except _Interrupted as error:
                if _size(part) > furthest:
                    failures, furthest = 0, _size(part)
                failures += 1
                if failures == ATTEMPTS:
                    raise _failure(
                        url,
                        f"{error}; {ATTEMPTS} attempts in a row have brought nothing new. What has arrived is kept, "
                        "and trying again later continues it.",
                    ) from error
                wait(2.0 ** (failures - 1))


def _receive(url: str, part: Path, open_url: Callable[..., Any], bar: Bar) -> str:
    """Sends one request for what `part` lacks, appends the answer, and returns the SHA-256 of the whole.

    Raises:
        _Interrupted: if `part` is still incomplete, or was found to be of no use and removed.
        DownloadError: if another request would not help.
    """
    offset = _size(part)
    headers = {"User-Agent": "videoswin-keras"} | ({"Range": f"bytes={offset}-"} if offset else {})
    try:
        response = open_url(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416 and offset:  # there is nothing after `offset`: all is there, or more than all
            if error.headers.get("Content-Range") == f"bytes */{offset}":
                return _sha256(part).hexdigest()
            part.unlink()
            raise _Interrupted("the part received earlier does not belong to this file") from error
        reason = f"the server answers {error.code} {error.reason}"
        if error.code in _BUSY:
            raise _Interrupted(reason) from error
        raise _failure(url, f"{reason}.") from error
    except (*_BROKEN, URLError) as error:
        cause = error.reason if isinstance(error, URLError) else error
        reason = f"the server cannot be reached ({cause or type(cause).__name__})"
        if isinstance(cause, _BROKEN):
            raise _Interrupted(reason) from error
        raise _failure(url, f"{reason}.") from error

    with response:
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
        if response.status == 206:
            sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if sent is None or int(sent[1]) != offset:
                part.unlink(missing_ok=True)
                raise _Interrupted("the server sent another range of the file than it was asked for")
            total = int(sent[2])
        elif response.status == 200:
            offset = 0  # the server sends the whole file, asked for the rest or not
        else:
            raise _failure(url, f"the server answers {response.status} {response.reason}, not with a file.")
        digest = _sha256(part) if offset else hashlib.sha256()
        bar.reset(total)
        bar.n = bar.initial = offset
        with part.open("ab" if offset else "wb") as file:
            while chunk := _read(response):
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
    if total is not None and _size(part) != total:
        raise _Interrupted(f"the connection broke after {_size(part)} of {total} bytes")
    return digest.hexdigest()


def _read(response: Any) -> bytes:
    try:
        return response.read(CHUNK)
    except (HTTPException, OSError) as error:
        raise _Interrupted(f"the connection broke ({error or type(error).__name__})") from error
