"""The options for files of lines: everything as JSON Lines, events as JSON Lines or CSV."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import VlfError
from ...options import check_options, option
from .csv_file import CsvEventsSink
from .json_lines import JsonLinesFileSink
from .sink import Run, Sink


@dataclass(frozen=True)
class FileOptions:
    """What the command line says of them."""

    save_jsonl: str | None = option(None, "also append decisions and events to this file, as JSON Lines", "FILE")
    save_events: str | None = option(
        None, "also append events to this file: .jsonl begin and end, .csv one row each when it has ended", "FILE"
    )
    rotate_mb: float = option(100.0, "size at which such a file becomes FILE.1 (default: 100)", "MB", above=0)
    rotate_keep: int = option(5, "how many of FILE.1, FILE.2 ... are kept (default: 5)", "N", least=0)


def open_files(options: FileOptions, run: Run) -> Iterator[Sink]:
    check_options(options)
    rotation = {"max_bytes": max(1, round(options.rotate_mb * 1e6)), "keep": options.rotate_keep}
    if options.save_jsonl is not None:
        yield JsonLinesFileSink(options.save_jsonl, **rotation)
    if options.save_events is not None:
        run.need_events("--save-events")
        ending = Path(options.save_events).suffix.lower()
        if ending == ".csv":
            yield CsvEventsSink(options.save_events, **rotation)
        elif ending in (".jsonl", ".ndjson"):
            yield JsonLinesFileSink(options.save_events, decisions=False, **rotation)
        else:
            raise VlfError(f"--save-events is {options.save_events}; expected a name that ends in .jsonl or .csv")
