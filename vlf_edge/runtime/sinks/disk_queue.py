"""A queue on disk: what was put in is there until it was taken out, whatever ends the process."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import VlfError

log = logging.getLogger(__name__)


class DiskQueue:
    """Texts in order, in an SQLite file that belongs to one process at a time and is read by its user alone.

    capacity: most texts; of more the oldest are removed. Survives a kill and a power cut. A damaged file is set aside
    as ``path.damaged``, with a warning. Any thread may use it. Raises VlfError if the file cannot be opened, or is in
    use; later OSError.
    """

    def __init__(self, path: Path, capacity: int):
        import sqlite3  # late: it costs every start of the program otherwise

        self._sqlite, self.path, self._capacity = sqlite3, path, capacity
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            self._db = self._open()
        except sqlite3.OperationalError as error:
            why = "another program is using it" if "locked" in str(error) else str(error)
            raise VlfError(f"cannot use the queue {path}: {why}") from None
        except sqlite3.DatabaseError as error:
            aside = path.with_name(f"{path.name}.damaged")
            log.warning("the queue %s is damaged (%s) and lies now at %s; a new one begins", path, error, aside)
            os.replace(path, aside)
            for ending in ("-wal", "-shm"):
                with suppress(FileNotFoundError):
                    os.unlink(f"{path}{ending}")
            self._db = self._open()
        except OSError as error:
            raise VlfError(f"cannot use the queue {path}: {error.strerror}") from None
        self._count = 0
        self._count = self._run("SELECT count(*) FROM queue")[0][0]

    def __len__(self) -> int:
        return self._count  # without the lock: a disk that hangs holds up nobody who counts

    def put(self, text: str) -> int:
        """Appends a text; it is on the disk when this returns. Returns how many of the oldest had to go for it."""
        with self._lock:
            try:
                with self._db:
                    self._db.execute("INSERT INTO queue (text) VALUES (?)", (text,))
                    over = self._db.execute("SELECT max(0, count(*) - ?) FROM queue", (self._capacity,)).fetchone()[0]
                    if over:
                        self._db.execute(
                            "DELETE FROM queue WHERE number IN (SELECT number FROM queue ORDER BY number LIMIT ?)",
                            (over,),
                        )
                self._count += 1 - over
                return over
            except self._sqlite.Error as error:
                raise OSError(f"cannot write the queue {self.path}: {error}") from None

    def oldest(self) -> tuple[int, str] | None:
        """(number, text) of the oldest; None if there is none. Numbers are never used twice."""
        rows = self._run("SELECT number, text FROM queue ORDER BY number LIMIT 1")
        return rows[0] if rows else None

    def remove(self, number: int) -> None:
        """Takes one out; without effect if it is not there any more."""
        self._run("DELETE FROM queue WHERE number = ?", number)

    def close(self) -> None:
        """Lets go of the file; idempotent."""
        with self._lock:
            self._db.close()

    def _open(self) -> Any:
        db = self._sqlite.connect(self.path, timeout=0.2, check_same_thread=False)
        try:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            with db:
                db.execute(
                    "CREATE TABLE IF NOT EXISTS queue (number INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL)"
                )
                db.execute("UPDATE queue SET number = number WHERE number < 0")  # takes the lock to write
            if (found := db.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
                raise self._sqlite.DatabaseError(found)
        except BaseException:
            db.close()
            raise
        return db

    def _run(self, statement: str, *values: Any) -> list[Any]:
        with self._lock:
            try:
                with self._db:
                    done = self._db.execute(statement, values)
                    rows = done.fetchall()
                self._count -= max(0, done.rowcount)  # rows that were removed; -1 where some were asked for
                return rows
            except self._sqlite.Error as error:
                raise OSError(f"cannot use the queue {self.path}: {error}") from None
