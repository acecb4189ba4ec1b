"""Transfers, against a server in this process that misbehaves on request."""

import contextlib
import errno
import gzip
import hashlib
import io
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import begin

import datasets
from bench import download

ROOT = Path(__file__).parents[1]
CONTENT = download.HDF5 + np.random.default_rng(0).bytes(5 * download.PIECE + 123)
HALF = 2 * download.PIECE + 7  # bytes that a broken transfer sends; whole pieces of it arrive
KEPT = 2 * download.PIECE
BLOB = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"


# ---- the server: one behaviour a request, the last one for all that follow


class Request(NamedTuple):
    path: str
    range: str | None
    encoding: str


def whole(handler, content=CONTENT):
    """As a good server: the range that is asked for, or everything."""
    wanted = handler.headers.get("Range")
    start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
    if start and start >= len(content):
        handler.answer(416, b"", **{"Content-Range": f"bytes */{len(content)}"})
    elif start:
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        handler.answer(206, content[start:], **{"Content-Range": span})
    else:
        handler.answer(200, content)


def ignores_range(handler):
    handler.answer(200, CONTENT)


def wrong_range(handler):
    handler.answer(206, CONTENT, **{"Content-Range": f"bytes 0-9/{len(CONTENT)}"})


def truncates(handler):
    handler.answer(200, CONTENT[:HALF], length=len(CONTENT))


def stalls(handler):
    handler.answer(200, CONTENT[:HALF], length=len(CONTENT))
    handler.wfile.flush()
    handler.server.release.wait(20)


def corrupts(handler):
    whole(handler, CONTENT[:-1] + b"?")


def no_length(handler):
    handler.answer(200, CONTENT, length=None)


def compresses(*, sent=None):
    """As a server that takes no notice of Accept-Encoding; a range is one of the packed bytes."""

    def behave(handler):
        packed = gzip.compress(CONTENT)
        if wanted := handler.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            span = {"Content-Range": f"bytes {start}-{len(packed) - 1}/{len(packed)}"}
            handler.answer(206, packed[start:], **{"Content-Encoding": "gzip"}, **span)
        else:
            encoding = {"Content-Encoding": "gzip"}
            handler.answer(200, packed[:sent], length=len(packed), **encoding)

    return behave


def status(code):
    return lambda handler: handler.answer(code, b"sorry")


def redirects(handler):
    place = "/elsewhere" + handler.path.removeprefix("/elsewhere")
    handler.answer(302, b"", Location=place)


def redirects_once(handler):
    (whole if handler.path.startswith("/elsewhere") else redirects)(handler)


def sends(content):
    return lambda handler: whole(handler, content)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = Request(self.path, self.headers.get("Range"), self.headers.get("Accept-Encoding"))
        server.requests.append(asked)
        behave = server.script.pop(0) if len(server.script) > 1 else server.script[0]
        behave(self)

    def answer(self, code, body, length=-1, **headers):
        self.send_response(code)
        if length is not None:
            headers["Content-Length"] = len(body) if length == -1 else length
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.server.sent.append(len(body))
        with contextlib.suppress(ConnectionError):  # the client may have had enough
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """`server.url`, `server.script` to set, `server.requests` and `server.sent` to look at."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(download, "TIMEOUT", 10.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.script, server.requests, server.sent = [whole], [], []
        server.release = threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}/base"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Adam's file is CONTENT; Muraro's too, so that several can be fetched."""
    for name in ("Adam", "Muraro"):
        monkeypatch.setitem(datasets.REGISTRY, name, datasets.REGISTRY[name]._replace(blob=BLOB))


@pytest.fixture
def fetch(run_datasets, server):
    """`run_datasets` with the server as the mirror."""
    return lambda *names: run_datasets("fetch", *names, "--mirror", server.url)


@pytest.fixture
def part(adam):
    return adam.with_name("data.h5.part")


def check_fetched(adam, ended, out, err):
    assert (ended, err) == (0, "")
    assert out.startswith("Adam ")
    assert BLOB in out
    assert adam.read_bytes() == CONTENT
    assert [file.name for file in adam.parent.iterdir()] == ["data.h5"]


def check_failed(adam, ended, out, err, *words):
    """Status 1, one sentence with these words, nothing under the final name."""
    assert (ended, out) == (1, "")
    assert err.count("\n") == 1, err
    assert err.startswith("datasets.py: Adam: ")
    for word in words:
        assert word in err
    assert not adam.exists()


# ---- the ids


def test_git_blob_id_is_git_s(tmp_path):
    file = tmp_path / "hello"
    file.write_bytes(b"hello\n")
    assert download.git_blob_id(file) == "ce013625030ba8dba906f756967f9e9ca394464a"
    file.write_bytes(b"")
    assert download.git_blob_id(file) == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


# ---- transfers that go well, at once or in the end


def test_fetch_brings_the_file(fetch, server, adam):
    check_fetched(adam, *fetch("Adam"))
    assert server.requests == [Request("/base/Adam/data.h5", None, "identity")]


def test_fetch_without_a_mirror_asks_the_public_address(run_datasets, server, adam, monkeypatch):
    assert datasets.PUBLIC.startswith("https://raw.githubusercontent.com/xuebaliang/scziDesk/fc71")
    monkeypatch.setattr(datasets, "PUBLIC", server.url)
    check_fetched(adam, *run_datasets("fetch", "Adam"))


def test_a_slash_at_the_end_of_the_mirror_does_not_matter(run_datasets, server, adam):
    check_fetched(adam, *run_datasets("fetch", "Adam", "--mirror", server.url + "/"))
    assert server.requests[0].path == "/base/Adam/data.h5"


def test_a_right_file_is_kept_without_a_request(fetch, server, adam):
    begin(adam, CONTENT)
    ended, out, _ = fetch("Adam", "Adam")
    assert ended == 0
    assert out.count("already there") == 1
    assert not server.requests


@pytest.mark.parametrize("broken", [truncates, stalls])
def test_a_broken_transfer_goes_on_where_it_broke(fetch, server, adam, broken, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 1.0)
    server.script = [broken, whole]
    check_fetched(adam, *fetch("Adam"))
    assert [asked.range for asked in server.requests] == [None, f"bytes={KEPT}-"]
    assert server.sent == [HALF, len(CONTENT) - KEPT]


def test_a_second_run_goes_on_where_the_first_gave_up(fetch, server, adam, part):
    server.script = [truncates]
    check_failed(adam, *fetch("Adam"), "the transfer broke 4 times", "run the command again")
    assert part.read_bytes() == CONTENT[:KEPT]
    server.script, server.requests[:], server.sent[:] = [whole], [], []
    check_fetched(adam, *fetch("Adam"))
    assert [asked.range for asked in server.requests] == [f"bytes={KEPT}-"]
    assert server.sent == [len(CONTENT) - KEPT]


def test_a_server_that_ignores_range_sends_all_of_it(fetch, server, adam, part):
    begin(part, CONTENT[:1000])
    server.script = [ignores_range]
    check_fetched(adam, *fetch("Adam"))
    assert server.requests[0].range == "bytes=1000-"


def test_a_range_that_was_not_asked_for_is_not_appended(fetch, server, adam, part):
    begin(part, CONTENT[:1000])
    server.script = [wrong_range, whole]
    check_fetched(adam, *fetch("Adam"))
    assert [asked.range for asked in server.requests] == ["bytes=1000-", None]
    assert server.sent == [len(CONTENT), len(CONTENT)]


def test_a_wrong_range_is_not_appended_where_no_id_would_tell(fetch, server, tmp_path):
    server.script = [truncates, wrong_range, whole]
    assert fetch("Bach")[0] == 0
    assert (tmp_path / "Bach" / "data.h5").read_bytes() == CONTENT


def test_packed_answers_are_unpacked_and_never_joined(fetch, server, tmp_path):
    server.script = [compresses(sent=HALF), compresses()]
    assert fetch("Bach")[0] == 0
    assert (tmp_path / "Bach" / "data.h5").read_bytes() == CONTENT
    first, second, third = (asked.range for asked in server.requests)
    assert (first, third) == (None, None)
    assert second


def test_a_short_answer_is_noticed_though_the_http_library_did_not(
    fetch, server, adam, monkeypatch
):
    really = download.requests.Response.iter_content

    def lenient(response, size):  # as with urllib3 1
        with contextlib.suppress(download.requests.exceptions.ChunkedEncodingError):
            yield from really(response, size)

    monkeypatch.setattr(download.requests.Response, "iter_content", lenient)
    server.script = [truncates, whole]
    check_fetched(adam, *fetch("Adam"))
    assert [asked.range for asked in server.requests] == [None, f"bytes={KEPT}-"]


def test_a_part_that_is_whole_needs_no_request(fetch, server, adam, part):
    begin(part, CONTENT)
    check_fetched(adam, *fetch("Adam"))
    assert not server.requests


def test_a_part_longer_than_the_file_is_begun_anew(fetch, server, adam, part):
    begin(part, CONTENT + b"more")
    check_fetched(adam, *fetch("Adam"))
    assert [asked.range for asked in server.requests] == [f"bytes={len(CONTENT) + 4}-", None]


def test_a_part_of_something_else_is_begun_anew(fetch, server, adam, part):
    begin(part, b"x" * 1000)
    check_fetched(adam, *fetch("Adam"))
    assert [asked.range for asked in server.requests] == ["bytes=1000-", None]


def test_redirects_are_followed_with_the_range(fetch, server, adam, part):
    begin(part, CONTENT[:1000])
    server.script = [redirects_once]
    check_fetched(adam, *fetch("Adam"))
    assert [asked.path for asked in server.requests] == [
        "/base/Adam/data.h5",
        "/elsewhere/base/Adam/data.h5",
    ]
    assert {asked.range for asked in server.requests} == {"bytes=1000-"}


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again(fetch, server, adam, code):
    server.script = [status(code), status(code), whole]
    check_fetched(adam, *fetch("Adam"))
    assert len(server.requests) == 3


def test_a_length_is_not_needed(fetch, server, adam):
    server.script = [no_length]
    check_fetched(adam, *fetch("Adam"))


def test_attempts_wait_longer_each_time(fetch, server, monkeypatch):
    waits = []
    monkeypatch.setattr(download, "PAUSES", (1.0, 2.0, 4.0))
    monkeypatch.setattr(download.time, "sleep", waits.append)
    server.script = [status(500)]
    fetch("Adam")
    assert waits == [0, 1, 2, 4]


# ---- transfers that fail


def test_not_found_is_said_at_once(fetch, server, adam, tmp_path):
    server.script = [status(404)]
    check_failed(adam, *fetch("Adam"), f"{server.url}/Adam/data.h5", "404 Not Found")
    assert len(server.requests) == 1
    assert not [*tmp_path.iterdir()]  # neither an empty folder nor an empty file


def test_a_server_that_stays_in_trouble(fetch, server, adam):
    server.script = [status(500)]
    check_failed(adam, *fetch("Adam"), "broke 4 times", "500")
    assert len(server.requests) == 4


def test_a_server_that_only_stalls_says_so(fetch, server, adam, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    server.script = [stalls]
    check_failed(adam, *fetch("Adam"), "broke 4 times", "Read timed out")


def test_a_server_that_refuses_every_range(fetch, server, adam, part):
    begin(part, CONTENT[:1000])
    server.script = [status(416)]
    check_failed(adam, *fetch("Adam"), "416")
    assert [asked.range for asked in server.requests] == ["bytes=1000-", None, None, None]


def test_redirects_without_end(fetch, server, adam):
    server.script = [redirects]
    check_failed(adam, *fetch("Adam"), f"{server.url}/Adam/data.h5: Exceeded 30 redirects")


@pytest.mark.parametrize("begun", [b"", CONTENT[:1000]])
def test_wrong_content_leaves_nothing(fetch, server, adam, part, begun):
    begin(part, begun)
    server.script = [corrupts]
    check_failed(adam, *fetch("Adam"), "git blob id", f"not {BLOB}", "not kept")
    assert not part.parent.exists()
    assert len(server.requests) == (2 if begun else 1)


def test_a_git_lfs_pointer_is_called_one_even_if_the_id_is_its(fetch, server, adam, monkeypatch):
    id_ = hashlib.sha1(b"blob %d\0" % len(POINTER) + POINTER).hexdigest()
    known = datasets.REGISTRY["Adam"]._replace(blob=id_)
    monkeypatch.setitem(datasets.REGISTRY, "Adam", known)
    server.script = [sends(POINTER)]
    check_failed(adam, *fetch("Adam"), "git-LFS pointer")


def test_no_network(run_datasets, adam, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download.time, "sleep", lambda pause: pytest.fail("waited") if pause else 0)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, and nobody listens
        base = f"http://127.0.0.1:{closed.getsockname()[1]}"
        outcome = run_datasets("fetch", "Adam", "--mirror", base)
    check_failed(adam, *outcome, "cannot be reached", "Connection refused", "check the network")
    assert not [*tmp_path.iterdir()]


def test_no_network_keeps_what_has_arrived(run_datasets, adam, part, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    begin(part, CONTENT[:1000])
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{closed.getsockname()[1]}"
        check_failed(adam, *run_datasets("fetch", "Adam", "--mirror", base), "cannot be reached")
    assert part.read_bytes() == CONTENT[:1000]


def test_a_server_without_tls(run_datasets, server, adam):
    base = server.url.replace("http:", "https:")
    check_failed(adam, *run_datasets("fetch", "Adam", "--mirror", base), "cannot be reached", "SSL")


class Full(io.BufferedRandom):
    """A file on a disk with room for three pieces."""

    def write(self, data):
        if self.tell() + len(data) > 3 * download.PIECE:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_a_full_disk_keeps_what_has_arrived(fetch, server, adam, part, monkeypatch):
    really = Path.open

    def open_(path, mode="r", **options):
        small = path == part and "a" in mode
        return Full(io.FileIO(path, "a+")) if small else really(path, mode, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_)
        check_failed(adam, *fetch("Adam"), "No space left on device", "make room")
    assert part.read_bytes() == CONTENT[: 3 * download.PIECE]
    assert len(server.requests) == 1
    check_fetched(adam, *fetch("Adam"))
    assert server.requests[-1].range == f"bytes={3 * download.PIECE}-"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk always full")
def test_a_disk_that_is_full_when_the_buffer_is_written(fetch, adam, part):
    part.parent.mkdir()
    part.symlink_to("/dev/full")
    check_failed(adam, *fetch("Adam"), "No space left on device", "make room")


def test_a_folder_that_cannot_be_made(fetch, tmp_path, adam):
    adam.parent.write_bytes(b"a file where the folder should be")
    ended, _, err = fetch("Adam")
    assert ended == 1
    assert err.count("\n") == 1
    assert str(adam) in err or str(adam.parent) in err


def test_another_file_is_never_overwritten(fetch, server, adam):
    begin(adam, b"mine")
    ended, out, err = fetch("Adam")
    assert (ended, out) == (1, "")
    assert "other content" in err
    assert "move it away" in err
    assert adam.read_bytes() == b"mine"
    assert not server.requests


def test_two_fetches_of_one_file_do_not_mix(fetch, server, adam, part):
    begin(part, CONTENT[:1000])
    with part.open("a+b") as other:
        download.fcntl.flock(other, download.fcntl.LOCK_EX)
        check_failed(adam, *fetch("Adam"), "another process")
    assert part.read_bytes() == CONTENT[:1000]
    assert not server.requests
    check_fetched(adam, *fetch("Adam"))


def test_the_others_are_fetched_though_one_fails(fetch, server, adam, tmp_path):
    server.script = [status(404), whole, status(404)]
    ended, out, err = fetch("Adam", "Muraro", "Klein")
    assert ended == 1
    assert out.startswith("Muraro ")
    assert err.splitlines()[-1] == "datasets.py: 2 of 3 failed: Adam, Klein"
    assert err.count("\n") == 3
    assert (tmp_path / "Muraro" / "data.h5").read_bytes() == CONTENT


def test_an_interrupted_fetch_keeps_what_has_arrived(server, tmp_path, adam, part):
    server.script = [stalls]
    program = [sys.executable, "datasets.py", "fetch", "Adam", "--mirror", server.url]
    with subprocess.Popen(
        [*program, "--data_dir", str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 10
        while not (part.exists() and part.stat().st_size == KEPT) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=10)[1]
    assert process.returncode == 130
    assert err == (
        "datasets.py: interrupted; what has arrived is kept, and the same command goes on from "
        "there\n"
    )
    assert part.read_bytes() == CONTENT[:KEPT]
    assert not adam.exists()


# ---- files without a public address or id


def test_a_file_without_address_says_where_it_is_and_goes(run_datasets, tmp_path):
    ended, out, err = run_datasets("fetch", "Bach")
    assert (ended, out) == (1, "")
    for word in ("7475687", str(tmp_path / "Bach" / "data.h5"), "verify Bach"):
        assert word in err
    assert not [*tmp_path.iterdir()]


def test_fetch_all_lists_them_and_succeeds(run_datasets, server, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "PUBLIC", server.url)
    for name in datasets._BLOBS:
        known = datasets.REGISTRY[name]._replace(blob=BLOB)
        monkeypatch.setitem(datasets.REGISTRY, name, known)
    begin(tmp_path / "Klein" / "data.h5", b"placed by hand")
    ended, out, err = run_datasets("fetch", "all")
    assert (ended, err) == (0, "")
    assert out.count("fetched") == len(server.requests) == 11
    assert re.search(r"^Klein +already there, no id is known", out, re.MULTILINE)
    listed = "Bach, Plasschaert, Pollen, Quake_10x_Trachea, Quake_Smart-seq2_Heart, Wang_Lung:"
    assert f"No public address is known of {listed}" in out
    ended, out, err = run_datasets("fetch", "all")
    assert ended == 0
    assert out.count("already there") == 12


def test_a_mirror_brings_them_from_the_start_and_only_as_hdf5(fetch, server, tmp_path):
    bach = tmp_path / "Bach" / "data.h5"
    begin(bach.with_name("data.h5.part"), CONTENT[:1000])  # of another mirror, perhaps
    server.script = [truncates, whole]
    ended, out, _ = fetch("Bach")
    assert ended == 0
    assert "no id is known" in out
    assert bach.read_bytes() == CONTENT
    assert [asked.range for asked in server.requests] == [None, f"bytes={KEPT}-"]
    server.script = [sends(b"<html>log in first</html>")]
    ended, _, err = fetch("Klein")
    assert ended == 1
    assert "is not an HDF5 file" in err
    assert not (tmp_path / "Klein").exists()
