"""Opens http and https addresses: answers come in time, and only redirects that are as well protected are followed."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener


class _Redirects(HTTPRedirectHandler):
    """Refuses the redirects that urllib follows to ftp, and from https to http."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        allowed = {"http": {"http", "https"}, "https": {"https"}}
        if urlsplit(newurl).scheme not in allowed[urlsplit(req.full_url).scheme]:
            raise HTTPError(req.full_url, code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _InTime:
    """What a connection is too, of which the head of an answer is there within its timeout, or it is broken off.

    The timeout of a socket begins anew with each byte, and a server may send heads without end.
    """

    sock: Any
    timeout: float

    def getresponse(self) -> Any:
        connected = self.sock
        with _broken_off_after(self.timeout, connected):
            response = super().getresponse()  # type: ignore[misc]
        response.connected = connected
        return response


@contextlib.contextmanager
def _broken_off_after(seconds: float, connected: Any) -> Iterator[None]:
    def break_off() -> None:
        with contextlib.suppress(OSError):  # it is closed
            socket.socket.shutdown(connected, socket.SHUT_RDWR)  # also of one with TLS, which goes on reading

    timer = threading.Timer(seconds, break_off)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def read_some(response: Any, size: int, timeout: float) -> bytes:
    """Reads what is there of an answer that `open_url` gave, at most `size` bytes; nothing at its end.

    Args:
        response: The answer.
        size: Bytes.
        timeout: Seconds after which the connection is broken off: what frames the pieces of an answer may be endless.

    Raises:
        OSError, HTTPException: if the connection breaks.
    """
    connected = getattr(response, "connected", None)
    with _broken_off_after(timeout, connected) if connected is not None else contextlib.nullcontext():
        return response.read1(size)  # `read` would wait for all of a piece, and lose it with the connection


class _Http(HTTPHandler):
    def do_open(self, http_class: Any, req: Request, **settings: Any) -> Any:
        return super().do_open(_in_time(http_class), req, **settings)


class _Https(HTTPSHandler):
    def do_open(self, http_class: Any, req: Request, **settings: Any) -> Any:
        return super().do_open(_in_time(http_class), req, **settings)


def _in_time(http_class: Any) -> Any:
    return type("InTime", (_InTime, http_class), {})


def open_url(request: Request, timeout: float) -> Any:
    """Opens an http or https address: the response is urllib's.

    Args:
        request: What to ask for.
        timeout: Seconds until there is the head of an answer, and without a byte of what follows.

    Raises:
        HTTPError: if the server refuses, or redirects too often, to another kind of address, or from https to http.
        URLError, OSError, HTTPException: if there is no answer.
    """
    return build_opener(_Redirects, _Http, _Https).open(request, timeout=timeout)
