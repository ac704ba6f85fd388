"""One recording over HTTP: over as many connections as it takes, and with no byte of another file.

What a cut connection has brought is kept. The next one asks for the rest, and goes on only if the
reply is the same file from that very byte: by a strong entity tag or date that both replies have
(RFC 9110, 8.8 and 13.1.5), and by the file's length. Any other reply starts from the first byte.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from datetime import UTC, datetime, timedelta
from email.utils import formatdate, parsedate_to_datetime
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import aiohttp
from yarl import URL

from qmc_async.audio_format import HEAD, claimed_length, is_refused, recognise
from qmc_async.numbers import mask_in_text
from qmc_async.recording_address import ForbiddenAddressError
from qmc_async.retry import LONGEST_WAIT, back_off, parse_retry_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmc_async.models import Recording

__all__ = ["Progress", "SessionFor", "Transfer", "TransferError"]

logger = logging.getLogger(__name__)

Progress: TypeAlias = "Callable[[int, int | None], object]"
"""Called with the bytes written so far and the bytes expected, None where that is not known.

After a cut it counts on; it starts again from nothing only where the server could do no better.
"""

SessionFor: TypeAlias = "Callable[[URL], aiohttp.ClientSession]"
"""The session for an address: without ``Authorization``, and let out to allowed hosts only."""

_PIECE = 256 * 1024
# By so many bytes a WAV file may be shorter than it says: its head is not counted, and an odd byte
# padded, but some recorders do it the other way round. It is half a millisecond of sound.
_MISCOUNTED = 8
_LONGEST_TYPE = 60  # characters
_NO_ADDRESS = "its address is no address of the web"
_MOST_REDIRECTS = 5
_OK, _PARTIAL, _NOT_THAT_RANGE = 200, 206, 416
_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", re.ASCII)
# An address that can be sent as it is. It often is signed, and a signature is of its very text.
_READY = re.compile(r"(?:[\w!#$&'()*+,./:;=?@\[\]~-]|%[0-9A-Fa-f]{2})*", re.ASCII)


class TransferError(Exception):
    """The file did not come.

    Attributes:
        why: without the address: who has that can listen.
        temporary: whether it may be there later.
        again: whether it is worth trying again at once.
        retry_after: seconds that the server asks us to wait, None where it does not say.
    """

    def __init__(
        self,
        why: str,
        *,
        temporary: bool = True,
        again: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(why)
        self.why = why
        self.temporary = temporary
        self.again = again
        self.retry_after = retry_after


class Transfer:
    """Fetches one recording into a file.

    Args:
        file: open for writing, and empty.
        session_for: see `SessionFor`.
        recording: what is to be fetched.
        timeout: seconds to wait for a connection, and for each piece.
        max_bytes: how long the file may be.
        on_progress: see `Progress`.

    Attributes:
        written: how many bytes are in the file.
        format: what it is, once it is known; see `recognise`.
    """

    def __init__(
        self,
        file: BinaryIO,
        session_for: SessionFor,
        recording: Recording,
        *,
        timeout: float,
        max_bytes: int,
        on_progress: Progress | None = None,
    ) -> None:
        self._file = file
        self._session_for = session_for
        self._recording = recording
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout)
        self._max_bytes = max_bytes
        self._on_progress = on_progress
        self._furthest = 0
        self._start_over()

    @property
    def sha256(self) -> str:
        """Of what is in the file, in lower-case hex."""
        return self._digest.hexdigest()

    async def run(self, max_retries: int) -> None:
        """Fetch all of it.

        Args:
            max_retries: how often in a row an attempt may bring nothing new.

        Raises:
            TransferError: it is not whole, or no recording.
            OSError: it cannot be written.
        """
        failures = furthest = 0
        while True:
            try:
                await self._attempt()
            except TransferError as error:
                failures = failures + 1 if self._furthest <= furthest else 1
                furthest = self._furthest
                if not error.again or failures > max_retries:
                    raise
                wait = back_off(failures, error.retry_after)
                logger.info(
                    "the recording of call %s: %s after %d bytes; trying again in %.2f s",
                    self._recording.call_id,
                    error.why,
                    self.written,
                    wait,
                )
            else:
                return
            await asyncio.sleep(wait)

    def _start_over(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._digest = hashlib.sha256()
        self._head = b""
        self.written = 0
        self.format = ""
        self._expected: int | None = None
        self._marks: dict[str, str] = {}
        self._validator = ""

    async def _attempt(self) -> None:
        if not self._validator:
            self._start_over()  # nothing could tell whether the rest is the rest of this file
        response = await self._open()
        try:
            if self.written and not self._goes_on(response):
                response.close()
                self._start_over()
                response = await self._open()
            self._accept(response)
            await self._receive(response)
            self._check_whole(response)
        finally:
            response.close()

    async def _open(self) -> aiohttp.ClientResponse:
        """Ask for what is not there yet, through redirects."""
        headers = {"Accept-Encoding": "identity"}
        if self.written:
            headers["Range"] = f"bytes={self.written}-"
            headers["If-Range"] = self._validator
        location, base = self._recording.file_url, URL()
        for _ in range(_MOST_REDIRECTS + 1):
            base = _join(base, location)
            response = await self._get(base, headers)
            if response.status not in _REDIRECTS:
                return response
            location = response.headers.get("Location", "")
            response.release()
            if not location:
                raise TransferError("its address redirects, and does not say where to")
        raise TransferError(f"its address redirects more than {_MOST_REDIRECTS} times")

    async def _get(self, url: URL, headers: dict[str, str]) -> aiohttp.ClientResponse:
        session = self._session_for(url)
        try:
            return await session.get(
                url,
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,  # each address is to be looked at
                auto_decompress=False,
            )
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            problem = _broke(error)
        raise problem  # here, so that it does not hold the error, which holds the address

    def _goes_on(self, response: aiohttp.ClientResponse) -> bool:
        """Whether a reply may be used where a part of the file is there already.

        It may not where it is the rest of another file, or of this one from another byte on.
        """
        if response.status == _OK:
            return _is_whole(response)
        if response.status != _PARTIAL:
            return response.status != _NOT_THAT_RANGE
        part = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if part is None or int(part[1]) != self.written:
            return False
        marks = _marks_of(response)
        # Not every host heeds If-Range: the reply must show itself what it is a part of.
        if self._validator not in marks.values() or any(
            marks[name] != self._marks[name] for name in marks.keys() & self._marks.keys()
        ):
            return False
        total = int(part[2])
        if self._expected is None:
            self._expected = total
        return self._expected == total

    def _accept(self, response: aiohttp.ClientResponse) -> None:
        """Look at the head of a reply before anything of it is written."""
        status = response.status
        if status == _OK:
            if not _is_whole(response):
                raise TransferError("its address leads to a part of it")
            self._start_over()  # also where the rest was asked for
            self._expected = response.content_length
            self._marks = _marks_of(response)
            self._validator = _validator_of(response)
        elif status != _PARTIAL or not self.written:
            wait = parse_retry_after(response.headers.get("Retry-After", ""), time.time())
            raise TransferError(
                f"its address answered HTTP {status}",
                again=status in _PASSING and (wait or 0) <= LONGEST_WAIT,
                retry_after=wait,
            )
        if is_refused(response.content_type):
            kind = mask_in_text(response.content_type)[:_LONGEST_TYPE]
            raise TransferError(f"its address leads to {kind}, not to audio")
        if any(
            each.lower() != "identity" for each in response.headers.getall("Content-Encoding", [])
        ):
            raise TransferError("it came compressed, without being asked to")
        self._check_size(self._expected or 0)

    async def _receive(self, response: aiohttp.ClientResponse) -> None:
        pieces = aiter(response.content.iter_chunked(_PIECE))
        while True:
            piece, problem = b"", None
            try:
                # aiohttp tells who reads nothing of a malformed chunk, or that by RuntimeError.
                async with asyncio.timeout(self._timeout.sock_read):
                    piece = await anext(pieces, b"")
            except (aiohttp.ClientError, TimeoutError, RuntimeError) as error:
                problem = _broke(error)
            if problem is not None:
                raise problem
            self._look_at(piece, response.content_type)
            if not piece:
                return
            self._check_size(self.written + len(piece))
            await asyncio.to_thread(self._write, piece)
            self.written += len(piece)
            self._furthest = max(self._furthest, self.written)
            if self._on_progress is not None:
                self._on_progress(self.written, self._expected)

    def _look_at(self, piece: bytes, content_type: str) -> None:
        """Recognise the file once enough of it is there, which is empty at its end."""
        if self.format:
            return
        self._head += piece[: HEAD - len(self._head)]
        if self._head and (len(self._head) == HEAD or not piece):
            self.format = recognise(self._head, content_type)
            if not self.format:
                raise TransferError("its address leads to a text or an unknown file, not to audio")

    def _check_size(self, length: int) -> None:
        if length > self._max_bytes:
            raise TransferError(
                f"it is longer than {self._max_bytes} bytes (max_bytes)", temporary=False
            )

    def _write(self, piece: bytes) -> None:
        self._file.write(piece)
        self._digest.update(piece)

    def _check_whole(self, response: aiohttp.ClientResponse) -> None:
        if not self.written:
            raise TransferError("the file is empty")
        claimed = claimed_length(self._head)
        if self._expected is not None:
            if self.written > self._expected:
                self._start_over()
            if self.written != self._expected:
                raise TransferError("it has another length than the server said", again=True)
        elif response.headers.get("Transfer-Encoding", "").lower() != "chunked" and (
            claimed is None or not claimed <= self.written <= claimed + 1
        ):
            # The connection's end is the file's end, or was cut: only a WAV file tells which.
            # Where that is longer than it says, by more than padding, it says nothing.
            raise TransferError(
                "its length was not given, so that nobody can tell whether it is whole", again=True
            )
        if claimed is not None and self.written + _MISCOUNTED < claimed:
            raise TransferError("it is shorter than it says itself: it may still be being written")


def _join(base: URL, location: str) -> URL:
    try:
        url = base.join(URL(location, encoded=_READY.fullmatch(location) is not None))
        # Of a port that is no number, it is the reading that raises.
        known = url.scheme in {"http", "https"} and bool(url.raw_host) and url.port is not None
    except ValueError:
        url, known = URL(), False
    if not known:
        raise TransferError(_NO_ADDRESS)
    return url


def _is_whole(response: aiohttp.ClientResponse) -> bool:
    """Whether a reply that says 200 has all of the file: some hosts say so of a part."""
    if "Content-Range" not in response.headers:
        return True
    part = _RANGE.fullmatch(response.headers["Content-Range"])
    return part is not None and int(part[1]) == 0 and int(part[2]) == response.content_length


def _marks_of(response: aiohttp.ClientResponse) -> dict[str, str]:
    """What tells this file from a later one under the same address."""
    return {
        name: response.headers[name]
        for name in ("ETag", "Last-Modified")
        if name in response.headers
    }


def _validator_of(response: aiohttp.ClientResponse) -> str:
    """What the rest of this very file can be asked for with (RFC 9110, 8.8); empty if nothing is.

    A weak tag promises the same sound, not the same bytes; so does a date within the second in
    which the file may have been written once more.
    """
    tag = response.headers.get("ETag", "")
    if tag.startswith('"'):
        return tag
    modified = response.headers.get("Last-Modified", "")
    now = response.headers.get("Date", "") or formatdate(usegmt=True)
    try:
        age = _to_time(now) - _to_time(modified)
    except (ValueError, OverflowError):
        return ""
    return modified if age >= timedelta(seconds=1) else ""


def _to_time(date: str) -> datetime:
    parsed = parsedate_to_datetime(date)
    return parsed.replace(tzinfo=parsed.tzinfo or UTC)  # HTTP has no other zone


def _broke(error: BaseException) -> TransferError:
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(
        error.os_error, ForbiddenAddressError
    ):
        return TransferError(
            f"its address leads to {error.os_error.address}, where no recording belongs; if yours "
            "are there, allow it by recording_networks (QMC_RECORDING_NETWORKS)",
            temporary=False,
        )
    if isinstance(error, aiohttp.InvalidURL):  # such as a spelling that only the system takes
        return TransferError(_NO_ADDRESS)
    # The message quotes the address; the class's name says enough.
    return TransferError(f"the transfer broke ({type(error).__name__})", again=True)
