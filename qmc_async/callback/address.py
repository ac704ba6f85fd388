"""The address of a callback server: where it listens, and what is entered on the console (3.2)."""

from __future__ import annotations

import re
from typing import Final

from attrs import field, frozen

from qmc_async.callback.health import HEALTHZ, READYZ
from qmc_async.errors import ConfigError
from qmc_async.settings import whole_url

__all__ = ["CallbackAddress"]

_LAST_PORT: Final = 65535
# Clients rewrite other characters, and dot segments, and then never find the address.
_PATH: Final = re.compile(r"(?!.*/\.{1,2}(?:/|$))/[A-Za-z0-9._~:@/-]*")


@frozen
class CallbackAddress:
    """Where notifications are taken.

    Attributes:
        host: the address to listen on.
        path: where notifications are taken, with the token. Secret.
        public_url: what stands before it as outsiders see it.
    """

    host: str
    path: str = field(repr=False)
    public_url: str | None

    @classmethod
    def read(
        cls, host: str, port: int, path: str, token: str, public_url: str | None
    ) -> CallbackAddress:
        """Check what `CallbackServer` is given.

        Raises:
            ConfigError: it can be none.
        """
        if not isinstance(path, str) or not _PATH.fullmatch(path):  # pyright: ignore[reportUnnecessaryIsInstance] - callers err
            raise ConfigError(
                "path: it must start with / and hold letters, digits, and . _ ~ : @ - only",
                setting="path",
            )
        if public_url is not None:
            try:
                public_url = whole_url(public_url)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"public_url: {error}", setting="public_url") from None
        if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= _LAST_PORT:  # pyright: ignore[reportUnnecessaryIsInstance] - callers err
            raise ConfigError(f"port: it must be between 0 and {_LAST_PORT}", setting="port")
        whole = path.rstrip("/") + (token and f"/{token}") or "/"
        if whole in (HEALTHZ, READYZ):
            raise ConfigError(f"path: {path} is taken: it tells how the server is", setting="path")
        return cls(host, whole, public_url)

    def url(self, port: int, *, is_mounted: bool) -> str:
        """The whole address, as `CallbackServer.url`.

        Raises:
            RuntimeError: it is not known.
        """
        if self.public_url:
            return self.public_url + self.path
        if is_mounted:
            raise RuntimeError("the application knows its address: pass public_url=")
        if self.host in ("", "0.0.0.0", "::"):  # noqa: S104 - nothing is bound here
            raise RuntimeError("the server listens on every address: pass public_url=")
        if not port:
            raise RuntimeError("the port is not known before the server has started")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}{self.path}"
