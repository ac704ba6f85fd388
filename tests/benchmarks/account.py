"""Whose calls they are: credentials of nobody, and what follows from them."""

from __future__ import annotations

from typing import Final

from qmc_async import Credentials, Signer

__all__ = ["APP_ID", "APP_SECRET", "CALLBACK_PATH", "SIGNER"]

APP_ID: Final = 1696054309969104898
APP_SECRET: Final = "secret-of-nobody"
SIGNER: Final = Signer(Credentials(APP_ID, APP_SECRET))
CALLBACK_PATH: Final = f"/qmc/callback/{SIGNER.callback_token}"
