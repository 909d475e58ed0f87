"""Models behind a URL: ranges, redirects, and servers that lie, drip, never end or lead elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from samples import Run

from modelkit import remote
from modelkit.errors import BadRequest, CannotAccess
from modelkit.operations import inspect
from modelkit.operations.validate import Request, validate
from modelkit.remote import MOST_REQUESTS, RemoteFile, checked, is_loopback

WEIGHTS = {"a.weight": np.ones((4, 8), np.float32), "b.weight": np.zeros(3, np.float16)}


class Server(ThreadingHTTPServer):
    """Files by name; `/WORD/NAME` is the same file from a server with the fault WORD."""

    daemon_threads = True
    files: dict[str, bytes]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.elsewhere = ""  # where /redirect/ leads
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what is tested."""


class Answer(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))
        fault, _, name = self.path.partition("?")[0][1:].rpartition("/")
        if name not in self.server.files:
            self.send_error(404, "<\x1b[31m>")
            return
        data = self.server.files[name]
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert wanted is not None
        first, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
        getattr(self, f"fault_{fault}" if fault else "ranges")(data, first, last)

    def ranges(self, data: bytes, first: int, last: int, **changed: str) -> None:
        if not data:
            self.send(416, b"", {"Content-Range": "bytes */0"})
            return
        headers = {"Content-Range": f"bytes {first}-{last}/{len(data)}", "ETag": '"1"'}
        self.send(206, data[first : last + 1], headers | {k.replace("_", "-"): v for k, v in changed.items()})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)

    def fault_whole(self, data: bytes, first: int, last: int) -> None:
        self.send(200, data, {})

    def fault_other_range(self, data: bytes, first: int, last: int) -> None:
        self.ranges(data, first + 1, last)

    def fault_longer_range(self, data: bytes, first: int, last: int) -> None:
        self.ranges(data, first, last, Content_Range=f"bytes {first}-{last + 2**40}/{2**41}")

    def fault_no_range(self, data: bytes, first: int, last: int) -> None:
        self.ranges(data, first, last, Content_Range="")

    def fault_many_parts(self, data: bytes, first: int, last: int) -> None:
        self.ranges(data, first, last, Content_Range="", Content_Type="multipart/byteranges; boundary=x")

    def fault_unknown_size(self, data: bytes, first: int, last: int) -> None:
        self.ranges(data, first, last, Content_Range=f"bytes {first}-{last}/*")

    def fault_impossible_size(self, data: bytes, first: int, last: int) -> None:
        self.ranges(data, first, last, Content_Range=f"bytes {first}-{last}/{2**63}")

    def fault_wrong_length(self, data: bytes, first: int, last: int) -> None:
        self.ranges(data, first, last, Content_Length=str(10**12))

    def fault_no_length(self, data: bytes, first: int, last: int) -> None:
        self.ranges(data, first, last, Content_Length="", Transfer_Encoding="chunked")

    def fault_compressed(self, data: bytes, first: int, last: int) -> None:
        self.ranges(data, first, last, Content_Encoding="gzip")

    def fault_ends_early(self, data: bytes, first: int, last: int) -> None:
        length = str(last + 1 - first)
        self.send(206, data[:4], {"Content-Range": f"bytes {first}-{last}/{len(data)}", "Content-Length": length})

    def fault_grows(self, data: bytes, first: int, last: int) -> None:
        """Small pieces of a file that is larger each time."""
        size = 10**9 + first
        self.send(206, data[:9], {"Content-Range": f"bytes {first}-{first + 8}/{size}"})

    def fault_changes(self, data: bytes, first: int, last: int) -> None:
        """Small pieces, each of another state of the file."""
        headers = {"Content-Range": f"bytes {first}-{first + 8}/{len(data)}", "ETag": f'"{first}"'}
        self.send(206, data[first : first + 9], headers)

    def fault_crumbs(self, data: bytes, first: int, last: int) -> None:
        self.send(206, data[first : first + 1], {"Content-Range": f"bytes {first}-{first}/{len(data)}"})

    def fault_endless(self, data: bytes, first: int, last: int) -> None:
        """A safetensors header of the largest size that never closes, in a file without end."""
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last if first else 4 * 2**20 - 1}/{2**50}")
        self.send_header("Content-Length", str(2**50 if first else 4 * 2**20))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write((90_000_000).to_bytes(8, "little") + b"{" if not first else b"")
            while not self.server.closing.is_set():
                self.wfile.write(b" " * 2**16)

    def fault_drip(self, data: bytes, first: int, last: int) -> None:
        headers = {"Content-Range": f"bytes {first}-{last}/{len(data)}", "Content-Length": str(last + 1 - first)}
        self.send(206, b"", headers)
        self._drip(data)

    def fault_drip_headers(self, data: bytes, first: int, last: int) -> None:
        self._drip(b"HTTP/1.1 206 " + b"x" * 10_000)

    def _drip(self, data: bytes) -> None:
        with suppress(OSError):
            for byte in data:
                if self.server.closing.wait(0.05):
                    return
                self.wfile.write(bytes([byte]))

    def fault_silent(self, data: bytes, first: int, last: int) -> None:
        self.server.closing.wait(20)

    def fault_garbage(self, data: bytes, first: int, last: int) -> None:
        self.wfile.write(b"\x00\xff\x1b]0;x\x07 no http\r\n" * 100)

    def fault_headers(self, data: bytes, first: int, last: int) -> None:
        self.send_response(206)
        for number in range(200):
            self.send_header(f"X-{number}", "x" * 1000)
        self.end_headers()

    def fault_redirect(self, data: bytes, first: int, last: int) -> None:
        self.send(302, b"", {"Location": self.server.elsewhere})

    def fault_round(self, data: bytes, first: int, last: int) -> None:
        self.send(302, b"", {"Location": self.path})

    def fault_login(self, data: bytes, first: int, last: int) -> None:
        self.send(401, b"", {"WWW-Authenticate": "Basic"})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    found = Server()
    threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    found.files["a.safetensors"] = (tmp_path / "a.safetensors").read_bytes()
    yield found
    found.closing.set()
    found.shutdown()
    found.server_close()


@pytest.fixture
def gguf(stories: Path, tmp_path: Path, run: Run) -> Path:
    run("convert", stories, tmp_path / "stories.gguf", "--to", "q8_0")
    return tmp_path / "stories.gguf"


def refused(server: Server, fault: str, name: str = "a.safetensors") -> str:
    """What inspect says of a file from a server with a fault."""
    with pytest.raises(CannotAccess) as caught:
        inspect.inspect(f"{server.url}/{fault}/{name}")
    return str(caught.value)


@pytest.mark.parametrize("view", [[], ["--tree"], ["--tensors"], ["--metadata"], ["--top", "3"]])
def test_inspect_says_the_same_as_of_the_file_on_disk(
    server: Server, gguf: Path, tmp_path: Path, run: Run, view: list[str]
) -> None:
    server.files["stories.gguf"] = gguf.read_bytes()
    for name in ("stories.gguf", "a.safetensors"):
        server.asked.clear()
        there = run("inspect", f"{server.url}/{name}", *view, "--json")
        here = run("inspect", tmp_path / name, *view, "--json")
        assert there.returncode == here.returncode == 0
        assert {**json.loads(there.stdout), "path": ""} == {**json.loads(here.stdout), "path": ""}
        assert len(server.asked) == 1


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_statistics_need_the_file(server: Server, run: Run, form: list[str]) -> None:
    done = run("inspect", f"{server.url}/a.safetensors", "--stats", *form)
    assert done.returncode == 1 and "download the file first" in done.stderr


def test_validate_judges_headers(server: Server, gguf: Path, run: Run) -> None:
    good = gguf.read_bytes()
    server.files |= {"good.gguf": good, "cut.gguf": good[:-100], "page.gguf": b"<html><title>Log in</title></html>"}
    server.files["empty.gguf"] = b""
    server.files["split-00001-of-00002.gguf"] = good
    found = {name: validate(Request((f"{server.url}/{name}",))) for name in server.files}
    assert found["good.gguf"].exit_code == found["a.safetensors"].exit_code == 0
    rules = {name: {one.rule for one in report.findings} for name, report in found.items()}
    assert rules["cut.gguf"] == {"truncated-file"} and rules["page.gguf"] == {"html-error-page"}
    assert rules["empty.gguf"] == {"too-short"} and "missing-shard" in rules["split-00001-of-00002.gguf"]
    assert found["cut.gguf"].findings[0].path == f"{server.url}/cut.gguf"
    done = run("validate", f"{server.url}/cut.gguf", "-f", "sarif")
    assert done.returncode == 1
    place = json.loads(done.stdout)["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == f"{server.url}/cut.gguf"
    absent = run("validate", f"{server.url}/absent.gguf?signature=secret")
    assert "secret" not in absent.stdout + absent.stderr and absent.stdout.count("absent.gguf") == 2
    assert absent.returncode == 2 and "404 (Not Found)" in absent.stdout and "Traceback" not in absent.stderr


def test_a_split_set_is_read_whole(server: Server, gguf: Path, tmp_path: Path, run: Run) -> None:
    assert run("shard", gguf, tmp_path / "s.gguf", "--max-tensors", "12").returncode == 0
    shards = sorted(tmp_path.glob("s-0*.gguf"))
    server.files |= {path.name: path.read_bytes() for path in shards}
    assert len(shards) == 3
    opened = inspect.inspect(f"{server.url}/{shards[1].name}")
    assert len(opened.model.tensors) == 29 and not opened.faults.errors
    assert len(server.asked) == 3


def test_a_large_header_takes_three_requests_at_most(server: Server, tmp_path: Path) -> None:
    weights = {f"{number:06}{'x' * 100}": np.zeros(1, np.float32) for number in range(30_000)}
    save_file(weights, tmp_path / "many.safetensors")
    server.files["many.safetensors"] = (tmp_path / "many.safetensors").read_bytes()
    assert len(server.files["many.safetensors"]) > remote.FIRST
    opened = inspect.inspect(f"{server.url}/many.safetensors")
    assert len(opened.model.tensors) == 30_000 and len(server.asked) == 2


def test_only_the_header_is_downloaded(server: Server, tmp_path: Path) -> None:
    save_file({"a": np.zeros(2**24, np.float32)}, tmp_path / "large.safetensors")
    server.files["large.safetensors"] = (tmp_path / "large.safetensors").read_bytes()
    opened = inspect.inspect(f"{server.url}/large.safetensors")
    assert opened.opener.open("large.safetensors").received <= remote.PIECE  # type: ignore[attr-defined]


def test_far_places_are_asked_for_by_themselves(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "GAP", 1000)
    monkeypatch.setattr(remote, "FIRST", 100)
    data = bytes(range(256)) * 1000
    server.files["a.bin"] = data
    file = RemoteFile(f"{server.url}/a.bin")
    for start, size in ((200_000, 10), (200_005, 10), (0, 50), (90, 20), (255_000, 1000), (1500, 4), (0, 0)):
        assert file.read(start, size) == data[start : start + size]
    assert len(server.asked) == 3 and file.received < 160_000
    with pytest.raises(Exception, match="ended at byte 256,000, 1 bytes early"):
        file.read(255_999, 2)


WORDS = {
    "whole": "does not answer range requests",
    "other_range": "asked for, 'bytes 1-",
    "longer_range": "asked for, 'bytes 0-",
    "no_range": "does not say which part",
    "many_parts": "does not say which part",
    "unknown_size": "does not say which part",
    "impossible_size": "asked for, 'bytes 0-",
    "wrong_length": "Content-Length is 1000000000000",
    "no_length": "Content-Length is absent",
    "compressed": "compressed, against what was asked",
    "ends_early": "early",
    "grows": "changed while it was read",
    "changes": "changed while it was read",
    "crumbs": f"more than {MOST_REQUESTS} requests",
    "garbage": "cannot be read",
    "headers": "cannot be read",
    "round": "more than 5 redirects",
    "login": "401 (Unauthorized)",
}


@pytest.mark.parametrize("fault", list(WORDS))
def test_a_faulty_server_is_refused_in_words(server: Server, fault: str) -> None:
    message = refused(server, fault)
    assert WORDS[fault] in message and message.startswith(f"{server.url}/{fault}/a.safetensors: ")


@pytest.mark.parametrize("fault", ["drip", "drip_headers", "silent"])
def test_a_slow_server_is_given_up(server: Server, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE", 0.4)
    message = refused(server, fault)
    assert "no answer within" in message or "bytes came in" in message


def test_the_sockets_own_patience_says_the_same(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = remote._Watch
    monkeypatch.setattr(remote, "PATIENCE", 0.4)
    monkeypatch.setattr(remote, "_Watch", lambda patience: watch(60))
    assert "no answer within" in refused(server, "silent")


def test_a_body_without_end_costs_little(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MOST_BYTES", 8 * 2**20)
    message = refused(server, "endless")
    assert "1125899906842624" in message or "beyond 8,388,608 bytes" in message


TARGETS = (
    "file:///etc/passwd", "ftp://127.0.0.1/a", "http://example.com/a.safetensors", "data:text/plain,abc", "",
    "https://user:secret@127.0.0.1/a", "//example.com/x", "http://[::1", "https://a\x80b/", "gopher://a/b",
    "http://169.254.169.254/latest", "\t/a b",
)  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_redirects_lead_to_https_only(server: Server, target: str) -> None:
    server.elsewhere = target
    message = refused(server, "redirect")
    assert "not followed" in message or "redirects" in message
    assert "secret" not in message.replace(target, "")


def test_a_redirect_is_followed_once(server: Server, tmp_path: Path) -> None:
    """Later requests go where the first was led to; the name stays that of the address that was named."""
    weights = {f"{number:06}{'x' * 100}": np.zeros(1, np.float32) for number in range(30_000)}
    save_file(weights, tmp_path / "many.safetensors")
    server.files["many.safetensors"] = (tmp_path / "many.safetensors").read_bytes()
    server.elsewhere = f"{server.url}/many.safetensors?signature=abc"
    opened = inspect.inspect(f"{server.url}/redirect/many.safetensors?download=true")
    assert [path for path, _ in server.asked] == [
        "/redirect/many.safetensors?download=true",
        "/many.safetensors?signature=abc",
        "/many.safetensors?signature=abc",
    ]
    assert opened.opener.title == f"{server.url}/redirect/many.safetensors"
    assert not any({"Authorization", "Cookie"} & set(headers) for _, headers in server.asked)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://host/a", "ftp is not read"),
        ("file:///etc/passwd", "names no host"),
        ("http://example.com/a.gguf", "http is not read"),
        ("http://localhost.example.com/a.gguf", "http is not read"),
        ("https://me:secret@example.com/a", "with a name or password"),
        ("https://exa\tmple.com/a", "white space"),
        ("https://example.com/a b", "white space"),
        ("https://example.com:99999/a", "is no URL"),
        ("https://example.com/dir/", "names a folder"),
        ("https://", "names no host"),
        ("https://a<b>/c", "is no name of a host"),
        ("https://[fe80::1%25a b]/c", "white space"),
        ("https://@example.com/a", "with a name or password"),
        (f"https://{'a' * 70}.com/a", "is no URL"),
        ("https://[fe80::1%eth0]/a", "with a zone"),
        ("http://[::1%e\udcb6\udc97]/a", "with a zone"),
    ],
)
def test_other_urls_are_refused_as_a_wrong_call(url: str, words: str, run: Run) -> None:
    with pytest.raises(BadRequest, match=re.escape(words)) as caught:
        RemoteFile(url)
    assert "secret" not in str(caught.value)
    done = run("inspect", url)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "secret" not in done.stderr


def test_names_are_safe_to_print_and_to_send(server: Server) -> None:
    found = checked("https://example.com/ä/\u202eevil%0a.gguf?x=ü#part")
    assert checked("HTTPS://Exämple.com:443/a").geturl() == "https://xn--exmple-cua.com:443/a"
    assert checked("https://[2001:DB8::1]:8/a").geturl() == "https://[2001:db8::1]:8/a"
    assert found.geturl() == "https://example.com/%C3%A4/%E2%80%AEevil%0a.gguf?x=%C3%BC"
    server.files["%1b[31m..%2f..%2fx.gguf"] = b"GGUF" + bytes(20)
    opener = remote.Remote(f"{server.url}/%1b[31m..%2f..%2fx.gguf")
    assert opener.main == "%1b[31m..%2f..%2fx.gguf" and opener.names() == [opener.main]
    assert not opener.holds("config.json") and not opener.holds("../../etc/passwd")


def test_loopback_is_this_machine_only() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.9.1", "::1")))
    assert not any(map(is_loopback, ("example.com", "10.0.0.1", "0.0.0.0", "localhost.evil.com", "::2", "")))


def test_only_headers_are_read_and_other_commands_say_so(server: Server, tmp_path: Path, run: Run) -> None:
    url = f"{server.url}/a.safetensors"
    done = run("validate", url, "--level", "sample")
    assert done.returncode == 2 and "only headers are read" in done.stderr
    for command in (["convert", url, tmp_path / "a.gguf"], ["checksum", url], ["merge", url, tmp_path / "b"]):
        done = run(*command)
        assert done.returncode == 1 and "only inspect and validate read URLs" in done.stderr, done.stderr
    assert not server.asked


def test_no_network_code_without_a_url(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    code = (
        "import sys\nfrom modelkit.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    for command in ("inspect", "validate"):
        done = subprocess.run(
            [sys.executable, "-c", code, command, tmp_path / "a.safetensors"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert not {"ssl", "socket", "http.client", "urllib.request", "modelkit.remote"} & set(done.stderr.split())


def test_a_proxy_is_used_as_urllib_does(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    assert refused_by_proxy(server, port) == f"http://127.0.0.1:{port}/a.safetensors"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(CannotAccess, match="cannot be read"):
        RemoteFile(f"http://127.0.0.1:{port}/a.safetensors")


def refused_by_proxy(server: Server, port: int) -> str:
    """What the server was asked for as a proxy; it knows no such file."""
    with pytest.raises(CannotAccess):
        RemoteFile(f"http://127.0.0.1:{port}/a.safetensors")
    return server.asked[-1][0]


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not there to make a certificate")
    path = tmp_path / "both.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "certificate.pem")]
    subprocess.run([*make, *names, *files], check=True, capture_output=True)
    path.write_bytes((tmp_path / "key.pem").read_bytes() + (tmp_path / "certificate.pem").read_bytes())
    return path


def test_https_with_a_trusted_certificate_only(
    server: Server, certificate: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://localhost:{server.server_address[1]}"
    monkeypatch.setattr(ThreadingHTTPServer, "server_bind", lambda _: None)
    done = run("inspect", f"{url}/a.safetensors")
    assert done.returncode == 1 and "certificate is not trusted" in done.stderr
    trusting = {**os.environ, "SSL_CERT_FILE": str(certificate.with_name("certificate.pem"))}
    done = run("inspect", f"{url}/a.safetensors", env=trusting)
    assert done.returncode == 0 and "a.safetensors" not in done.stderr, done.stderr
    server.elsewhere = "http://127.0.0.1:1/a.safetensors"
    done = run("inspect", f"{url}/redirect/a.safetensors", env=trusting)
    assert done.returncode == 1 and "from https to http" in done.stderr
    server.elsewhere = f"{url}/a.safetensors"
    assert run("inspect", f"{url}/redirect/a.safetensors", env=trusting).returncode == 0


def test_a_connection_that_is_made_late_is_ended_too() -> None:
    """A handshake that takes all the time leaves no socket to end; what follows it would drip for ever."""
    ended = threading.Event()

    class Late:
        def __init__(self, host: str) -> None:
            self.sock: Any = None  # as while it is being connected

        def shutdown(self, how: int) -> None:
            ended.set()

    with remote._Watch(0.01) as watch:
        made: Any = watch.connects(Late)("host")  # type: ignore[arg-type]
        while not watch.late:
            time.sleep(0.001)
        made.sock = made
        assert ended.wait(5)


def test_a_far_place_in_crumbs_is_put_together_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "GAP", 0)
    monkeypatch.setattr(remote, "FIRST", 100)
    monkeypatch.setattr(remote, "PIECE", 256)
    server.files["a.bin"] = bytes(range(256)) * 2**15
    file = RemoteFile(f"{server.url}/a.bin")
    began = time.thread_time()
    assert file.read(256, 2**23 - 256) == server.files["a.bin"][256:]
    assert time.thread_time() - began < 4  # copied anew for each piece it takes ten times as long
