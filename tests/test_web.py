"""Whatever a server does, a download ends: with the file, or with the reason in a line."""

import gzip
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fedpipe.data.web import NotFetched, fetch

OK = b"HTTP/1.1 200 OK\r\n"
Speak = Callable[[socket.socket], None]


class Server:
    """A server that answers every connection as the test says, byte by byte."""

    def __init__(self, speak: Speak) -> None:
        self._speak, self.asked = speak, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/file"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                connection, _ = self._listener.accept()
                self.asked += 1
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):  # the other side has had enough
            connection.recv(65536)
            self._speak(connection)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def server() -> Iterator[Callable[[Speak], Server]]:
    started: list[Server] = []

    def start(speak: Speak) -> Server:
        started.append(Server(speak))
        return started[-1]

    yield start
    for each in started:
        each.close()


def saying(*pieces: bytes, every: float = 0.0) -> Speak:
    def speak(connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(every)

    return speak


def without_end(piece: bytes, every: float = 0.0) -> Speak:
    def speak(connection: socket.socket) -> None:
        for each in itertools.chain([OK + b"\r\n"], itertools.repeat(piece)):
            connection.sendall(each)
            time.sleep(every)

    return speak


def test_a_file_comes_as_it_is(server, tmp_path: Path):
    content, came = bytes(range(256)) * 1000, []
    url = server(saying(OK + b"Content-Length: 256000\r\n\r\n", content)).url
    fetch(url, tmp_path / "file", most=256_000, seconds=10, on_bytes=lambda count, total: came.append((count, total)))
    assert (tmp_path / "file").read_bytes() == content
    assert sum(count for count, _ in came) == len(content)
    assert {total for _, total in came} == {len(content)}


@pytest.mark.parametrize(
    ("speak", "reason", "again"),
    [
        (without_end(b"x" * 65536), "more than the 1,000,000 bytes", False),
        (saying(OK + b"Content-Length: 9000000\r\n\r\n", b"x" * 2_000_000), "more than the 1,000,000 bytes", False),
        (without_end(b"x", every=0.05), "not whole after 1 s", False),
        (saying(*(bytes([letter]) for letter in OK * 10), every=0.05), "not whole after 1 s", False),  # its head
        (saying(OK + b"Content-Length: 10\r\n\r\n", b"abc"), "broke off after 3 bytes", True),
        (saying(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"), "HTTP 503", True),
        (saying(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"), "HTTP 404", False),
        (saying(b"HTTP/1.1 302 On\r\nLocation: /file\r\n\r\n"), "redirects more than 5 times", False),
        (saying(b"HTTP/1.1 302 On\r\nLocation: file:///etc/passwd\r\n\r\n"), "no http(s) URL", False),
        (saying(OK + b"X: " + b"x" * 100_000 + b"\r\n\r\n"), "HTTP 400", False),
        (saying(b"\x00\xff junk\r\n\r\n"), "HTTP 400", False),
        (saying(b""), "Server disconnected", True),
    ],
    ids=[
        "without end", "too long", "dripping", "dripping head", "breaks off", "503", "404", "redirects in a circle",
        "redirects to a file here", "a head too long", "junk", "nothing",
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_given_up(server, speak: Speak, reason: str, again: bool, tmp_path: Path):
    began = time.monotonic()
    with pytest.raises(NotFetched) as error:
        fetch(server(speak).url, tmp_path / "file", most=1_000_000, seconds=1)
    assert str(error.value).startswith(reason)
    assert error.value.again == again
    assert len(str(error.value).splitlines()) == 1
    assert (tmp_path / "file").stat().st_size <= 1_000_000
    assert time.monotonic() - began < 30


def test_nothing_is_decompressed_on_the_way(server, tmp_path: Path):
    """Or a few kilobytes could fill the disk."""
    bomb = gzip.compress(bytes(50_000_000))
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    fetch(server(saying(head, bomb)).url, tmp_path / "file", most=1_000_000, seconds=30)
    assert (tmp_path / "file").read_bytes() == bomb


@pytest.mark.parametrize("url", ["http://[::1", "http://", "http://host:99999/file", "ftp://host/file"])
def test_what_is_no_url_is_said_to_be_none(url: str, tmp_path: Path):
    with pytest.raises(NotFetched) as error:
        fetch(url, tmp_path / "file", most=1, seconds=5)
    assert not error.value.again
