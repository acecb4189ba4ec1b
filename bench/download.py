"""Download of files over a bad network: a file arrives whole and checked, or not at all.

A git blob id, the SHA-1 of b"blob <size>\\0" and the content, identifies the exact bytes of a file.
No file gets its final name before it agrees with its id.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from utils import CommandError

TIMEOUT = 30.0  # seconds to wait for a connection, and for the next byte
PAUSES = (1.0, 2.0, 4.0)  # seconds before each further attempt at a broken transfer
PIECE = 2**16  # bytes; a transfer that breaks loses up to one piece
LFS_POINTER = b"version https://git-lfs"
HDF5 = b"\x89HDF\r\n\x1a\n"


class FetchError(CommandError):
    """A file was not fetched."""


class _Broken(Exception):
    """A transfer ended early in a way that another attempt may not."""


def git_blob_id(path: Path) -> str:
    """Return git's id of a file's content, 40 hexadecimal digits."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def bring(url: str, target: Path, *, blob: str | None) -> None:
    """Download a file and check it.

    Parameters
    ----------
    url
        Address of the file.
    target
        Path that the file gets when it is whole and right. Until then its beginning is kept as
        TARGET.part, from where a later call goes on; without a blob id it starts anew.
    blob
        The git blob id that the file must have; None if it is not known, so that only the signature
        of HDF5 is checked.

    Raises
    ------
    FetchError
        If the server or the network does not give the file, if its content is wrong, or if another
        process is fetching it.
    OSError
        If it cannot be written: the disk is full, for example.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with part.open("a+b") as file:
        _lock(file, target)
        try:
            if blob is None:  # two halves of different copies would go unnoticed
                file.truncate(0)
            _complete(file, part, blob, url)
            os.replace(part, target)
        finally:
            with contextlib.suppress(OSError):
                if file.seek(0, os.SEEK_END) == 0:
                    part.unlink()
                    target.parent.rmdir()


def _lock(file: BinaryIO, target: Path) -> None:
    """Lock the partial file, where the file system has locks.

    Raises FetchError if another process has locked it, or has just brought the file.
    """
    busy = False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        busy = True
    except OSError:
        pass
    if busy or target.exists():
        raise FetchError(f"another process is fetching {target}: wait for it, or end it")


def _complete(file: BinaryIO, part: Path, blob: str | None, url: str) -> None:
    """Download what the partial file lacks, and all of it again if the whole is wrong then.

    Raises FetchError if it is wrong still, or cannot be downloaded.
    """
    resumed = file.seek(0, os.SEEK_END) > 0
    if resumed and not _fault(part, blob):
        return
    _download(url, file)
    fault = _fault(part, blob)
    if fault and resumed:
        file.truncate(0)
        _download(url, file)
        fault = _fault(part, blob)
    if fault:
        file.truncate(0)
        raise FetchError(f"{url}: what arrived {fault}, so it was not kept")


def _fault(part: Path, blob: str | None) -> str | None:
    """Return why a file is not the one of the blob id, in words; None if it is."""
    with part.open("rb") as file:
        start = file.read(len(LFS_POINTER))
    if start == LFS_POINTER:  # its blob id can be the expected one: the id may be the pointer's
        return "is a git-LFS pointer, a note of where the data lie instead of the data"
    if blob is None:
        return None if start.startswith(HDF5) else "is not an HDF5 file"
    part_blob = git_blob_id(part)
    return None if part_blob == blob else f"has the git blob id {part_blob}, not {blob}"


def _download(url: str, file: BinaryIO) -> None:
    """Append what the file lacks, in several attempts if transfers break.

    Raises FetchError if each attempt breaks, or if another attempt cannot help.
    """
    for attempt, pause in enumerate((0.0, *PAUSES)):
        time.sleep(pause)
        try:
            _transfer(url, file)
            return
        except _Broken as error:
            reason = str(error)
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
            requests.exceptions.ContentDecodingError,
        ) as error:
            inner = error.args[0] if error.args else error
            reason = _words(getattr(inner, "reason", inner))
            if attempt == 0 and hasattr(inner, "reason"):  # there was no connection at all
                host = urlsplit(url).netloc
                raise FetchError(
                    f"{host} cannot be reached ({reason}): check the network and the address"
                ) from None
        except requests.RequestException as error:
            raise FetchError(f"{url}: {_words(error)}") from None
    raise FetchError(
        f"{url}: the transfer broke {1 + len(PAUSES)} times ({reason}): run the command again, it "
        "goes on from what has arrived"
    )


def _words(error: object) -> str:
    """Return the sentence in an exception of urllib3, without the description of its object."""
    args = getattr(error, "args", ())
    text = args[0] if args and isinstance(args[0], str) else str(error)
    return text.split("): ", 1)[-1].strip().rstrip(".")


def _transfer(url: str, file: BinaryIO) -> None:
    """Append what the file lacks in one attempt.

    Raises _Broken, FetchError, or an exception of `requests`.
    """
    start = file.seek(0, os.SEEK_END)
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        start = _checked_start(response, url, file, start)
        length = response.headers.get("Content-Length", "")
        is_plain = length.isdigit() and "Content-Encoding" not in response.headers
        total = start + int(length) if is_plain else None
        name = url.split("/")[-2]
        with tqdm(
            desc=name, total=total, initial=start, unit="B", unit_scale=True, disable=None
        ) as bar:
            for piece in response.iter_content(PIECE):
                file.write(piece)
                bar.update(len(piece))
        file.flush()
        if total is not None and (arrived := file.seek(0, os.SEEK_END)) != total:
            raise _Broken(f"{arrived} of {total} bytes arrived")


def _checked_start(response: requests.Response, url: str, file: BinaryIO, start: int) -> int:
    """Check the server's answer, and empty the file if what follows is not its continuation.

    Parameters
    ----------
    response
        The answer to a request for all bytes from `start` on.
    url, file
        The address, and the partial file.
    start
        The size of the partial file in bytes.

    Returns
    -------
    The number of the byte with which the answer's content starts: `start` or 0.

    Raises
    ------
    _Broken
        If another attempt may have a better answer.
    FetchError
        If it cannot.
    """
    status, answer = response.status_code, response.headers
    message = f"the server answers {status} {response.reason}"
    goes_on = (
        status == 206
        and answer.get("Content-Range", "").startswith(f"bytes {start}-")
        and "Content-Encoding" not in answer
    )
    if status == 416 or (status == 206 and not goes_on):
        file.truncate(0)  # so the next attempt asks for all of it
        raise _Broken(f"{message} to a request for the rest")
    if status == 429 or status >= 500:
        raise _Broken(message)
    if status not in (200, 206):
        raise FetchError(f"{url}: {message}: check the address")
    if status == 200 and start:  # the server sends all of it, though only the rest was asked for
        file.truncate(0)
        return 0
    return start
