"""Which redirects are followed, and that no server is waited for without end."""

import contextlib
import socket
import threading
from email.message import Message
from http.client import HTTPException
from io import BytesIO
from urllib.error import HTTPError
from urllib.request import Request

import pytest

from videoswin_keras.web import _Redirects, open_url


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


def test_an_answer_that_never_comes_to_its_end_is_broken_off():
    """Each of its bytes is there at once, so the socket waits for none of them."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            client, _ = server.accept()
            with client, contextlib.suppress(OSError):
                while True:
                    client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises((OSError, HTTPException)):
            open_url(Request(f"http://127.0.0.1:{server.getsockname()[1]}/model.pth"), timeout=0.5)
        thread.join()
