"""What a run measured, kept on this disk before anything is sent to the tracking store.

A run's folder holds `journal.jsonl`, one record a line, and `files/`, the files that the records name. `delivered`
holds the number of records that the store has. A record is never changed; a last line that a crash cut short is dropped
when the file is read.
"""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

Record = dict[str, Any]
KINDS = ("begin", "about", "metrics", "tags", "image", "picture", "file", "status")


class Outbox:
    """The records of one run, in order. Records that the disk refuses stay in memory until it takes them.

    One thread may append while another one delivers.
    """

    def __init__(self, folder: Path) -> None:
        """Open, or begin, the outbox of the run with this folder."""
        self.folder, self.files = folder, folder / "files"
        self._lines, self._mark = folder / "journal.jsonl", folder / "delivered"
        self.records, sound = _read(self._lines)
        self._unwritten: list[Record] = []
        self._sent: list[str] = []  # names of files that the store has, and that are to be deleted
        try:
            self.delivered = min(int(self._mark.read_text(encoding="utf-8")), len(self.records))
        except (OSError, ValueError):
            self.delivered = 0
        self.files.mkdir(parents=True, exist_ok=True)
        if self._lines.exists() and self._lines.stat().st_size > sound:
            os.truncate(self._lines, sound)

    def append(self, record: Record) -> None:
        """Add a record. It is not an error if the disk refuses it, see `unwritten`."""
        self.records.append(record)
        self._unwritten.append(record)
        self.flush()

    def flush(self) -> None:
        """Try to write the records that the disk has refused."""
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
        """Number of records that the disk has refused, and that are only in memory."""
        return len(self._unwritten)

    def pending(self) -> list[Record]:
        """Return the records that the store does not have yet."""
        return self.records[self.delivered :]

    def mark_delivered(self) -> None:
        """Note that the store has the next record. The file that the record names is left to `tidy`."""
        record = self.records[self.delivered]
        self.delivered += 1
        partial = self._mark.with_name("delivered.part")
        try:
            partial.write_text(str(self.delivered), encoding="utf-8")
            partial.replace(self._mark)
        except OSError:
            return  # it will be sent again, and recognised as sent
        if "file" in record:
            self._sent.append(record["file"])

    def tidy(self, all_written: bool = False) -> None:
        """Delete the files that the store has. Only the thread that writes files may call it.

        `all_written` is whether no record is to follow for a file that is there. Then go also those that a process
        has left which was killed before it wrote the record, or after the store had the file.
        """
        if all_written and not self.pending():
            self._sent = [path.name for path in self.files.iterdir()]
        while self._sent:
            name = self._sent.pop()
            path = self.files / name
            if not self._is_pending(name):
                with suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def is_replaced(self, record: Record) -> bool:
        """Whether the next record is skipped: its file is gone, or a later record has it, written anew."""
        name = record.get("file")
        return name is not None and (self._is_pending(name, 1) or not (self.files / name).exists())

    def _is_pending(self, name: str, after: int = 0) -> bool:
        return any(record.get("file") == name for record in self.records[self.delivered + after :])

    def has(self, kind: str, **fields: Any) -> bool:
        """Whether there is a record of this kind with these fields."""
        wanted = {"kind": kind, **fields}.items()
        return any(wanted <= record.items() for record in self.records)


def _read(path: Path) -> tuple[list[Record], int]:
    """Return the whole records of a journal file, and the number of bytes that they take."""
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
