"""Read a site's manifest: a table that names each crop's file, camera, track and time.

    path,camera,track,time
    door/000017.jpg,door,door-4,2026-03-01T08:15:02.200Z

CSV (UTF-8, commas) or Parquet, one row for each crop. Nothing but these columns is read: identities
have no place in what adaptation sees.
"""

from __future__ import annotations

import csv
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from adapt.data.catalog.image_files import IMAGE_SUFFIXES
from adapt.errors import DataError, NoImagesError
from models.text import nfc

COLUMNS = ("path", "camera", "track", "time")
"""All columns of a manifest; `path` has to be there."""

MANIFEST_NAMES = ("manifest.csv", "manifest.parquet")
MANIFEST_TYPES = (".csv", ".parquet")
"""A folder that holds one of these is read by it."""

LATEST = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
"""Later times are mistakes, as milliseconds that were taken for seconds."""

_OTHER_SEPARATORS = (";", "\t", "|")
_IDENTITIES = frozenset({"person", "identity", "id", "pid", "label"})
_MAX_NAMED_ROWS = 3
"""Rows that are named of each kind of problem."""

_Row = tuple[int, Sequence[object]]
"""Number and cells."""


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One row.

    number: as a spreadsheet shows it; the header is row 1.
    path: below the manifest's folder, POSIX separators, without `.` and `..`, as it is spelled
        on disk.
    camera, track: names in NFC; empty where the column is not there, or the cell of a track is
        empty.
    time: seconds since 1970-01-01 UTC, or None.
    """

    number: int
    path: str
    camera: str
    track: str
    time: float | None


@dataclass(frozen=True)
class SiteManifest:
    """A manifest without faults, whose every file exists.

    has_cameras: whether there is a column `camera`.
    """

    file: Path
    rows: tuple[ManifestRow, ...]
    has_cameras: bool


def find_manifest(target: Path) -> Path | None:
    """The manifest that `--target` names or holds, or None for a plain folder.

    Raises DataError when a folder holds two or one that cannot be read, or a file is neither CSV
    nor Parquet by its name.
    """
    if target.is_file():
        if target.suffix.lower() not in MANIFEST_TYPES:
            raise DataError(
                f"{target} is neither a folder nor a manifest; give a folder of crops, or a "
                ".csv or .parquet file that lists them"
            )
        return target
    try:
        entries = sorted(target.iterdir()) if target.is_dir() else []
    except OSError as error:
        raise DataError(f"{target} cannot be read: {error.strerror}") from None
    found = [path for path in entries if path.name.lower() in MANIFEST_NAMES]
    for path in found:
        if not path.is_file():
            raise DataError(
                f"{path} is a broken link or not a file, so the manifest cannot be read: restore "
                "it, or remove it to read the folder without tracks and times"
            )
    if len(found) > 1:
        raise DataError(
            f"{target} holds {' and '.join(path.name for path in found)}: give the one to read"
        )
    return found[0] if found else None


def read_manifest(file: Path) -> SiteManifest:
    """Read and check a manifest; crops are looked for, not opened.

    Raises NoImagesError when it has no rows; DataError that counts every kind of problem and names
    the first rows of each: wrong columns, paths that are absolute, lead out of the folder or are
    not there, rows or paths given twice, empty cameras, impossible times, and a track in two
    cameras.
    """
    parquet = file.suffix.lower() == ".parquet"
    header, rows = _parquet_rows(file) if parquet else _csv_rows(file)
    _check_header(file, header)
    problems = Problems(file)
    entries: list[ManifestRow] = []
    first: dict[str, tuple[int, Sequence[object]]] = {}
    for number, row in rows:
        if len(row) != len(header):
            problems.add(f"rows without {len(header)} cells", number, f"{len(row)} cells")
            continue
        entry = _entry(number, dict(zip(header, row, strict=True)), file.parent, problems)
        entries.append(entry)
        if entry.path in first:
            _note_again(entry, row, *first[entry.path], problems)
        elif entry.path:
            first[entry.path] = number, row
    note_shared_tracks([(e.number, e.track, e.camera) for e in entries], problems)
    problems.refuse()
    if not entries:
        raise NoImagesError(f"{file} lists no crops: write a row for each")
    return SiteManifest(file, tuple(entries), "camera" in header)


class Problems:
    """What is wrong with the rows of a file, by kind."""

    def __init__(self, file: Path) -> None:
        """Nothing yet."""
        self._file = file
        self._places: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, row: int, what: str = "") -> None:
        """Note a row; kind: in words, with what to do."""
        self._places[kind].append(f"row {row}: {what}" if what else f"row {row}")

    def refuse(self) -> None:
        """Raise DataError that sums up all problems, if there are any."""
        if not self._places:
            return
        parts = []
        for kind, places in self._places.items():
            more = ", ..." if len(places) > _MAX_NAMED_ROWS else ""
            parts.append(f"{kind}: {len(places)} ({', '.join(places[:_MAX_NAMED_ROWS])}{more})")
        raise DataError(f"{self._file} cannot be used: {'; '.join(parts)}")


def note_shared_tracks(rows: Sequence[tuple[int, str, str]], problems: Problems) -> None:
    """Note the first row of each track that is in a second camera.

    rows: (number, track, camera), track empty where there is none.
    """
    home: dict[str, str] = {}
    told: set[str] = set()
    for number, track, camera in rows:
        if track and home.setdefault(track, camera) != camera and track not in told:
            told.add(track)
            problems.add(
                "tracks in two cameras (a track is of one: put the camera into its name)",
                number,
                f"{track!r} in {camera!r} and {home[track]!r}",
            )


def parse_time(value: object) -> float | None:
    """Seconds since 1970-01-01 UTC of a cell; None when it is empty.

    value: Unix seconds as a number or its text, or a moment as ISO 8601 text or `datetime`, with a
    time zone.
    Raises ValueError, in words, when it is none of these, or before 1970 or after 2100.
    """
    if value is None or value == "":
        return None
    moment: object = value
    if isinstance(value, str):
        try:
            moment = float(value)
        except ValueError:
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                raise ValueError("neither ISO 8601 nor Unix seconds") from None
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise ValueError("without a time zone, such as Z or +02:00")
        moment = moment.timestamp()
    if isinstance(moment, bool) or not isinstance(moment, int | float):
        raise ValueError(f"a {type(value).__name__}, not a time")
    if not math.isfinite(moment):
        raise ValueError("not finite; leave the cell empty where no time is known")
    if moment < 0:
        raise ValueError("before 1970")
    if moment > LATEST:
        raise ValueError("after 2100; Unix time is in seconds, not milliseconds")
    return float(moment)


def _check_header(file: Path, header: Sequence[str]) -> None:
    """Raise DataError unless the columns are ours, each once, with `path` among them."""
    known = f"the columns are {', '.join(COLUMNS)}"
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise DataError(f"{file} has the column {twice[0]!r} twice; {known}")
    unknown = [name for name in header if name not in COLUMNS]
    cased = [name for name in unknown if name.lower() in COLUMNS]
    if cased:
        raise DataError(
            f"{file} has a column {cased[0]!r}: write it {cased[0].lower()!r} ({known}, in small "
            "letters)"
        )
    identities = [name for name in unknown if name.lower() in _IDENTITIES]
    if identities:
        raise DataError(
            f"{file} has a column {identities[0]!r}: adaptation must not see who a person is; "
            f"remove it ({known})"
        )
    if len(header) == 1 and any(mark in header[0] for mark in _OTHER_SEPARATORS):
        raise DataError(
            f"{file} has the one column {header[0]!r}: columns are separated by commas; export it "
            "as CSV with commas"
        )
    if any(PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES for name in header):
        raise DataError(f"{file} begins with a crop: write the columns into a first row; {known}")
    if unknown:
        names = ", ".join(repr(name) for name in unknown)
        raise DataError(f"{file} has columns that nothing reads: {names}; remove them ({known})")
    if "path" not in header:
        raise DataError(f"{file} has no column 'path'; {known}, separated by commas")


def _csv_rows(file: Path) -> tuple[list[str], list[_Row]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            table = list(enumerate(csv.reader(stream, strict=True), start=1))
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} is not CSV in UTF-8: {error}; export it again") from None
    rows = [(number, row) for number, row in table if row]
    if not rows:
        raise NoImagesError(f"{file} is empty: write the columns {', '.join(COLUMNS)} and the rows")
    (_, header), *rest = rows
    return [name.strip() for name in header], list(rest)


def _parquet_rows(file: Path) -> tuple[list[str], list[_Row]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise DataError(
            f"reading {file} needs pyarrow: pip install 'resight[parquet]', or write the manifest "
            "as CSV"
        ) from None
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} is not a valid Parquet file: {error}; export it again") from None
    columns = []
    for column in table.columns:
        if pa.types.is_timestamp(column.type):  # nanoseconds would come as pandas' own type
            column = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False)
        columns.append(column.to_pylist())
    return list(table.column_names), list(enumerate(zip(*columns, strict=True), start=2))


def _entry(
    number: int, cells: Mapping[str, object], folder: Path, problems: Problems
) -> ManifestRow:
    """Read one row; what is wrong with it goes to `problems`, and a wrong path is empty."""
    camera = nfc(_text(cells.get("camera")))
    if "camera" in cells and not camera:
        problems.add("empty cameras (fill them in, or remove the column)", number)
    moment = cells.get("time")
    time = None
    try:
        time = parse_time(moment.strip() if isinstance(moment, str) else moment)
    except ValueError as error:
        problems.add("impossible times", number, f"{moment} is {error}")
    path = _path(number, _text(cells["path"]), folder, problems)
    return ManifestRow(number, path, camera, nfc(_text(cells.get("track"))), time)


def _path(number: int, text: str, folder: Path, problems: Problems) -> str:
    parts = PurePosixPath(text).parts
    if not parts:
        problems.add("empty paths", number)
    elif text.startswith("/") or ".." in parts:
        problems.add("paths out of the manifest's folder (give them below it)", number, text)
    else:
        try:
            # Archives and network disks change the Unicode form of names.
            forms = (text, normalize("NFC", text), normalize("NFD", text))
            for spelled in dict.fromkeys(forms):
                if (folder / spelled).is_file():
                    return "/".join(PurePosixPath(spelled).parts)
            kind = "files that are not there"
            if "\\" in text:
                kind += " (paths have / between folders, not \\)"
            problems.add(kind, number, text)
        except OSError as error:  # a name too long, or a folder that may not be entered
            problems.add("files that cannot be read", number, f"{text} ({error.strerror})")
    return ""


def _note_again(
    entry: ManifestRow,
    row: Sequence[object],
    number: int,
    before: Sequence[object],
    problems: Problems,
) -> None:
    if row == before:
        problems.add("rows given twice (remove one)", entry.number, f"is row {number}")
    else:
        what = f"{entry.path} is in row {number} with other cells"
        problems.add("files given twice (keep the right row)", entry.number, what)


def _text(cell: object) -> str:
    return "" if cell is None else str(cell).strip()
