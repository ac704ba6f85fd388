"""What people write, FastAPI and pydantic on uvicorn: ``serve_fastapi.py PORT PATH HOW [FILE]``.

``nothing`` stores nothing. The others commit each notification to SQLite before it is answered, as
durably as ours are: ``commit`` in the coroutine, on one connection, which is the fastest way;
``session`` as FastAPI's own tutorial has it, with an ORM's session for each request, in a thread.
"""

from __future__ import annotations

import sqlite3
import sys
from typing import TYPE_CHECKING, Annotated

import uvicorn
from fastapi import Depends, FastAPI
from lifetime import end_with_parent, freeze_imports
from rival_models import Notification
from sqlalchemy import create_engine, event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

ANSWER = {"code": "200", "msg": "success", "data": ""}


class Base(DeclarativeBase):
    """Of the ORM."""


class Call(Base):
    """A row."""

    __tablename__ = "calls"
    call_id: Mapped[str] = mapped_column(primary_key=True)
    body: Mapped[str]


async def nothing(notification: Notification) -> dict[str, str]:  # noqa: ARG001 - it is decoded
    """Store nothing."""
    return ANSWER


def committing(file: str) -> Callable[..., object]:
    """Store each on one connection."""
    connection = sqlite3.connect(file, isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE calls (call_id TEXT PRIMARY KEY, body TEXT NOT NULL)")

    async def store(notification: Notification) -> dict[str, str]:
        connection.execute(
            "INSERT OR IGNORE INTO calls VALUES (?, ?)",
            (notification.call_id, notification.model_dump_json()),
        )
        return ANSWER

    return store


def with_session(file: str) -> Callable[..., object]:
    """Store each in a session of its own."""
    engine = create_engine(f"sqlite:///{file}", connect_args={"timeout": 60})

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: sqlite3.Connection, _: object) -> None:  # pyright: ignore[reportUnusedFunction] - it is registered
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")

    Base.metadata.create_all(engine)

    def get_session() -> Generator[Session]:
        with Session(engine) as session:
            yield session

    def store(
        notification: Notification, session: Annotated[Session, Depends(get_session)]
    ) -> dict[str, str]:
        session.add(Call(call_id=notification.call_id, body=notification.model_dump_json()))
        try:
            session.commit()
        except IntegrityError:
            session.rollback()
        return ANSWER

    # FastAPI cannot see what stands in a function where annotations are strings.
    store.__annotations__ = {
        "notification": Notification,
        "session": Annotated[Session, Depends(get_session)],
    }
    return store


app = FastAPI()
how = sys.argv[3]
if how == "nothing":
    app.post(sys.argv[2])(nothing)
else:
    app.post(sys.argv[2])({"commit": committing, "session": with_session}[how](sys.argv[4]))
end_with_parent()
freeze_imports()
uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="warning")
