"""`diagnose`: what is wrong, told before a customer does.

Nothing is changed anywhere, no call is placed and none is ended: the one signed request asks for
the recording (3.3) of a call that does not exist.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from qmc_async.doctor.address import Address, examine_address
from qmc_async.doctor.finding import Finding, Status, skipped
from qmc_async.doctor.platform import examine_platform
from qmc_async.doctor.storage import examine_store
from qmc_async.errors import ConfigError
from qmc_async.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Finding", "Status", "diagnose"]

_NEED_SETTINGS: Final = (
    *("base_url", "record_base_url", "clock", "signature"),
    *("callback", "callback_address"),
)


async def diagnose(
    store: str | None = None,
    *,
    callback_url: str | None = None,
    public_url: str | None = None,
    archive_handler: str = "archive",
    timeout: float = 5.0,  # noqa: ASYNC109 - of each check: the others go on
) -> Sequence[Finding]:
    """Look at the settings (``QMC_*``), the platform, the callback address and the store.

    No finding has a secret, a whole telephone number, or the token of the callback address in it.

    Args:
        store: its URL; by default ``QMC_STORE``, then ``sqlite:///qmc.db``.
        callback_url: the whole address that the platform's console has, as `CallbackServer.url`
            says it.
        public_url: instead of it, the same as the `CallbackServer` has; it must have the default
            `path`.
        archive_handler: under which name recordings are archived.
        timeout: seconds for one check. They go on at the same time.

    Returns:
        Always the same checks in the same order.
    """
    try:
        settings = Settings.load()
    except ConfigError as error:
        advice = "correct it, for the servers as well"
        loaded = Finding("settings", Status.FAILED, str(error), advice)
    else:
        app_id = settings.credentials.app_id
        loaded = Finding("settings", Status.OK, f"APPID {app_id}; the secret has the right form")
        platform, callback, kept = await asyncio.gather(
            examine_platform(settings, timeout),
            examine_address(settings, Address(callback_url, public_url), timeout),
            examine_store(store, archive_handler, timeout),
        )
        return [loaded, *platform, *callback, *kept]
    need_them = [skipped(name, "the settings are wrong") for name in _NEED_SETTINGS]
    return [loaded, *need_them, *await examine_store(store, archive_handler, timeout)]
