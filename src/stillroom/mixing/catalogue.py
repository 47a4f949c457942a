"""What is known of every record of the sources, in a DuckDB file of its own: memory does not grow with them.

Columns, chunk by chunk ──▶ Catalogue ──▶ what is removed, what validates, what is chosen ──▶ Choice, by name

Records are numbered as they come, source by source: of two alike the one with the lower number stays. Draws
are those of `stillroom.draws`: in the order of the SHA-256 of seed and name, which DuckDB knows too.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from stillroom.errors import InputError, StillroomError
from stillroom.mixing.scan import Columns

MEMORY = "1GB"
"""of DuckDB; what does not fit stands on disk"""
ROWS = 50_000
"""rows that are handed to DuckDB at a time"""
FETCH = 10_000
"""rows that are fetched at a time"""
TABLES = """
    CREATE TABLE records (n INTEGER, origin VARCHAR, part VARCHAR, id VARCHAR, unit VARCHAR, digest BLOB,
                          tokens INTEGER, start BIGINT);
    CREATE TABLE bands (n INTEGER, key BIGINT);
    CREATE TABLE removed (n INTEGER, reason VARCHAR, match VARCHAR, detail VARCHAR);
    CREATE VIEW live AS SELECT * FROM records ANTI JOIN removed USING (n);
"""
RECORD = pa.schema(
    [
        ("n", pa.int32()),
        ("origin", pa.string()),
        ("part", pa.string()),
        ("id", pa.string()),
        ("unit", pa.string()),
        ("digest", pa.binary()),
        ("tokens", pa.int32()),
        ("start", pa.int64()),
    ]
)
BAND = pa.schema([("n", pa.int32()), ("key", pa.int64())])


class Removed(NamedTuple):
    """A record that goes no further, and why."""

    n: int
    reason: str
    match: str
    """the record that it is like, or `benchmark/sample`"""
    detail: str


REMOVED = pa.schema([(name, pa.int32() if name == "n" else pa.string()) for name in Removed._fields])


class Choice(NamedTuple):
    """A record of the mixture; its name is its id, `id~2` where it is there for the second time."""

    name: str
    origin: str
    start: int


class Catalogue:
    """The records, numbered as they are added."""

    def __init__(self, folder: Path, threads: int) -> None:
        settings: dict[str, str | bool | int | float | list[str]]
        settings = {"memory_limit": MEMORY, "threads": threads, "temp_directory": str(folder / "spilled")}
        self.database = duckdb.connect(folder / "index.duckdb", config=settings)
        self.database.execute(TABLES)
        self._count = 0
        self._waiting: dict[str, list[pa.Table]] = {"records": [], "bands": [], "removed": []}

    def add(self, origin: str, columns: Columns) -> None:
        """Take a chunk's records in, those that match a benchmark as removed."""
        count = len(columns.ids)
        numbers = range(self._count, self._count + count)
        self._count += count
        values = (columns.parts, columns.ids, columns.groups, columns.digests, columns.tokens, columns.starts)
        self._put("records", RECORD, [numbers, [origin] * count, *values])
        if columns.bands:
            width = len(columns.bands[0])
            keys = [key for record in columns.bands for key in record]
            self._put("bands", BAND, [[n for n in numbers for _ in range(width)], keys])
        found = zip(numbers, columns.matches, strict=False)
        self.remove(
            Removed(n, "contaminated", f"{m.benchmark}/{m.sample}", f"{m.share:.2%} of a passage: {m.ngram}")
            for n, m in found
            if m
        )

    def remove(self, rows: Iterator[Removed]) -> None:
        """Note records that go no further."""
        found = list(rows)
        if found:
            self._put("removed", REMOVED, list(zip(*found, strict=True)))

    def flush(self) -> None:
        """Write what waits."""
        for name, tables in self._waiting.items():
            if tables:
                waiting = pa.concat_tables(tables)
                self.database.register("waiting", waiting)
                self.database.execute(f"INSERT INTO {name} SELECT * FROM waiting")
                self.database.unregister("waiting")
                tables.clear()

    def check_ids(self) -> None:
        """Raises InputError where two records share an id."""
        row = self.database.execute(
            "SELECT id, string_agg(origin, ' and ' ORDER BY n) FROM records GROUP BY id HAVING count(*) > 1"
            " ORDER BY id LIMIT 1"
        ).fetchone()
        if row:
            raise InputError(f"two records have the id {row[0]!r}", where=row[1])

    def cap(self, most: Mapping[str, int | None], seed: int) -> None:
        """Keep at most so many records of a source, drawn by the seed."""
        for origin, count in most.items():
            if count is not None:
                self.database.execute(
                    "INSERT INTO removed SELECT n, 'capped', '', '' FROM live WHERE origin = ? "
                    f"ORDER BY {drawn('id')} OFFSET ?",
                    [origin, str(seed), count],
                )

    def split(self, share: float, seed: int) -> None:
        """Table `held`: the units that validate, `share` of each source's, to the nearest whole number."""
        self.database.execute("CREATE TABLE held (origin VARCHAR, unit VARCHAR)")
        counts = self.database.execute(
            "SELECT origin, count(DISTINCT unit) FROM live GROUP BY origin"
        ).fetchall()
        for origin, count in counts:
            self.database.execute(
                "INSERT INTO held SELECT ?, unit FROM (SELECT DISTINCT unit FROM live WHERE origin = ?) "
                f"ORDER BY {drawn('unit')} LIMIT ?",
                [origin, origin, str(seed), min(round(share * count), count - 1)],
            )
        for table, join in (("train", "ANTI"), ("validation", "SEMI")):
            query = f"SELECT * FROM live {join} JOIN held USING (origin, unit)"
            self.database.execute(f"CREATE TABLE {table} AS {query}")

    def sizes(self, table: str, size: str) -> dict[str, int]:
        """Sum of an expression over a table's records, by part."""
        query = f"SELECT part, sum({size})::BIGINT FROM {table} GROUP BY part"
        return dict(self.database.execute(query).fetchall())

    def choose(self, targets: Mapping[str, float], size: str, seed: int) -> None:
        """Table `chosen`: records of `train` in the seed's order, over and over, up to each part's target.

        A record whose first half still fits is taken, so that whole records come as near as they can.
        """
        self.database.execute(
            "CREATE TABLE chosen (n INTEGER, origin VARCHAR, part VARCHAR, tokens INTEGER, start BIGINT, "
            "name VARCHAR)"
        )
        stock = self.sizes("train", size)
        for part, target in targets.items():
            if not stock.get(part):
                continue
            copies = int(target // stock[part]) + 1
            self.database.execute(
                f"""
                INSERT INTO chosen
                WITH ordered AS (
                    SELECT *, {size} AS size, sum({size}) OVER (
                        ORDER BY {drawn("id")} ROWS UNBOUNDED PRECEDING) - {size} AS before
                    FROM train WHERE part = ?)
                SELECT n, origin, part, tokens, start,
                       CASE copy WHEN 0 THEN id ELSE id || '~' || (copy + 1) END
                FROM ordered, range(?) copies(copy) WHERE copy * ? + before + size / 2 <= ? + 1e-6
                """,
                [str(seed), part, copies, stock[part], target],
            )

    def choices(self, table: str, name: str) -> Iterator[Choice]:
        """The records of a table by name. Raises InputError where two have one."""
        cursor = self.database.cursor()
        last = None
        for row in fetched(cursor.execute(f"SELECT {name}, origin, start FROM {table} ORDER BY {name}")):
            if row[0] == last:
                raise InputError(f"two records of the mixture have the id {last!r}", where=str(row[1]))
            last = row[0]
            yield Choice(*row)

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        return self.database.execute(query, values).fetchall()

    def _put(self, name: str, schema: pa.Schema, values: Sequence[Any]) -> None:
        arrays = [pa.array(column, kind) for column, kind in zip(values, schema.types, strict=True)]
        tables = self._waiting[name]
        tables.append(pa.table(arrays, schema=schema))
        if sum(table.num_rows for table in tables) >= ROWS:
            self.flush()


def drawn(column: str) -> str:
    """An SQL expression that orders by `draws.rank` of a seed, which is the parameter, and a column."""
    return f"sha256(?::VARCHAR || '/' || {column})"


def fetched(cursor: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    """The rows of a query, FETCH at a time."""
    while rows := cursor.fetchmany(FETCH):
        yield from rows


@contextmanager
def catalogue(folder: Path, threads: int) -> Iterator[Catalogue]:
    """An empty catalogue in a folder of its own, which goes with it; so does what a killed run left there.

    Raises StillroomError where the disk is full.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        made = Catalogue(folder, threads)
        try:
            yield made
        finally:
            made.database.close()
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        raise StillroomError(str(error), where=str(folder), hint="Free some space and run again.") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
