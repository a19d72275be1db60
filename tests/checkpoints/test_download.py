import hashlib
import io
import os
import re
import threading
from dataclasses import dataclass
from http.client import IncompleteRead, RemoteDisconnected
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest

from videoswin_keras.checkpoints import download as module
from videoswin_keras.checkpoints.download import DownloadError, cache_directory, download

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Answer:
    """How the server answers one request; by default as it should."""

    status: int | None = None  # answer with this status and no file
    content: bytes = CONTENT
    cut_after: int | None = None  # bytes of the body before the connection is closed
    use_range: bool = True
    use_length: bool = True
    chunked: bool = False
    range_start: int | None = None  # what Content-Range says, if not what was asked for
    version: tuple[str, str] | None = ("ETag", '"1"')  # the header that names the version of the file
    use_if_range: bool = True  # whether it asks the version before it sends a range
    location: str | None = None  # redirect to this address


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/models/model.pth"
        self.answers = []  # of the next requests; then the default
        self.requests = []  # the Range header of each request so far
        self.paths = []  # the path of each


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers["Range"]
        self.server.requests.append(asked)
        answer = self.server.answers.pop(0) if self.server.answers else Answer()
        self.server.paths.append(self.path)
        if answer.location is not None:
            self.send_response(302)
            self.send_header("Location", answer.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if answer.status is not None:
            self.send_error(answer.status, f"nothing at {self.path}")
            return
        content, start = answer.content, 0
        if answer.use_if_range and self.headers["If-Range"] not in (None, answer.version and answer.version[1]):
            asked = None
        if asked and answer.use_range:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            first = start if answer.range_start is None else answer.range_start
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if answer.version:
            self.send_header(*answer.version)
        body = content[start:]
        sent = body if answer.cut_after is None else body[: answer.cut_after]
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(f"{len(body):x}\r\n".encode() + sent)
            return
        if answer.use_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *arguments):
        pass


class ChunkedHandler(Handler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        super().do_GET()
        self.close_connection = True


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(module, "CHUNK", 2**14)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def waits():
    return []


@pytest.fixture
def fetch(server, tmp_path, waits):
    """Downloads from the server into an empty folder, without a bar; waits are recorded, not waited."""

    def fetch(sha256_prefix=None, url=None, **options):
        options = {"progress": False, "wait": waits.append, "clock": lambda: 0.0, **options}
        return download(url or server.url, tmp_path / "weights", sha256_prefix, **options)

    return fetch


@pytest.fixture
def part(fetch, tmp_path, server):
    """Path of the unfinished file; its folder is there."""
    server.answers = [Answer(status=404)]
    with pytest.raises(DownloadError):
        fetch()
    server.requests.clear()
    return tmp_path / "weights" / (module.file_name(server.url) + ".part")


def names(path):
    return sorted(file.name for file in path.iterdir())


def test_a_file_arrives_whole_and_alone(fetch, server, tmp_path, waits):
    path = fetch(SHA256[:8])
    assert path.read_bytes() == CONTENT
    assert path.parent == tmp_path / "weights"
    assert re.fullmatch(r"[0-9a-f]{8}-model\.pth", path.name)
    assert names(path.parent) == [path.name]
    assert (server.requests, waits) == ([None], [])


def test_the_publishers_name_and_ending_are_kept(fetch, server):
    url = server.url.replace("model.pth", "Video%20Swin%2Bbase.weights.h5?version=3#part")
    assert fetch(url=url).name.endswith("-Video_Swin+base.weights.h5")


def test_equal_file_names_of_two_addresses_are_two_files(fetch, server):
    server.answers = [Answer(), Answer(content=b"another model")]
    first, second = fetch(), fetch(url=server.url.replace("models", "others"))
    assert (first.read_bytes(), second.read_bytes()) == (CONTENT, b"another model")


def test_an_empty_file_arrives(fetch, server):
    server.answers = [Answer(content=b"")]
    assert fetch().read_bytes() == b""


def test_a_file_that_is_there_is_not_asked_for(fetch, server):
    path = fetch()
    written = path.stat().st_mtime_ns
    assert fetch() == fetch(SHA256[:8]) == fetch(SHA256[:8].upper()) == path
    assert server.requests == [None]
    assert path.stat().st_mtime_ns == written
    assert names(path.parent) == [path.name]


def test_a_file_damaged_on_disk_is_downloaded_again(fetch, server):
    path = fetch()
    path.write_bytes(CONTENT[:-1] + b"?")
    assert fetch(SHA256[:8]).read_bytes() == CONTENT
    assert server.requests == [None, None]


@pytest.mark.parametrize("prefix", [SHA256[:8], SHA256[:8].upper(), SHA256])
def test_a_part_is_continued(fetch, part, server, prefix):
    part.write_bytes(CONTENT[:123_456])
    path = fetch(prefix)
    assert path.read_bytes() == CONTENT
    assert server.requests == ["bytes=123456-"]
    assert names(part.parent) == [path.name]


def test_a_server_without_ranges_starts_over(fetch, part, server):
    part.write_bytes(b"x" * 123_456)
    server.answers = [Answer(use_range=False)]
    assert fetch(SHA256[:8]).read_bytes() == CONTENT
    assert server.requests == ["bytes=123456-"]


def test_another_range_than_asked_for_starts_over(fetch, part, server):
    part.write_bytes(CONTENT[:1000])
    server.answers = [Answer(range_start=999)]
    assert fetch(SHA256[:8]).read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-", None]


def test_a_part_that_is_complete_needs_no_bytes(fetch, part, server, waits):
    part.write_bytes(CONTENT)  # the process was killed just before renaming
    assert fetch(SHA256[:8]).read_bytes() == CONTENT
    assert (server.requests, waits) == ([f"bytes={len(CONTENT)}-"], [])


def test_a_complete_part_with_the_wrong_hash_is_removed(fetch, part):
    part.write_bytes(b"x" * len(CONTENT))
    with pytest.raises(DownloadError, match="SHA-256"):
        fetch(SHA256[:8])
    assert names(part.parent) == []


def test_a_part_longer_than_the_file_starts_over(fetch, part, server):
    part.write_bytes(CONTENT + b"more")
    assert fetch(SHA256[:8]).read_bytes() == CONTENT
    assert server.requests == [f"bytes={len(CONTENT) + 4}-", None]


def test_a_cut_connection_is_continued_as_often_as_it_brings_something(fetch, server, waits):
    server.answers = [Answer(cut_after=40_000) for _ in range(7)]  # more often than it would try without progress
    assert fetch(SHA256[:8]).read_bytes() == CONTENT
    assert server.requests == [None] + [f"bytes={40_000 * i}-" for i in range(1, 8)]
    assert waits == [1.0] * 7


def test_a_cut_in_a_chunked_answer_is_noticed(fetch, server):
    server.RequestHandlerClass = ChunkedHandler
    server.answers = [Answer(chunked=True, cut_after=100_000)]
    assert fetch(SHA256[:8]).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_connection_that_stays_broken_is_given_up(fetch, part, server, waits):
    server.answers = [Answer(cut_after=1000)] + [Answer(cut_after=0)] * 9
    with pytest.raises(DownloadError, match=r"1000 of 300000 bytes.*5 attempts") as error:
        fetch()
    assert server.url in str(error.value)
    assert "by hand" in str(error.value)
    # The first brought something; it is the first of five from which on nothing new came.
    assert server.requests == [None] + ["bytes=1000-"] * 4
    assert waits == [1.0, 2.0, 4.0, 8.0]
    assert part.read_bytes() == CONTENT[:1000]


def test_starting_over_again_and_again_is_no_progress(fetch, server):
    server.answers = [Answer(cut_after=1000, use_range=False)] * 9
    with pytest.raises(DownloadError, match="5 attempts"):
        fetch()
    assert len(server.requests) == 5


def test_waits_begin_anew_after_progress(fetch, server, waits):
    server.answers = [Answer(cut_after=0), Answer(cut_after=0), Answer(cut_after=1000), Answer(cut_after=0)]
    assert fetch().read_bytes() == CONTENT
    assert waits == [1.0, 2.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("reset"),
        TimeoutError("timed out"),
        RemoteDisconnected("closed"),
        URLError(ConnectionRefusedError("refused")),
        URLError(TimeoutError("timed out")),
    ],
    ids=repr,
)
def test_a_server_out_of_reach_is_tried_again(fetch, waits, error):
    errors = [error, error]

    def open_url(request, timeout):
        if errors:
            raise errors.pop()
        return urlopen(request, timeout=timeout)

    assert fetch(open_url=open_url).read_bytes() == CONTENT
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), TimeoutError("late"), IncompleteRead(b"")], ids=repr)
def test_an_error_while_reading_is_continued(fetch, server, error):
    arrived = []
    assert fetch(SHA256[:8], open_url=broken_once(error, arrived)).read_bytes() == CONTENT
    assert server.requests == [None, f"bytes={len(arrived[0])}-"]


def broken_once(error, chunks):
    """Opens addresses, but `error` comes instead of the first answer's second chunk; `chunks` gets the others."""
    errors = [error]

    def open_url(request, timeout):
        response = urlopen(request, timeout=timeout)
        read = response.read1

        def read_or_break(size):
            if chunks and errors:
                raise errors.pop()
            chunks.append(read(size))
            return chunks[-1]

        response.read1 = read_or_break
        return response

    return open_url


class Reset(io.RawIOBase):
    """A connection that is reset after some bytes."""

    def __init__(self, content):
        self.content = content

    def readable(self):
        return True

    def readinto(self, buffer):
        if not self.content:
            raise ConnectionResetError("reset")
        buffer[: len(self.content)], count, self.content = self.content, len(self.content), b""
        return count


def test_what_came_before_a_reset_is_kept(fetch, server):
    """Also when it is less than is read at a time."""
    resets = [Reset(CONTENT[:1000])]

    def open_url(request, timeout):
        response = urlopen(request, timeout=timeout)
        if resets:
            response.fp.close()
            response.fp = io.BufferedReader(resets.pop())
        return response

    assert fetch(SHA256[:8], open_url=open_url).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1000-"]


OTHER = np.random.default_rng(1).bytes(300_000)


@pytest.mark.parametrize(
    "version",
    [("ETag", '"0"'), ("ETag", 'W/"1"'), ("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT"), ("ETag", '"\xe9"'), None],
    ids=str,
)
@pytest.mark.parametrize("use_if_range", [True, False])
def test_two_versions_are_never_one_file(fetch, server, version, use_if_range):
    server.answers = [Answer(content=OTHER, version=version, cut_after=100_000), Answer(use_if_range=use_if_range)]
    assert fetch().read_bytes() == CONTENT


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_one_version_is_continued_without_a_hash(fetch, server, header):
    version = (header, {"ETag": '"1"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}[header])
    server.answers = [Answer(cut_after=100_000, version=version), Answer(version=version)]
    assert fetch().read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100000-"]


class Clock:
    """One that runs only while something is waited for."""

    now = 0.0

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds


def test_a_drip_ends(fetch, part, server):
    clock = Clock()

    def open_url(request, timeout):
        response = urlopen(request, timeout=timeout)
        read = response.read1

        def drip(size):
            clock.wait(1.0)
            return read(1)

        response.read1 = drip
        return response

    with pytest.raises(DownloadError, match="only 60 bytes arrived in 60 s; 5 attempts"):
        fetch(open_url=open_url, clock=clock, wait=clock.wait)
    assert part.read_bytes() == CONTENT[:300]


def test_a_byte_a_connection_is_no_progress(fetch, server):
    clock = Clock()
    server.answers = [Answer(cut_after=1) for _ in range(20)]
    with pytest.raises(DownloadError, match="5 attempts"):
        fetch(clock=clock, wait=clock.wait)


@pytest.mark.parametrize(
    ("answer", "largest", "free", "said"),
    [
        (Answer(), 200_000, 10**9, "it has 300000 bytes, and at most 200000 bytes"),
        (Answer(use_length=False), 200_000, 10**9, "the server sends more than 200000 bytes"),
        (Answer(), 10**9, 200_000, "it takes 300000 bytes, and in .* only 200000 bytes are free"),
    ],
)
def test_a_file_that_is_too_large_is_refused(fetch, server, tmp_path, monkeypatch, answer, largest, free, said):
    monkeypatch.setattr(module, "LARGEST", largest)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    server.answers = [answer]
    with pytest.raises(DownloadError, match=said):
        fetch()
    assert names(tmp_path / "weights") == []


def test_a_hash_in_the_address_is_checked_and_not_sent(fetch, server, tmp_path):
    path = fetch(url=f"{server.url}?a=1#sha256={SHA256[:8].upper()}")
    assert path.read_bytes() == CONTENT
    assert server.paths == ["/models/model.pth?a=1"]
    path.unlink()
    with pytest.raises(DownloadError, match=f"SHA-256 is {SHA256}, expected to begin with 0123abcd"):
        fetch(url=f"{server.url}#sha256=0123abcd")
    assert names(tmp_path / "weights") == []


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/model.pth", "file:///etc/passwd", "/models/model.pth"])
def test_redirects_that_lead_nowhere_are_final(fetch, server, tmp_path, location):
    server.answers = [Answer(location=location) for _ in range(20)]
    with pytest.raises(DownloadError, match="answers 302 Found, which leads in a circle"):
        fetch()
    assert names(tmp_path / "weights") == []


def test_a_redirect_to_a_malformed_address_is_final_and_not_shown(fetch, server, waits):
    server.answers = [Answer(location="http://user:secret@127.0.0.1/model.pth")]
    with pytest.raises(DownloadError, match="malformed") as error:
        fetch()
    assert "secret" not in str(error.value)
    assert waits == []


def test_a_redirect_is_followed(fetch, server):
    server.answers = [Answer(location="/others/model.pth?token=1")]
    assert fetch().read_bytes() == CONTENT
    assert server.paths == ["/models/model.pth", "/others/model.pth?token=1"]


def link(path, other):
    other.write_bytes(b"kept")
    path.symlink_to(other)


def hard_link(path, other):
    other.write_bytes(b"kept")
    path.hardlink_to(other)


def pipe(path, other):
    os.mkfifo(path)


@pytest.mark.parametrize("ending", [".part", ".part.version", ".lock"])
@pytest.mark.parametrize("make", [link, hard_link, pipe], ids=lambda make: make.__name__)
def test_what_another_has_put_in_the_cache_is_not_written_to(fetch, part, server, tmp_path, make, ending):
    path = part.with_name(part.name.removesuffix(".part") + ending)
    make(path, tmp_path / "other")
    with pytest.raises(DownloadError, match=r"(is a link|is no regular file|has a second name)") as error:
        fetch()
    assert str(path) in str(error.value)
    assert make is pipe or (tmp_path / "other").read_bytes() == b"kept"


def test_an_interruption_by_the_user_leaves_the_part(fetch, part, server):
    arrived = []
    with pytest.raises(KeyboardInterrupt):
        fetch(open_url=broken_once(KeyboardInterrupt(), arrived))
    assert part.read_bytes() == arrived[0] == CONTENT[: len(arrived[0])]
    assert names(part.parent) == [part.name, part.name + ".version"]
    assert fetch().read_bytes() == CONTENT
    assert server.requests == [None, f"bytes={len(arrived[0])}-"]


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
def test_a_busy_server_is_asked_again(fetch, server, waits, status):
    server.answers = [Answer(status=status)]
    assert fetch().read_bytes() == CONTENT
    assert waits == [1.0]


@pytest.mark.parametrize("status", [404, 403, 410, 416])
def test_a_refusal_is_final(fetch, server, tmp_path, waits, status):
    server.answers = [Answer(status=status)]
    with pytest.raises(DownloadError, match=f"answers {status}") as error:
        fetch()
    assert server.url in str(error.value)
    assert "nothing at" not in str(error.value)  # the server's own words may repeat the whole address
    assert "pass its path" in str(error.value)
    assert (server.requests, waits) == ([None], [])
    assert names(tmp_path / "weights") == []


def test_an_answer_without_a_file_is_an_error(fetch, server):
    server.answers = [Answer(status=204)]
    with pytest.raises(DownloadError, match="204"):
        fetch()


def test_an_unknown_host_is_final(fetch, waits):
    def open_url(request, timeout):
        raise URLError(OSError("Name or service not known"))

    with pytest.raises(DownloadError, match="Name or service not known"):
        fetch(open_url=open_url)
    assert waits == []


def test_a_wrong_hash_is_refused_and_nothing_kept(fetch, server, tmp_path):
    with pytest.raises(DownloadError) as error:
        fetch("0123abcd")
    assert SHA256 in str(error.value)
    assert "0123abcd" in str(error.value)
    assert names(tmp_path / "weights") == []
    assert server.requests == [None]


def test_without_a_length_the_hash_decides(fetch, server):
    server.answers = [Answer(use_length=False)]
    assert fetch(SHA256[:8]).read_bytes() == CONTENT


def test_without_a_length_a_cut_is_seen_by_the_hash(fetch, server, tmp_path):
    server.answers = [Answer(use_length=False, cut_after=1000)]
    with pytest.raises(DownloadError, match="SHA-256"):
        fetch(SHA256[:8])
    assert names(tmp_path / "weights") == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://127.0.0.1/model.pth", "only http and https"),
        ("file:///etc/passwd", "only http and https"),
        ("model.pth", "only http and https"),
        ("http:///model.pth", "only http and https"),
        ("http://127.0.0.1/", "names no file"),
        ("http://127.0.0.1/models/%2E%2E", "names no file"),
        ("http://[127.0.0.1/model.pth", "malformed"),
        ("http://127.0.0.1/a model.pth", "spaces"),
        ("http://127.0.0.1/modèle.pth", "ASCII"),
        ("http://127.0.0.1/model.pth#sha256=0123abc", "8 to 64 hexadecimal digits"),
        ("http://127.0.0.1/model.pth#SHA256-0123abcd", "8 to 64 hexadecimal digits"),
    ],
)
def test_only_http_addresses_of_files(tmp_path, url, said):
    def open_url(request, timeout):
        raise AssertionError("nothing may be opened")

    with pytest.raises(DownloadError, match=said) as error:
        download(url, tmp_path, open_url=open_url)
    assert url.partition("#")[0] in str(error.value)
    assert names(tmp_path) == []


def test_no_name_leads_out_of_the_folder(fetch, server, tmp_path):
    path = fetch(url=server.url.replace("model.pth", "..%2F..%5C..%2Fmodel.pth"))
    assert path.parent == tmp_path / "weights"


def test_a_folder_that_cannot_be_written_is_an_error(server, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DownloadError, match=r"cannot be written.*taken"):
        download(server.url, tmp_path / "taken", progress=False)
    assert server.requests == []


def test_a_full_disk_is_not_taken_for_a_broken_connection(fetch, server, waits, monkeypatch):
    monkeypatch.setattr(module, "_read", lambda response: raise_(OSError(28, "No space left on device")))
    with pytest.raises(DownloadError, match=r"cannot be written.*No space left"):
        fetch()
    assert (len(server.requests), waits) == (1, [])


def raise_(error):
    raise error


def test_the_lock_is_held_while_downloading(fetch, part):
    import fcntl  # not on Windows

    lock = part.with_suffix(".lock")

    def open_url(request, timeout):
        assert not lock.stat().st_mode & 0o002  # as the umask says, for those who share the folder
        with lock.open("ab") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return urlopen(request, timeout=timeout)

    path = fetch(open_url=open_url)
    assert names(path.parent) == [path.name]


def test_who_waited_for_the_lock_takes_what_the_other_has_downloaded(fetch, part, server, monkeypatch):
    def wait_for_another_process(file):
        part.with_suffix("").write_bytes(CONTENT)

    monkeypatch.setattr(module, "_lock", wait_for_another_process)
    assert fetch().read_bytes() == CONTENT
    assert server.requests == []


def test_a_lock_removed_while_waiting_is_taken_anew(tmp_path, monkeypatch):
    path, files = tmp_path / "lock", []

    def lock(file):
        files.append(file)
        if len(files) == 1:
            path.unlink()  # by who held it until now
            path.write_text("")  # by who came in between

    monkeypatch.setattr(module, "_lock", lock)
    with module.locked(path):
        assert len(files) == 2
        assert files[0].closed
        assert os.path.samestat(os.fstat(files[1].fileno()), path.stat())
    assert names(tmp_path) == []


def test_downloads_at_once_share_one_request(fetch, server):
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(fetch(SHA256[:8]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 4
    assert len(set(paths)) == 1
    assert paths[0].read_bytes() == CONTENT
    assert server.requests == [None]
    assert names(paths[0].parent) == [paths[0].name]


def test_the_bar_counts_what_was_there_already(fetch, part, server, monkeypatch):
    seen = []

    class Bar(module.Bar):
        def close(self):
            seen.append((self.initial, self.n, self.total))
            super().close()

    monkeypatch.setattr(module, "Bar", Bar)
    part.write_bytes(CONTENT[:100_000])
    server.answers = [Answer(cut_after=50_000)]
    fetch(SHA256, progress=True)
    assert seen[0] == (150_000, 300_000, 300_000)


@pytest.mark.parametrize("progress", [True, False])
def test_the_bar_is_shown_if_wanted(fetch, capfd, progress):
    fetch(progress=progress)
    shown = capfd.readouterr().err
    assert ("model.pth: 100%" in shown) is progress
    assert progress or shown == ""


def test_no_bar_is_left_of_what_failed(fetch, server, capfd):
    server.answers = [Answer(status=404)]
    with pytest.raises(DownloadError):
        fetch(progress=True)
    assert capfd.readouterr().err.split("\r")[-1].strip() == ""


def test_cache_is_in_keras_home(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    assert cache_directory() == tmp_path / "keras" / "videoswin_keras"
    assert cache_directory().is_dir()


def test_cache_is_in_the_home_folder_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert cache_directory() == Path(tmp_path, ".keras", "videoswin_keras")
    assert cache_directory().is_dir()


def test_a_cache_that_cannot_be_made_is_explained(tmp_path, monkeypatch):
    (tmp_path / "keras").write_text("a file")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    with pytest.raises(OSError, match="Set KERAS_HOME"):
        cache_directory()
