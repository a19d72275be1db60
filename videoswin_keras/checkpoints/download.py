"""Downloads a checkpoint: resumes what was cut off, checks what arrived, and leaves no half file under its name."""

import contextlib
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from http import HTTPStatus
from http.client import HTTPException, InvalidURL
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request

from videoswin_keras import web
from videoswin_keras.addresses import identity, public_address, public_file_name, without_secrets
from videoswin_keras.atomic import open_own
from videoswin_keras.checkpoints import claims
from videoswin_keras.progress import Bar

CHUNK = 2**20  # bytes read at a time
TIMEOUT = 60.0  # seconds without a byte before a connection counts as broken
SLOWEST = 1000  # bytes per second, over as long: fewer count as a broken connection too
ATTEMPTS = 5  # requests in a row that bring nothing new before giving up
LARGEST = claims.MOST  # bytes of a file

_BROKEN = (HTTPException, ConnectionError, TimeoutError)  # worth another attempt
_BUSY = (408, 429, 500, 502, 503, 504)  # HTTP answers worth another attempt
# What names a version of a file: a strong ETag, or the time of its last change.
_VERSION = re.compile(r'"[!#-~]{1,200}"|[A-Za-z0-9 ,:+-]{1,40}')


class DownloadError(OSError):
    """A file that could not be downloaded; says from where, why, and what to do."""


def _failure(url: str, reason: str) -> DownloadError:
    return DownloadError(
        f"Downloading {public_address(url)} failed: {reason}\n"
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
    open_url: Callable[..., Any] = web.open_url,
    wait: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Path:
    """Downloads a file, unless it is there already.

    The file is named after the address: eight digits that tell addresses apart, then the last part of its path.
    While it is incomplete its name ends in `.part`; a later call, after an interruption of any kind, continues it, if
    the server still has that version of it (`.part.version`), or the hash will tell.
    A broken connection is taken up again, up to five times in a row without anything new; one that brings less than a
    kilobyte per second for a minute is broken. Where the server cannot continue, the download starts over.
    The file is renamed only when its length is what the server announced and its hash what `sha256_prefix` says.
    Of several processes that ask for one file, one downloads; the others wait for it (a `.lock` file).

    Args:
        url: http or https address, of ASCII characters, without user and password. At its end may stand `#sha256=` and
            8 to 64 hexadecimal digits, which are not sent: the `sha256_prefix`.
        directory: Folder of the file; made where it does not exist.
        sha256_prefix: What the file's SHA-256 in hexadecimal must begin with. A file that is there already is
            checked too, and downloaded again where it does not fit.
        progress: Whether to show a progress bar.
        open_url: What to open a `urllib.request.Request` with; takes it and `timeout` in seconds. Default: without
            redirects to other than http and https, or from https to http.
        wait: Called with the seconds to let pass before another attempt: 1, 2, 4, ….
        clock: Function that returns the seconds since some moment.

    Returns:
        Path of the file.

    Raises:
        DownloadError: if the address is no http(s) address of a file, the server refuses it, the connection breaks
            and stays broken, the file is not the expected one or larger than 16 GiB, or it cannot be written.

    Example:

    >>> download("ftp://example.org/model.pth", "weights")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    DownloadError: Downloading ftp://example.org/model.pth failed: only http and https addresses can be downloaded.
    """
    target = Path(directory) / file_name(url)
    expected = (sha256_prefix or _hash_in(url)).lower()
    if _is_whole(target, expected):
        return target
    path, lock = (target.with_name(target.name + ending) for ending in (".part", ".lock"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock):
            if not _is_whole(target, expected):  # another process may have fetched it meanwhile
                with _Part(path, is_checked=bool(expected)) as part:
                    digest = _fetch(url, part, progress, partial(_receive, url, part, open_url, clock), wait, clock)
                if not digest.startswith(expected):
                    path.unlink()
                    raise _failure(
                        url,
                        f"the file's SHA-256 is {digest}, expected to begin with {expected}. It was damaged on "
                        "the way, or its publisher has replaced it; what had arrived was removed.",
                    )
                os.replace(path, target)
    except DownloadError:
        raise
    except OSError as error:
        raise _failure(url, f"it cannot be written: {error}.") from error
    return target


def file_name(url: str) -> str:
    """Returns the name of the downloaded file: eight digits that tell addresses apart, and the last part of the path.

    Raises:
        DownloadError: if `url` is no http or https address of a file that `download` takes.
    """
    try:
        parts = urlsplit(url)
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise _failure(url, "the address is malformed.") from None  # its message shows parts of the address
    if not is_web:
        raise _failure(url, "only http and https addresses can be downloaded.")
    if "@" in parts.netloc:
        raise _failure(url, "the address has a user or a password in it, which are not sent.")
    if not re.fullmatch(r"[!-~]+", url):
        raise _failure(url, "in an address, spaces and other than ASCII characters are written as %20 and the like.")
    name = public_file_name(PurePosixPath(unquote(parts.path)).name).encode()[-100:].decode(errors="ignore")
    if not name.strip("."):
        raise _failure(url, "the address names no file.")
    _hash_in(url)
    # Different publishers may call different files the same, "model.pth" for example.
    return f"{identity(url)}-{name}"


def _hash_in(url: str) -> str:
    """Returns the digits after "#sha256=" at the end of an address; "" if there is nothing of it."""
    fragment = urlsplit(url).fragment
    if "sha256" not in fragment.lower():
        return ""
    if not (found := re.fullmatch(r"sha256=([0-9a-fA-F]{8,64})", fragment)):
        raise _failure(url, "after #sha256= there must be 8 to 64 hexadecimal digits and nothing else.")
    return found[1]


def _is_whole(path: Path, sha256_prefix: str) -> bool:
    """Whether the file is there; a file without `.part` is complete, so there is nothing but its hash to check."""
    if not sha256_prefix or not path.is_file():
        return path.is_file()
    with path.open("rb") as file:
        return _sha256(file).hexdigest().startswith(sha256_prefix)  # damaged since?


def _sha256(file: Any) -> Any:
    file.seek(0)
    return hashlib.file_digest(file, "sha256")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits for the lock file `path` and holds it; the system releases it even if the process is killed."""
    while True:
        with open_own(path, "ab", is_shared=True) as file:
            _lock(file)
            # Whoever held it before has removed it; the next may be waiting for a new one of that name.
            if _is_at(path, file):
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):  # Windows keeps an open file; the empty file may stay
                        path.unlink()
                return


def _is_at(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: IO[bytes]) -> None:
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


class _Part:
    """What has arrived of a file, and the version of it that this is of. What is of no use later is not left behind.

    Args:
        path: Its file.
        is_checked: Whether the hash of the whole is known, so that parts of two versions would be found out.
    """

    def __init__(self, path: Path, is_checked: bool):
        self.path, self.is_checked = path, is_checked
        self._version = path.with_name(path.name + ".version")
        self._file = open_own(path, "a+b")

    def __enter__(self) -> "_Part":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        size = self.size
        self._file.close()
        if kind is None or not size:
            self._version.unlink(missing_ok=True)
        if kind is not None and not size:
            self.path.unlink()

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return os.fstat(self._file.fileno()).st_size

    @property
    def version(self) -> str:
        """The ETag of the file, or the time of its last change; "" if the server said neither."""
        try:
            with open_own(self._version, "rb") as file:
                return _version(file.read().decode("latin-1"))
        except FileNotFoundError:
            return ""

    def begin(self, version: str = "") -> None:
        """Forgets all that is there, and begins with another version."""
        self._file.truncate(0)
        with open_own(self._version, "wb") as file:
            file.write(version.encode("latin-1"))

    def append(self, content: bytes) -> None:
        """Adds what has arrived."""
        self._file.write(content)
        self._file.flush()

    def sha256(self) -> Any:
        """Returns the hash of what is there."""
        return _sha256(self._file)


def _version(*told: str | None) -> str:
    """Returns the first of some headers or lines that names a version of a file, else ""."""
    return next((version for version in told if version and _VERSION.fullmatch(version)), "")


def _fetch(
    url: str,
    part: _Part,
    progress: bool,
    receive: Callable[[Bar], str],
    wait: Callable[[float], object],
    clock: Callable[[], float],
) -> str:
    """Completes `part`, in as many requests as it takes, and returns its SHA-256."""
    failures, furthest, since = 0, part.size, clock()
    name = part.path.name.removesuffix(".part")
    settings: Any = {"desc": name, "unit": "B", "unit_scale": True, "unit_divisor": 1024, "disable": not progress}
    with Bar(**settings, leave=False) as bar:  # only what has arrived leaves its bar
        while True:
            try:
                digest = receive(bar)
                bar.leave = True
                return digest
            except _Interrupted as error:
                now, gained = clock(), part.size - furthest
                if gained > 0 and gained >= SLOWEST * (now - since):
                    failures = 0
                furthest, since = max(furthest, part.size), now
                failures += 1
                if failures == ATTEMPTS:
                    raise _failure(
                        url,
                        f"{error}; {ATTEMPTS} attempts in a row have brought nothing new, or next to nothing. What has "
                        "arrived is kept, and trying again later continues it.",
                    ) from error
                wait(2.0 ** (failures - 1))


def _receive(url: str, part: _Part, open_url: Callable[..., Any], clock: Callable[[], float], bar: Bar) -> str:
    """Sends one request for what `part` lacks, appends the answer, and returns the SHA-256 of the whole.

    Raises:
        _Interrupted: if `part` is still incomplete, or was found to be of no use and emptied.
        DownloadError: if another request would not help.
    """
    version = part.version
    offset = part.size if version or part.is_checked else 0
    headers = {"User-Agent": "videoswin-keras"}
    if offset:
        headers |= {"Range": f"bytes={offset}-"} | ({"If-Range": version} if version else {})
    try:
        response = open_url(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416 and offset:  # there is nothing after `offset`: all is there, or more than all
            if error.headers.get("Content-Range") == f"bytes */{offset}":
                return part.sha256().hexdigest()
            part.begin()
            raise _Interrupted("the part received earlier does not belong to this file") from error
        reason = f"the server answers {_status(error.code)}"
        if error.code in _BUSY:
            raise _Interrupted(reason) from error
        if 300 <= error.code < 400:
            reason += ", which leads in a circle, from https to http, or to neither"
        raise _failure(url, f"{reason}.") from error
    except (InvalidURL, ValueError):
        raise _failure(url, "the server redirects to a malformed address.") from None  # its message shows parts of it
    except (*_BROKEN, URLError) as error:
        cause = error.reason if isinstance(error, URLError) else error
        reason = f"the server cannot be reached ({without_secrets(str(cause)) or type(cause).__name__})"
        if isinstance(cause, _BROKEN):
            raise _Interrupted(reason) from error
        raise _failure(url, f"{reason}.") from error

    with response:
        length = response.headers.get("Content-Length", "")
        total = int(length) if re.fullmatch("[0-9]{1,18}", length) else None
        etag, changed = response.headers.get("ETag"), response.headers.get("Last-Modified")
        if response.status == 206:
            sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if sent is None or int(sent[1]) != offset:
                part.begin()
                raise _Interrupted("the server sent another range of the file than it was asked for")
            if version and _version(etag, changed) not in ("", version):
                part.begin()
                raise _Interrupted("the server sent a range of another version of the file")
            total = int(sent[2])
        elif response.status == 200:
            offset = 0  # the server sends the whole file, asked for the rest or not
        else:
            raise _failure(url, f"the server answers {_status(response.status)}, not with a file.")
        _check_size(url, part.path.parent, offset, total)
        if not offset:
            part.begin(_version(etag, changed))
        digest = part.sha256()
        bar.reset(total)
        bar.n = bar.initial = offset
        for chunk in _chunks(response, clock):
            if part.size + len(chunk) > (LARGEST if total is None else total):
                part.begin()
                raise _failure(url, f"the server sends more than {_size_in_words(total or LARGEST)}; it was removed.")
            part.append(chunk)
            digest.update(chunk)
            bar.update(len(chunk))
    if total is not None and part.size != total:
        raise _Interrupted(f"the connection broke after {part.size} of {total} bytes")
    return digest.hexdigest()


def _status(code: int) -> str:
    """Returns an HTTP status in the standard's words: a server's own might repeat the address."""
    try:
        return f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)


def _check_size(url: str, folder: Path, offset: int, total: int | None) -> None:
    """Raises DownloadError if a file is too large for anything, or for the disk."""
    if total is None:
        return
    if total > LARGEST:
        raise _failure(url, f"it has {_size_in_words(total)}, and at most {_size_in_words(LARGEST)} are taken.")
    if (free := shutil.disk_usage(folder).free) < total - offset:
        raise _failure(
            url,
            f"it takes {_size_in_words(total - offset)}, and in {folder} only {_size_in_words(free)} are free: "
            "make room there, or set KERAS_HOME to another folder.",
        )


def _size_in_words(size: int) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 10**8 else f"{size} bytes"


def _chunks(response: Any, clock: Callable[[], float]) -> Iterator[bytes]:
    """Yields what arrives, as it arrives.

    Raises:
        _Interrupted: if the connection breaks, or too little arrives for as long as nothing would be waited for.
    """
    since, arrived = clock(), 0
    while chunk := _read(response):
        yield chunk
        arrived += len(chunk)
        if (seconds := clock() - since) >= TIMEOUT:
            if arrived < SLOWEST * seconds:
                raise _Interrupted(f"only {arrived} bytes arrived in {seconds:.0f} s")
            since, arrived = clock(), 0


def _read(response: Any) -> bytes:
    try:
        return web.read_some(response, CHUNK, TIMEOUT)
    except (HTTPException, OSError) as error:
        raise _Interrupted(f"the connection broke ({error or type(error).__name__})") from error
