"""Files from elsewhere, resumed where they were cut off: URLs with checksums, hub repositories at revisions.

url, sha256 ──▶ STILLROOM_CACHE/downloads/SHA256 ──▶ the file   (partial until the checksum is right)
repository, revision ──▶ the hub's own cache ──▶ its folder
"""

from __future__ import annotations

import errno
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path

import platformdirs

from stillroom.artifacts import sha256
from stillroom.errors import DownloadError

CHUNK = 1 << 20
TRIES = 4
"""connections that end without a new byte before a download is given up"""
TIMEOUT = 60.0


def downloads() -> Path:
    """Where downloads are kept, complete or not, so that the next run goes on."""
    folder = os.environ.get("STILLROOM_CACHE") or platformdirs.user_cache_dir("stillroom")
    return Path(folder) / "downloads"


def download(url: str, checksum: str, progress: Callable[[int], None], hint: str) -> Path:
    """The path of the file behind a URL, once its SHA-256 is `checksum`.

    progress: gets the number of each batch of new bytes.  hint: what to do without a network.
    Raises DownloadError where the URL cannot be read or the content is another.
    """
    target = downloads() / checksum
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    failures = 0
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        try:
            _go_on(url, partial, before, progress)
            break
        except (OSError, HTTPException) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            status = error.code if isinstance(error, urllib.error.HTTPError) else 0
            failures = 1 if partial.exists() and partial.stat().st_size > before else failures + 1
            if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR or failures >= TRIES:
                raise DownloadError(f"cannot be downloaded ({error})", where=url, hint=hint) from None
            time.sleep(0.1 * 2**failures)
    found = sha256(partial)
    if found != checksum:
        partial.unlink()
        what = f"the content's SHA-256 is {found}, expected {checksum}"
        raise DownloadError(
            what, where=url, hint="the file behind the URL changed, or sha256 in params is wrong"
        )
    partial.replace(target)
    return target


def hub_folder(repository: str, revision: str, kind: str, files: list[str], hint: str) -> Path:
    """The folder of a hub repository at a revision, with the files that match the globs.

    Raises DownloadError where it cannot be reached or has no such repository, revision or files.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            repository, repo_type=kind, revision=revision, allow_patterns=files or None
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        where = f"{kind} {repository} at {revision}"
        raise DownloadError(f"cannot be downloaded from the hub ({reason})", where=where, hint=hint) from None
    return Path(folder)


def _go_on(url: str, partial: Path, start: int, progress: Callable[[int], None]) -> None:
    """Append what follows byte `start`; begin anew where the server cannot resume."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is left to read: the checksum decides
        raise
    with response, partial.open("ab" if response.status == HTTPStatus.PARTIAL_CONTENT else "wb") as file:
        expected = response.length
        received = 0
        while chunk := response.read(CHUNK):
            file.write(chunk)
            progress(len(chunk))
            received += len(chunk)
    if expected is not None and received < expected:
        raise HTTPException(f"the connection ended after {start + received} bytes")
