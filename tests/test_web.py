"""Which redirects are followed, and that no server is waited for without end."""

import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from http.client import HTTPException
from io import BytesIO
from urllib.error import HTTPError
from urllib.request import Request

import pytest

from videoswin_keras.web import _Redirects, open_url, read_some


@pytest.mark.parametrize(
    ("old", "new", "is_followed"),
    [
        ("http://a/x", "http://b/x", True),
        ("http://a/x", "https://a/x", True),
        ("https://a/x", "https://b/x", True),
        ("https://a/x", "http://a/x", False),
        ("https://a/x", "ftp://a/x", False),
        ("http://a/x", "ftp://a/x", False),
        ("http://a/x", "file:///x", False),
    ],
)
def test_no_redirect_loses_what_protected_the_address(old, new, is_followed):
    arguments = Request(old), BytesIO(), 302, "Found", Message(), new
    if is_followed:
        assert _Redirects().redirect_request(*arguments).full_url == new
    else:
        with pytest.raises(HTTPError):
            _Redirects().redirect_request(*arguments)


@contextlib.contextmanager
def endless(first, again):
    """A server that sends bytes until it is cut off, for a long time: each at once, so that a socket waits for none."""
    clients = []

    def serve():
        clients.append(server.accept()[0])
        clients[0].sendall(first)
        with contextlib.suppress(OSError):
            for _ in range(10**7):
                clients[0].sendall(again)
            return False
        return True

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as threads:
        served = threads.submit(serve)
        yield Request(f"http://127.0.0.1:{server.getsockname()[1]}/model.pth")
        with contextlib.suppress(OSError):
            clients[0].shutdown(socket.SHUT_RDWR)  # or it waits for room in its buffers
        clients[0].close()
        assert served.result()


def test_the_head_of_an_answer_that_has_no_end():
    with endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n") as request, pytest.raises((OSError, HTTPException)):
        open_url(request, timeout=0.5)


def test_an_answer_in_pieces_that_has_no_end():
    """After the last piece there may be more lines of the head."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"
    with endless(head, b"a: b\r\n") as request, open_url(request, timeout=60) as response:
        assert read_some(response, 3, timeout=60) == b"abc"
        with contextlib.suppress(OSError):  # a connection that is broken off, or an end: all pieces are there
            assert read_some(response, 3, timeout=0.5) == b""
