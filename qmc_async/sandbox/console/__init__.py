"""The sandbox's console: a page to watch calls and act in them, and a JSON API that does the same.

The page is rendered by Jinja2 and kept up to date by htmx and server-sent events, both of which lie
here as files. It asks for nothing from elsewhere.
"""

from __future__ import annotations

from qmc_async.sandbox.console.console import Console

__all__ = ["Console"]
