"""`qmc`, and ``python -m qmc_async``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line, or say how to install what it needs."""
    try:
        from qmc_async.cli import cli  # noqa: PLC0415 - the extra may not be installed
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.exit(f"qmc needs {error.name}: pip install 'qmc-async[cli]'")
    cli(prog_name="qmc")


if __name__ == "__main__":
    main()
