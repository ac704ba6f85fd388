"""Recordings, kept for good before the platform deletes them (3.3)."""

from qmc_async.archive.handler import RecordingArchive

__all__ = ["RecordingArchive"]
