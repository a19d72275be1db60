"""Opens http and https addresses: answers come in time, and only redirects that are as well protected are followed."""

import contextlib
import socket
import threading
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
        timer = threading.Timer(self.timeout, self._break_off)
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()  # type: ignore[misc]
        finally:
            timer.cancel()

    def _break_off(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # it is closed
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # also of one with TLS, which goes on reading


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
