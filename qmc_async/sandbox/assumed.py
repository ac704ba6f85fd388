"""What the platform's document does not say: one setting for each guess.

Whoever learns how the platform really behaves changes a default here, and the tests of everything
else show what that breaks.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, TypeAlias

from attrs import frozen

from qmc_async.models import Reason
from qmc_async.numbers import NumberMode

__all__ = ["AbsentFields", "Assumed"]

AbsentFields: TypeAlias = Literal["missing", "empty", "null", "zero"]
"""No key at all, ``""``, ``null`` or ``"0"``."""


@frozen(kw_only=True)
class Assumed:
    """Every behaviour of the sandbox that the document does not describe. All of it is assumed."""

    code_unauthorized: int = 401
    """Assumed: the envelope's ``code`` when ``Authorization`` is missing, wrong or too old (2)."""

    code_bad_request: int = 400
    """Assumed: the ``code`` when the body is no JSON object, or lacks a required parameter."""

    code_bad_number: int = 40001
    """Assumed: the ``code`` of a call whose ``caller`` or ``callee`` cannot be dialled (3.1)."""

    code_bad_out_call_id: int = 40002
    """Assumed: the ``code`` of a call whose ``outCallId`` is no text of 64 characters (3.1)."""

    code_unknown_call: int = 404
    """Assumed: the ``code`` of endCall and record for a ``callidentifier`` that was never given."""

    code_call_ended: int = 40901
    """Assumed: the ``code`` of endCall for a call that has ended (3.4); 200 makes it a success."""

    code_recording_not_ready: int = 40902
    """Assumed: the ``code`` of record while the call goes on or its file is being written (3.3)."""

    code_no_recording: int = 40401
    """Assumed: the ``code`` of record for a call that was not recorded (3.3)."""

    code_recording_expired: int = 40402
    """Assumed: the ``code`` of record when three days have passed (3.3)."""

    http_status_of_errors: int = 200
    """Assumed: the HTTP status under which an error ``code`` comes."""

    http_status_of_refusals: int = 200
    """Assumed: the same, where ``Authorization`` is refused."""

    content_type_checked: bool = True
    """Assumed: a request without the documented ``application/json`` is a bad request."""

    keep_alive: bool = False
    """Assumed: whether connections stay open; the document's examples say ``Connection: close``."""

    date_header: bool = True
    """Assumed: whether replies carry ``Date``."""

    clock_skew: timedelta = timedelta(0)
    """Assumed: how far the platform's clock is ahead of this machine's.

    It moves the check of ``Authorization`` and the ``Date`` header. The times of calls come from
    the sandbox's own clock.
    """

    numbers: NumberMode = "strict"
    """Assumed: which numbers are taken, as `qmc_async.numbers.normalise` understands them."""

    landlines: bool = True
    """Assumed: whether numbers other than mobile numbers are taken."""

    country_code: bool = True
    """Assumed: whether a number may begin with +86 or 0086."""

    absent_fields: AbsentFields = "missing"
    """Assumed: how the notification leaves out a conditional field (3.2)."""

    zero_duration: bool = False
    """Assumed: whether ``callDuration`` is ``"0"``, not absent, for a call never connected."""

    notification_authorization: bool = False
    """Assumed: whether the notification is signed with the application's credentials."""

    patience: timedelta = timedelta(seconds=5)
    """Assumed: how long the platform waits for the notification's answer, in real time."""

    reason_of_deletion: Reason = Reason.OTHER
    """Assumed: the ``reason`` when endCall comes before both parties are connected.

    For a connected call the document says HangUp.
    """

    recording_delay: timedelta = timedelta(seconds=10)
    """Assumed: how long after the call its recording can be had, in simulated time."""
