"""The landing zone: what producers have dropped, and how a file is read.

A stream's folder holds one folder per UTC day of arrival, `YYYY-MM-DD`. Producers write under a name
that starts with `.` or `_`, or elsewhere, and rename; on object storage, with one put. A file that is
seen is finished.
"""

from __future__ import annotations

import csv
import errno
import gzip
import hashlib
import io
import json
import os
import zlib
from bisect import bisect_left
from collections import defaultdict
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.ingest.remote import RemoteFile, RemotePath
from mlops_pipelines.ingest.values import plain_value
from mlops_pipelines.spec import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from mlops_pipelines.ledger.landing import FileFact, LandedFile

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# No producer nests values so deeply; what does so might be read in one place and not in another.
_MOST_NESTED = 100


@dataclass(frozen=True)
class UnparsedRow:
    """A line of a text file that is not a row.

    file_row: its place among the file's rows, from 0. text: the line as it is. problem: what is wrong.
    """

    file_row: int
    text: str
    problem: str


@dataclass(frozen=True)
class LandedTable:
    """What a landed file says.

    table: columns as the file types them; those of text formats are strings. file_rows: place of each
    row in the file, from 0. digest: sha256 of the file's bytes, hexadecimal. nested: positions, by column
    of a text format, whose value is a list or an object; the table has it as JSON.
    """

    path: Path | RemotePath
    digest: str
    table: pa.Table
    file_rows: tuple[int, ...] | range
    unparsed: tuple[UnparsedRow, ...] = ()
    nested: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of the file, those that could not be parsed included."""
        return len(self.file_rows) + len(self.unparsed)

    def row(self, position: int) -> dict[str, Any]:
        """A row to be kept: its values as they landed, numbers and times as exactly as they are judged."""
        return {name: self._value(name, position) for name in self.table.column_names}

    def _value(self, name: str, position: int) -> Any:
        value = kept_value(self.table[name][position])
        places = self.nested.get(name, ())
        found = bisect_left(places, position)
        return json.loads(value) if places[found : found + 1] == (position,) else value

    @property
    def read_out(self) -> LandedTable:
        """The same without its values, which are large, once nobody asks for them any more."""
        return replace(self, table=self.table.schema.empty_table(), nested={})


class UnreadableFileError(TerminalError):
    """A landed file is not what its name says. digest: sha256 of its bytes, hexadecimal; "" if not read."""

    def __init__(self, path: Path | RemotePath, problem: str, digest: str):
        self.path = path
        self.digest = digest
        super().__init__(
            f"{path} cannot be read: {problem}",
            expected="a file that is what its name says: .parquet, .csv or .jsonl, the latter two also with "
            ".gz or .zst",
            remedy="land the file again, whole; this one is left where it is",
        )


class MisplacedFileError(TerminalError):
    """What lies in a landing folder is no file in a folder named by a day of arrival."""

    def __init__(self, path: Path | RemotePath, problem: str, day: str):
        super().__init__(
            f"{path} is not taken in: {problem}",
            expected="a file in a folder named by the day it arrived on",
            remedy=f"land it under {day}; what is not to be taken in starts with _",
        )


def list_files(
    folder: Path | RemotePath, since_day: date | None = None, last_day: date = date.max
) -> list[FileFact]:
    """Files that arrived on `since_day` or later (all without it), by day and path.

    last_day: with `since_day`, the last day whose folder is asked for where that takes a call for each. Of
    such a landing folder, strays and later days are listed without `since_day` only.
    Paths are relative to the stream's folder, with `/`; modification times to the microsecond, UTC.
    Names that start with `.` or `_` are unfinished and left out. A stray, which lies in no folder named by
    a day, is listed as well, with the day of its modification, and so are links to folders and folders that
    may not be read: `read_landed` refuses them. Bytes of a name that are not UTF-8 are written out (\\xe9).
    Raises UserError if the folder is missing or, of a URL, may not be listed.
    """
    since = since_day.isoformat() if since_day else ""
    if isinstance(folder, RemotePath):
        facts = [_remote_fact(file) for file in folder.files(since_day, last_day)]
    else:
        facts = _local_facts(folder, since)
    facts = [fact for fact in facts if fact.arrival_day >= since]
    return sorted(facts, key=lambda fact: (fact.arrival_day, fact.path))


def is_there(folder: Path | RemotePath, path: str) -> bool:
    """Whether something by this name, as `list_files` gives it, lies in a stream's folder, for all that can
    be said: what may not be looked at may well lie there."""
    file = folder / path
    if isinstance(file, Path):
        return os.path.lexists(file) or "\\x" in path  # bytes of a name that are not UTF-8, written out
    try:
        file.look()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def read_landed(
    folder: Path | RemotePath, listed: FileFact | LandedFile, most_bytes: int | None = None
) -> LandedTable:
    """The rows of a file as `list_files` listed it in a stream's folder, as `read_file` reads them.

    Raises MisplacedFileError for what is no file, or does not lie, itself, in a folder named by a day of
    arrival; UnreadableFileError if it is not the file any more that was listed; FileNotFoundError if it is
    gone; otherwise as `read_file`.
    """
    path = listed.path
    file, such = folder / path, f"{folder}/2013-01-05"
    if isinstance(file, Path):
        real = Path(os.path.realpath(file))
        if not real.is_relative_to(os.path.realpath(str(folder))):
            raise MisplacedFileError(file, f"it leads out of the landing folder, to {real}", such)
    if not _is_file_or_gone(file):
        raise MisplacedFileError(file, "it is no file, but a folder, a pipe or a link to one", such)
    if not _lies_in_day(path):
        raise MisplacedFileError(file, "it lies in no folder named by a day of arrival", such)
    table = read_file(file, most_bytes)
    # Looked at after it was read: what a producer writes into a finished file may be half of anything.
    if _size_and_time_of(file) != (listed.size, listed.modified_at):
        raise UnreadableFileError(file, "it has changed since it was listed", table.digest)
    return table


def read_file(path: Path | RemotePath, most_bytes: int | None = None) -> LandedTable:
    """The rows of a landed file: Parquet, CSV with a header, or one JSON object a line.

    The latter two may be packed, `.gz` or `.zst`. A line that is not a row does not fail the file: it is
    among `unparsed`. most_bytes: how large the file may be, unpacked.
    Raises UnreadableFileError if the file is not what its name says, or too large.
    """
    try:
        opened: BinaryIO = path.open("rb")
    except PermissionError as error:
        raise UnreadableFileError(path, "this user may not read it", "") from error
    except NotADirectoryError as error:  # its folder has become a file
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
    with opened as file:
        size = _size_of(path, file)
        if most_bytes is not None and size > most_bytes:
            # From elsewhere, what is too large is not fetched.
            local = cast("io.BufferedReader", file) if isinstance(path, Path) else None
            digest = hashlib.file_digest(local, "sha256").hexdigest() if local else ""
            raise UnreadableFileError(path, _too_large(size, most_bytes), digest)
        content = file.read()
    digest = hashlib.sha256(content).hexdigest()
    name, packing = _packing(path.name)
    reader = _READERS.get(Path(name).suffix)
    if reader is None or (packing and reader is _read_parquet):
        raise UnreadableFileError(path, "its name does not say what it is", digest)
    try:
        if packing:
            content = _unpacked(content, packing, most_bytes)
        return replace(reader(content), path=path, digest=digest)
    except (ValueError, OSError, EOFError, zlib.error, csv.Error) as error:
        problem = str(error).splitlines()[0] if str(error) else repr(error)
        raise UnreadableFileError(path, problem, digest) from error


def rows_said(path: Path | RemotePath) -> int:
    """How many rows a Parquet file says it has; 1 for a text file, which does not say.

    1 as well for what cannot be read, or is gone: the run that takes it in will refuse it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix != ".parquet":
        return 1
    try:
        with nullcontext(path) if isinstance(path, Path) else path.open("rb") as source:
            return int(pq.read_metadata(source).num_rows)
    except (pa.ArrowException, OSError):
        return 1


def rows_again(
    path: Path | RemotePath, digest: str, rows: Mapping[int, str], columns: Sequence[str]
) -> LandedTable:
    """Rows of a landed file as they were kept, JSON by their place in the file.

    columns: those the table has to have; one that no row has is missing in all. A value is judged as it was
    when it landed: a number as a number, a text as a text, and what is nested is nested.
    """
    import pyarrow as pa

    places = sorted(rows)
    kept = [json.loads(rows[place]) for place in places]
    names = dict.fromkeys([*(name for row in kept for name in row), *columns])
    values = {name: [row.get(name) for row in kept] for name in names}
    nested = {
        name: tuple(position for position, value in enumerate(of_column) if isinstance(value, dict | list))
        for name, of_column in values.items()
    }
    return LandedTable(
        path,
        digest,
        pa.table({name: _kept_column(of_column) for name, of_column in values.items()}),
        tuple(places),
        nested={name: positions for name, positions in nested.items() if positions},
    )


def kept_value(landed: pa.Scalar) -> Any:
    """A value as it is kept: a decimal as the float, a time as the microsecond that it is judged as."""
    import pyarrow as pa

    if pa.types.is_dictionary(landed.type):
        landed = landed.value
    kind = landed.type
    if pa.types.is_decimal(kind):
        landed = landed.cast(pa.float64(), safe=False)
    elif pa.types.is_timestamp(kind) and kind.unit == "ns":
        landed = landed.cast(pa.timestamp("us", tz=kind.tz), safe=False)
    return plain_value(landed)


def _kept_column(values: Sequence[Any]) -> pa.Array:
    """Values of a column as they were kept. Those of text formats were kept as texts."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {int}:
        beyond = any(value is not None and value >= 2**63 for value in values)
        return pa.array(values, pa.uint64() if beyond else pa.int64())
    infinite = {value for value in values if isinstance(value, str)} <= {"inf", "-inf"}
    if float in kinds and kinds <= {int, float, str} and infinite:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array([_as_text(value) for value in values], pa.string())


def _packing(name: str) -> tuple[str, str]:
    """The name of the file inside, and how it is packed; "" if it is not."""
    for ending in _UNPACKERS:
        if name.endswith(ending):
            return name.removesuffix(ending), ending
    return name, ""


def _unpacked(content: bytes, packing: str, most_bytes: int | None) -> bytes:
    """What is packed. Raises ValueError, as soon as that is clear, if it is too large."""
    if not content:  # what was cut that short unpacks as if nothing had been packed
        raise ValueError("it is empty")
    with _UNPACKERS[packing](content) as stream:
        unpacked = stream.read() if most_bytes is None else stream.read(most_bytes + 1)
    if most_bytes is not None and len(unpacked) > most_bytes:
        raise ValueError(_too_large(None, most_bytes))
    return unpacked


def _too_large(size: int | None, most_bytes: int) -> str:
    has = f"it has {size:,} bytes" if size is not None else "unpacked, it has more"
    return f"{has}, and {format_size(most_bytes)} are allowed (`file_size_halts` in the contract)"


def _ungzip(content: bytes) -> BinaryIO:
    return cast("BinaryIO", gzip.GzipFile(fileobj=io.BytesIO(content)))


def _unzstd(content: bytes) -> BinaryIO:
    import pyarrow as pa

    return cast("BinaryIO", pa.CompressedInputStream(pa.BufferReader(content), "zstd"))


_UNPACKERS: dict[str, Callable[[bytes], BinaryIO]] = {".gz": _ungzip, ".zst": _unzstd}


def _local_facts(folder: Path, since: str) -> list[FileFact]:
    if not folder.is_dir():
        raise UserError(f"There is no landing folder {folder}", remedy=f"mkdir -p {folder}")
    facts: list[FileFact] = []
    with os.scandir(folder) as entries:
        # Most are folders of days long past, and every tick comes by all of them.
        listed = [one for one in entries if not (one.name < since and _is_day(one.name) and _is_folder(one))]
    for entry in listed:
        if not _is_finished(entry):
            continue
        is_day = _is_day(entry.name) and _is_folder(entry)
        for file in _files(entry):
            # A file that has gone since is not there.
            with suppress(FileNotFoundError):
                facts.append(_fact(file, folder, entry.name if is_day else None))
    return facts


def _remote_fact(file: RemoteFile) -> FileFact:
    from mlops_pipelines.ledger.landing import FileFact

    day = file.path.partition("/")[0] if _lies_in_day(file.path) else file.modified_at.date().isoformat()
    return FileFact(file.path, file.size, file.modified_at, day)


def _finished(folder: Path | str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if _is_finished(entry)]


def _is_finished(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith((".", "_"))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)  # a link to a folder might lead round in a circle


@lru_cache(maxsize=2**14)  # days of 45 years
def _is_day(name: str) -> bool:
    try:
        return date.fromisoformat(name).isoformat() == name
    except ValueError:
        return False


def _lies_in_day(path: str) -> bool:
    day, _, within = path.partition("/")
    return bool(within) and _is_day(day)


def _files(entry: os.DirEntry[str]) -> Iterator[os.DirEntry[str]]:
    """The finished files at or below an entry of a folder."""
    if not _is_folder(entry):
        yield entry
        return
    try:
        entries = _finished(entry.path)
        os.stat(f"{entry.path}/.")  # names may be read where files may not
    except PermissionError:
        yield entry
        return
    for within in entries:
        yield from _files(within)


def _fact(file: os.DirEntry[str], folder: Path, day: str | None) -> FileFact:
    """What there is to say of a file; without a day of arrival, it is that of its modification."""
    from mlops_pipelines.ledger.landing import FileFact

    try:
        facts = file.stat()
    except OSError:  # a link that leads nowhere, or round in a circle
        facts = file.stat(follow_symlinks=False)
    size, modified = _size_and_time(facts)
    path = os.fsencode(Path(file.path).relative_to(folder)).decode("utf-8", "backslashreplace")
    return FileFact(path, size, modified, day or modified.date().isoformat())


def _size_and_time(facts: os.stat_result) -> tuple[int, datetime]:
    """Bytes, and when they were modified, UTC."""
    return facts.st_size, _EPOCH + timedelta(microseconds=facts.st_mtime_ns // 1000)


def _size_and_time_of(file: Path | RemotePath) -> tuple[int, datetime]:
    if isinstance(file, Path):
        return _size_and_time(file.stat())
    now = file.look()
    return now.size, now.modified_at


def _is_file_or_gone(file: Path | RemotePath) -> bool:
    if isinstance(file, Path):
        return not os.path.lexists(file) or Path(os.path.realpath(file)).is_file()
    try:
        return file.look().is_file
    except PermissionError as error:
        raise UnreadableFileError(file, "this user may not read it", "") from error


def _size_of(path: Path | RemotePath, file: BinaryIO) -> int:
    """Bytes of an opened file."""
    if isinstance(path, Path):
        return os.fstat(file.fileno()).st_size
    file.seek(0, os.SEEK_END)
    size = file.tell()
    file.seek(0)
    return size


# Readers give a table without its path and digest, which are the file's.
_NOWHERE = Path()


def _read_parquet(content: bytes) -> LandedTable:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # In this thread alone: one of Arrow's that lets go of Python's bytes while Python ends aborts it.
        table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
        table.validate(full=True)
    except pa.ArrowException as error:  # some of them are neither ValueError nor OSError
        raise ValueError(str(error)) from error
    _no_name_twice(table.column_names)
    return LandedTable(_NOWHERE, "", table, range(table.num_rows))


def _read_csv(content: bytes) -> LandedTable:
    # How large a file may be is bounded; Python's bound of 128 KB a field would refuse it for one long text.
    csv.field_size_limit(max(csv.field_size_limit(), len(content)))
    lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    header = next(lines, None)
    if not header:
        raise ValueError("it has no header line")
    _no_name_twice(header)
    rows: list[dict[str, str | None]] = []
    places, unparsed = [], []
    for place, fields in enumerate(fields for fields in lines if fields):
        if len(fields) == len(header):
            rows.append({name: field or None for name, field in zip(header, fields, strict=True)})
            places.append(place)
        else:
            problem = f"{len(fields)} fields under a header of {len(header)}"
            unparsed.append(UnparsedRow(place, ",".join(fields), problem))
    return LandedTable(_NOWHERE, "", _text_table(header, rows), tuple(places), tuple(unparsed))


def _read_jsonl(content: bytes) -> LandedTable:
    rows: list[dict[str, str | None]] = []
    places, unparsed = [], []
    nested: defaultdict[str, list[int]] = defaultdict(list)
    lines = (line for line in content.decode("utf-8-sig").split("\n") if line.strip())
    for place, line in enumerate(lines):
        try:
            row = _json_object(line)
            if line.count("[") + line.count("{") > _MOST_NESTED and _is_deeper(row, _MOST_NESTED):
                raise RecursionError
            if "\\u" in line:  # half of a surrogate pair is JSON, and no text
                json.dumps(row, ensure_ascii=False).encode()
            texts = {name: _as_text(value) for name, value in row.items()}
        except RecursionError:
            unparsed.append(UnparsedRow(place, line, "not a JSON object: it is nested too deeply"))
        except ValueError as error:
            unparsed.append(UnparsedRow(place, line, f"not a JSON object: {error}"))
        else:
            for name in (name for name, value in row.items() if isinstance(value, dict | list)):
                nested[name].append(len(rows))
            rows.append(texts)
            places.append(place)
    names = list(dict.fromkeys(name for row in rows for name in row))
    if unparsed and not rows:
        raise ValueError(f"no line is a JSON object; the first: {unparsed[0].problem}")
    inner = {name: tuple(positions) for name, positions in nested.items()}
    return LandedTable(_NOWHERE, "", _text_table(names, rows), tuple(places), tuple(unparsed), inner)


def _json_object(line: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _no_name_twice([name for name, _ in pairs])
        return dict(pairs)

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    value = json.loads(line, object_pairs_hook=unique, parse_constant=refuse)
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}")
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_is_deeper(one, levels - 1) for one in inner if isinstance(one, dict | list))


def _as_text(value: Any) -> str | None:
    """The value as a CSV file would carry it, so that text formats are read by the same rules."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _no_name_twice(names: list[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"it has more than one column {', '.join(twice)}")


def _text_table(names: list[str], rows: list[dict[str, str | None]]) -> pa.Table:
    import pyarrow as pa

    return pa.table({name: pa.array([row.get(name) for row in rows], pa.string()) for name in names})


_READERS: dict[str, Callable[[bytes], LandedTable]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
}
