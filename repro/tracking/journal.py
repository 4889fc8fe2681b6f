"""What a run measured, kept on this disk before anything is sent to the tracking store.

A run's folder holds `journal.jsonl`, one record a line, and `files/`, what the records refer to. `delivered` says how
many of the records the store has. A record is never changed; a last line cut short by a crash is dropped when read.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

Record = dict[str, Any]
KINDS = ("about", "metrics", "tags", "image", "file", "status")


class Journal:
    """The records of one run, in their order. Where the disk refuses one, it is kept in memory and tried again."""

    def __init__(self, folder: Path) -> None:
        """Open, or begin, the journal of the run whose folder this is."""
        self.folder, self.files = folder, folder / "files"
        self._lines, self._mark = folder / "journal.jsonl", folder / "delivered"
        self.records, sound = _read(self._lines)
        self._unwritten: list[Record] = []
        self.delivered = min(_number(self._mark), len(self.records))
        self.files.mkdir(parents=True, exist_ok=True)
        if self._lines.exists() and self._lines.stat().st_size > sound:
            os.truncate(self._lines, sound)

    def append(self, record: Record) -> None:
        """Add a record; a refusal of the disk is no error here, see `unwritten`."""
        self.records.append(record)
        self._unwritten.append(record)
        self.flush()

    def flush(self) -> None:
        """Write what the disk has refused so far, if it takes it now."""
        if not self._unwritten:
            return
        sound = self._lines.stat().st_size if self._lines.exists() else 0
        try:
            with self._lines.open("ab") as file:
                file.write(b"".join(json.dumps(record).encode() + b"\n" for record in self._unwritten))
            self._unwritten.clear()
        except OSError:
            if self._lines.exists():
                os.truncate(self._lines, sound)

    @property
    def unwritten(self) -> int:
        """Records that are only in memory, since the disk has refused them."""
        return len(self._unwritten)

    def pending(self) -> list[Record]:
        """Records that the store has not got yet."""
        return self.records[self.delivered :]

    def mark_delivered(self) -> None:
        """The store has the next record; its file is not needed any more."""
        record = self.records[self.delivered]
        self.delivered += 1
        partial = self._mark.with_name("delivered.part")
        try:
            partial.write_text(str(self.delivered), encoding="utf-8")
            partial.replace(self._mark)
            if "file" in record:
                path = self.files / record["file"]
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        except OSError:
            return  # it will be sent again, and recognised as sent

    def has(self, kind: str, **fields: Any) -> bool:
        """Whether there is a record of that kind with these fields."""
        wanted = {"kind": kind, **fields}
        return any(all(record.get(key) == value for key, value in wanted.items()) for record in self.records)


def _read(path: Path) -> tuple[list[Record], int]:
    """The whole records of a journal, and how many bytes they take."""
    records, sound = [], 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(record, dict) or record.get("kind") not in KINDS:
            break
        records.append(record)
        sound += len(line)
    return records, sound


def _number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
