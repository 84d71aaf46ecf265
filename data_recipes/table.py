"""The table every recipe ends in: one row a tile."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

KINDS = ("edge", "void", "grid", "random")
COLUMNS = ("fragment", "y", "x", "ink_ratio", "bucket", "kind")


@dataclass(frozen=True, eq=False)
class SampleTable:
    """Equal-length columns, one row a tile: where it lies and how it was chosen.

    `fragment` int32 index into `fragments`; `y`, `x` int32 top-left corner in px; `ink_ratio` float32; `bucket` int16,
    -1 where the kind has none; `kind` int8 index into `KINDS`. The tile's side is the recipe's, not the table's.
    """

    fragments: tuple[str, ...]
    fragment: np.ndarray
    y: np.ndarray
    x: np.ndarray
    ink_ratio: np.ndarray
    bucket: np.ndarray
    kind: np.ndarray

    @classmethod
    def of(
        cls, fragment: str, y: np.ndarray, x: np.ndarray, ink_ratio: np.ndarray, bucket: np.ndarray | int, kind: str
    ) -> SampleTable:
        """Tiles of one fragment and one kind."""
        n = len(y)
        return cls(
            (fragment,),
            np.zeros(n, np.int32),
            np.asarray(y, np.int32),
            np.asarray(x, np.int32),
            np.asarray(ink_ratio, np.float32),
            np.broadcast_to(np.asarray(bucket, np.int16), n).copy(),
            np.full(n, KINDS.index(kind), np.int8),
        )

    @classmethod
    def concat(cls, tables: Sequence[SampleTable]) -> SampleTable:
        """The rows of all tables in order; fragments keep the order in which they first appear."""
        names = tuple(dict.fromkeys(name for table in tables for name in table.fragments))
        if not tables:
            return cls.of("", np.zeros(0), np.zeros(0), np.zeros(0), -1, "grid")
        codes = [np.array([names.index(n) for n in t.fragments], np.int32)[t.fragment] for t in tables]
        columns = [np.concatenate([getattr(t, column) for t in tables]) for column in ("y", "x", *COLUMNS[3:])]
        return cls(names, np.concatenate(codes), *columns)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: slice | np.ndarray | Sequence[int]) -> SampleTable:
        """The chosen rows (slice, mask or indices)."""
        index = rows if isinstance(rows, slice) else np.asarray(rows)
        if isinstance(index, np.ndarray) and not index.size:
            index = index.astype(np.int64)
        return SampleTable(self.fragments, *(getattr(self, column)[index] for column in COLUMNS))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SampleTable) or len(self) != len(other):
            return False
        columns = ("names", *COLUMNS[1:])
        return all(
            np.array_equal(getattr(self, column), getattr(other, column), equal_nan=column == "ink_ratio")
            for column in columns
        )

    @property
    def names(self) -> np.ndarray:
        """(N,) the fragment's name of every row."""
        return np.array(self.fragments)[self.fragment]

    def to_csv(self, path: str | Path) -> None:
        """Write the rows under the header `fragment,y,x,ink_ratio,bucket,kind`; read back to the same table."""
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            ratios = [f"{ratio:.9g}" for ratio in self.ink_ratio]  # nine digits name a float32 exactly
            kinds = np.array(KINDS)[self.kind].tolist()
            y, x, bucket = self.y.tolist(), self.x.tolist(), self.bucket.tolist()
            writer.writerows(zip(self.names.tolist(), y, x, ratios, bucket, kinds, strict=True))

    @classmethod
    def from_csv(cls, path: str | Path) -> SampleTable:
        """Read what `to_csv` wrote. Raises ValueError naming the file and line of a row that cannot be read."""
        with Path(path).open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = tuple(next(reader, ()))
            if header != COLUMNS:
                raise ValueError(f"{path}: the header is {','.join(header)!r}, expected {','.join(COLUMNS)!r}")
            rows = []
            for number, row in enumerate(reader, 2):
                try:
                    name, y, x, ratio, bucket, kind = row
                    rows.append((name, int(y), int(x), float(ratio), int(bucket), KINDS.index(kind)))
                except ValueError as error:
                    raise ValueError(f"{path}, line {number}: {','.join(row)!r} is not a tile ({error})") from None
        names, y, x, ratio, bucket, kind = zip(*rows, strict=True) if rows else ((),) * 6
        fragments = tuple(dict.fromkeys(names)) or ("",)
        codes = {name: code for code, name in enumerate(fragments)}
        return cls(
            fragments,
            np.array([codes[name] for name in names], np.int32),
            np.array(y, np.int32),
            np.array(x, np.int32),
            np.array(ratio, np.float32),
            np.array(bucket, np.int16),
            np.array(kind, np.int8),
        )
