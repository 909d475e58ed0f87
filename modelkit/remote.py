"""A file behind a URL, read by range requests: its first bytes, and of the rest only what a parser asks for.

https, or http to this machine itself. Everything that a server says is held against what it was asked for and
against what arrives; what it may cost in time, bytes and requests has a limit. No credentials are ever sent:
neither from the URL (refused), nor from files, nor to where a redirect leads.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, Self
from urllib.parse import SplitResult, quote, urljoin, urlsplit, urlunsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request

from modelkit.errors import BadRequest, BrokenFile, CannotAccess

FIRST = 4 * 2**20
"""Bytes that the first request asks for and that are read as they are needed: the header of nearly every model."""

MOST_BYTES = 256 * 2**20  # that are read of one file; a header of safetensors has 100,000,000 at most
MOST_REQUESTS = 32  # for one file, redirects included
MOST_REDIRECTS = 5
GAP = 16 * 2**20  # a read that begins at most so far behind what is there goes through it, without a new request
APART = 64 * 2**10  # least bytes of a request for a far place
PIECE = 64 * 2**10
PATIENCE = 30.0  # seconds for an answer to begin, and for no byte to arrive
AGAIN = 0.5  # seconds until a connection that is late is ended once more
SLOWEST = 16 * 2**10  # bytes a second; slower than this, after the first PATIENCE seconds, is given up
REDIRECTS = (301, 302, 303, 307, 308)
ABSENT = (404, 410)
NUMBERED = re.compile(r"(.+)-\d{5}-of-(\d{5})(\.[a-z]+)")
RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
NAME = re.compile(r"[A-Za-z0-9_.-]+")
PRINTABLE = "!#$%&'()*+,/:;=?@[]~"
DOWNLOAD = "download the file and name it on disk"
FAULTY = "the server or a proxy on the way is faulty: " + DOWNLOAD


class RemoteFile:
    """One file behind a URL as a Source. Not shared between threads.

    Raises BadRequest for a URL that is not followed, CannotAccess for whatever the server does.
    """

    def __init__(self, url: str) -> None:
        self.url = checked(url)
        self.title = shown(self.url)
        self.name = self.url.path.rpartition("/")[2]
        if not self.name:
            raise BadRequest(f"{self.title}: names a folder", "name one file in it")
        self.size = -1
        self.requests = 0
        self.received = 0
        self._where = self.url  # after redirects
        self._etag: str | None = None
        self._spent = 0.0  # seconds of waiting
        self._prefix = bytearray()  # the file from its beginning
        self._body: _Body | None = None  # goes on where the prefix ends
        self._apart = (0, b"")  # the last far place
        self._body = self._ask(0, FIRST)

    def read(self, start: int, size: int) -> bytes:
        """Exactly `size` bytes from `start`."""
        if start < 0 or size < 0 or start + size > self.size:
            message = f"{self.name}: ended at byte {self.size:,}, {start + size - self.size:,} bytes early"
            raise BrokenFile(message, "fetch it again", rule="truncated-file", offset=self.size)
        if start <= len(self._prefix) + GAP:
            self._extend(start + size)
            return bytes(memoryview(self._prefix)[start : start + size])
        return self._far(start, size)

    def close(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None

    def _extend(self, stop: int) -> None:
        """Have the file from its beginning to `stop`: the answer that is under way goes on, then one more is asked."""
        while len(self._prefix) < stop:
            if self._body is None:
                self._body = self._ask(len(self._prefix), self.size)
            self._prefix += self._take(self._body)
            if not self._body.left:
                self.close()

    def _far(self, start: int, size: int) -> bytes:
        first, data = self._apart
        if not first <= start <= start + size <= first + len(data):
            first, got = start, bytearray()
            while len(got) < size:
                begin = first + len(got)
                body = self._ask(begin, min(max(start + size, begin + APART), self.size))
                try:
                    while body.left:
                        got += self._take(body)
                finally:
                    body.close()
            data = bytes(got)
            self._apart = (first, data)
        return data[start - first : start - first + size]

    def _ask(self, start: int, stop: int) -> _Body:
        """An answer that brings the bytes from `start`, at most up to `stop`."""
        response = self._follow(f"bytes={start}-{stop - 1}")
        try:
            if response.status == 416 and start == 0 and response.headers.get("Content-Range") == "bytes */0":
                self.size = 0
                return _Body(response, 0)
            end = self._checked_range(response, start, stop)
        except CannotAccess:
            response.close()
            raise
        return _Body(response, end + 1 - start)

    def _checked_range(self, response: HTTPResponse, start: int, stop: int) -> int:
        """The last byte of the range that the answer says it brings."""
        if response.status == 200:
            message = "the server does not answer range requests: it would send the whole file"
            raise self._refused(message, DOWNLOAD)
        if response.status != 206:
            raise self._status(response.status)
        stated = response.headers.get("Content-Range", "")
        found = RANGE.fullmatch(stated)
        if found is None:
            raise self._refused(f"the server does not say which part it sends (Content-Range '{stated[:60]}')", FAULTY)
        first, last, size = map(int, found.groups())
        if first != start or not first <= last < min(stop, size) or size >= 2**63:
            raise self._refused(f"bytes {start:,} to {stop - 1:,} asked for, '{stated}' is sent", FAULTY)
        if self.size >= 0 and (self.size, self._etag) != (size, response.headers.get("ETag")):
            raise self._refused("the file changed while it was read", "run again when nothing writes to it")
        if response.length != last + 1 - first:
            length = response.headers.get("Content-Length", "absent")[:20]
            message = f"'{stated}' is {last + 1 - first:,} bytes, Content-Length is {length}"
            raise self._refused(message, FAULTY)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise self._refused("the server sends the bytes compressed, against what was asked", FAULTY)
        self.size, self._etag = size, response.headers.get("ETag")
        return last

    def _follow(self, wanted: str) -> HTTPResponse:
        """The first answer that is no redirect; where it came from is kept for the next request."""
        for _ in range(MOST_REDIRECTS + 1):
            self.requests += 1
            if self.requests > MOST_REQUESTS:
                message = f"its headers need more than {MOST_REQUESTS} requests"
                raise self._refused(message, DOWNLOAD)
            response = self._request(wanted)
            if response.status not in REDIRECTS:
                return response
            target = response.headers.get("Location", "")
            response.close()
            self._where = self._redirected(target)
        raise self._refused(f"more than {MOST_REDIRECTS} redirects", "name the address that they lead to")

    def _redirected(self, target: str) -> SplitResult:
        """Where a redirect leads: https, or http where http to this machine was asked for and is left for no other."""
        try:
            found = checked(urljoin(urlunsplit(self._where), target))
        except (BadRequest, ValueError) as error:
            raise self._refused(f"redirected to '{target[:100]}', which is not followed", FAULTY) from error
        if found.scheme != "https" and self._where.scheme == "https":
            raise self._refused(f"redirected from https to {shown(found)}, which is not followed", FAULTY)
        return found

    def _request(self, wanted: str) -> HTTPResponse:
        url = urlunsplit(self._where)
        headers = {"Range": wanted, "Accept-Encoding": "identity", "User-Agent": "modelkit"}
        began = time.monotonic()
        with _Watch(PATIENCE) as watch:
            try:
                found: HTTPResponse = _opener(watch).open(Request(url, headers=headers), timeout=PATIENCE)
            except (OSError, HTTPException, ValueError) as error:
                raise self._failed(error, late=watch.late) from error
        self._spent += time.monotonic() - began
        self._check_pace()
        return found

    def _take(self, body: _Body) -> bytes:
        """The next bytes of an answer. What arrives later than a slow line would bring it is given up."""
        began = time.monotonic()
        try:
            piece = body.take()
        except (OSError, HTTPException, ValueError) as error:
            raise self._failed(error) from error
        if not piece:
            raise self._refused(f"the server ended {body.left:,} bytes early", "run again, or " + DOWNLOAD)
        self._spent += time.monotonic() - began
        self.received += len(piece)
        self._check_pace()
        if self.received > MOST_BYTES:
            raise self._refused(f"its headers go on beyond {MOST_BYTES:,} bytes", DOWNLOAD)
        return piece

    def _check_pace(self) -> None:
        if self._spent > PATIENCE + self.received / SLOWEST:
            message = f"only {self.received:,} bytes came in {self._spent:.0f} seconds"
            raise self._refused(message, "try again on a better line, or " + DOWNLOAD)

    def _status(self, status: int) -> CannotAccess:
        words = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "unknown"
        fix = {
            401: "it needs a login, and modelkit sends none: " + DOWNLOAD,
            403: "it needs a login or a licence, and modelkit sends none: " + DOWNLOAD,
            429: "wait, then run again",
        }.get(status, "check the address" if status in ABSENT else "try again later, or " + DOWNLOAD)
        error = self._refused(f"the server answers {status} ({words})", fix)
        return Absent(error.message, error.fix) if status in ABSENT else error

    def _failed(self, error: Exception, *, late: bool = False) -> CannotAccess:
        reason = getattr(error, "reason", error)  # of an answer that stops nothing is wrapped
        if late or isinstance(reason, TimeoutError):
            message = f"no answer within {PATIENCE:.0f} seconds"
            return self._refused(message, "try again later, or " + DOWNLOAD)
        words = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        if isinstance(reason, ssl.SSLCertVerificationError):
            return self._refused(f"the server's certificate is not trusted ({reason.verify_message})", FAULTY)
        return self._refused(f"the server cannot be read: {words[:200]}", "check the address and the connection")

    def _refused(self, message: str, fix: str) -> CannotAccess:
        return CannotAccess(f"{self.title}: {message}", fix)


class Absent(CannotAccess):
    """There is no such file at the address."""


class Remote:
    """One file behind a URL as an Opener; of its siblings only the other shards of a numbered set are in reach."""

    def __init__(self, url: str) -> None:
        self.file = RemoteFile(url)
        self.title = self.file.title
        self.main: str | None = self.file.name
        self.folder = self.title.rpartition("/")[0]
        self._open = {self.file.name: self.file}

    def names(self) -> list[str]:
        return sorted(self._open)

    def open(self, name: str) -> RemoteFile:
        if name not in self._open:
            base = self.file.url
            path = f"{base.path.rpartition('/')[0]}/{name}"
            self._open[name] = RemoteFile(urlunsplit(base._replace(path=path)))
        return self._open[name]

    def holds(self, name: str) -> bool:
        if name in self._open:
            return True
        own, other = NUMBERED.fullmatch(self.file.name), NUMBERED.fullmatch(name)
        if own is None or other is None or own.groups() != other.groups():
            return False
        try:
            return bool(self.open(name))
        except Absent:
            return False

    def close(self) -> None:
        for file in self._open.values():
            file.close()


def checked(url: str) -> SplitResult:
    """A URL in its parts, made safe to send and to print. Raises BadRequest for one that is not followed."""
    if any(ord(letter) < 33 or ord(letter) == 127 for letter in url):
        raise BadRequest(f"'{url}': has white space or control characters", "write them as %20 and the like")
    try:
        found = urlsplit(url)
        host, port = _host(found.hostname or ""), found.port
    except ValueError as error:
        raise BadRequest(f"'{url}': is no URL ({error})", "check the address") from None
    if not host:
        raise BadRequest(f"'{url}': names no host", "write https://HOST/PATH")
    if found.username is not None or found.password is not None:
        raise BadRequest(f"https://{host}: a URL with a name or password is not used", DOWNLOAD)
    if found.scheme != "https" and not (found.scheme == "http" and is_loopback(host)):
        raise BadRequest(f"'{url}': {found.scheme} is not read", "use https (http only to this machine)")
    path, query = (quote(text, safe=PRINTABLE, errors="surrogateescape") for text in (found.path or "/", found.query))
    place = f"[{host}]" if ":" in host else host
    place += "" if port is None else f":{port}"
    return found._replace(netloc=place, path=path, query=query, fragment="")


def _host(host: str) -> str:
    """A name in ASCII letters, as it is looked up and as nobody is deceived by it, or an address. Raises ValueError."""
    if not host:
        return ""
    if ":" in host and "%" in host:
        raise ValueError("an address with a zone ('%...') means another place on every machine")
    with suppress(ValueError):
        return str(ipaddress.ip_address(host))
    plain = host.encode("idna").decode()
    if not NAME.fullmatch(plain):
        raise ValueError(f"'{plain}' is no name of a host")
    return plain


def shown(url: SplitResult) -> str:
    """For people and reports: without the query, which may hold a signature."""
    return urlunsplit(url._replace(query="", fragment=""))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


class _Body:
    """The body of an answer: `left` bytes are to come, and no more are read."""

    def __init__(self, response: HTTPResponse, left: int) -> None:
        self._response = response
        self.left = left

    def take(self) -> bytes:
        piece = self._response.read1(min(self.left, PIECE))
        self.left -= len(piece)
        return piece

    def close(self) -> None:
        self._response.close()


class _Watch:
    """Ends a connection whose answer has not begun in time: a socket's own time limit begins anew at every byte."""

    def __init__(self, seconds: float) -> None:
        self.late = False
        self._connections: list[HTTPConnection] = []
        self._seconds = seconds
        self._done = threading.Event()

    def connects(self, kind: type[HTTPConnection]) -> Callable[..., HTTPConnection]:
        """The class of a connection as one that is watched."""

        def connection(host: str, **options: Any) -> HTTPConnection:
            made = kind(host, **options)
            self._connections.append(made)
            return made

        return connection

    def _end(self) -> None:
        """Once is not enough: what is just being connected has no socket yet that could be ended."""
        wait = self._seconds
        while not self._done.wait(wait):
            self.late, wait = True, AGAIN
            for connection in self._connections:
                with suppress(OSError, AttributeError):
                    connection.sock.shutdown(2)

    def __enter__(self) -> Self:
        threading.Thread(target=self._end, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()


def _opener(watch: _Watch) -> OpenerDirector:
    """urllib's own way through proxies, and nothing else of it: no files, no redirects, no passwords, no cookies."""

    class Plain(HTTPHandler):
        def http_open(self, request: Request) -> Any:
            return self.do_open(watch.connects(HTTPConnection), request)

    class Secure(HTTPSHandler):
        def https_open(self, request: Request) -> Any:
            context = ssl.create_default_context()
            return self.do_open(watch.connects(HTTPSConnection), request, context=context)

    opener = OpenerDirector()
    for handler in (ProxyHandler(), Plain(), Secure()):
        opener.add_handler(handler)
    return opener
