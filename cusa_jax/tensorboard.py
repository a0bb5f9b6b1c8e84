"""TensorBoard's event files, written at once: what the disk says is raised here, and not in a thread or at the exit."""

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar


class Board:
    """One more event file in `folder`. TensorBoard drops what earlier files say of `purge_step` and later ones."""

    def __init__(self, folder: Path, purge_step: int | None):
        folder.mkdir(parents=True, exist_ok=True)
        # The name would be that of every file of the same second.
        self._file = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        if purge_step is not None:
            self._file.write_event(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One point on the curve of every name."""
        for name, value in values.items():
            self._file.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        self._file.flush()

    def close(self) -> None:
        self._file.close()
