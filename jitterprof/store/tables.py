"""Structured arrays to Parquet and back. The only importer of pyarrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from jitterprof.errors import RunFileError

if TYPE_CHECKING:
    import pyarrow as pa

#: Rows of one row group: bounds what is converted at once.
ROW_GROUP = 1 << 20
#: Columns that grow from row to row: their steps are small (events: 4.8 B each instead of 11.1).
GROWING = frozenset({"ts", "ts_ns", "seq", "intended_ns", "start_ns", "end_ns"})


def write_array(path: Path, rows: npt.NDArray[np.void], order: npt.NDArray[np.intp] | None = None) -> None:
    """Write the fields of `rows` as columns, in `order` if given. A field of fixed shape becomes a fixed-size list.

    Appears under its name only when it is complete. Raises OSError.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert rows.dtype.names is not None
    names = rows.dtype.names
    schema = pa.schema([(name, _arrow_type(rows.dtype[name])) for name in names])
    temporary = path.with_name(path.name + ".tmp")
    try:
        with pq.ParquetWriter(
            temporary,
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[name for name in names if name not in GROWING],
            column_encoding=dict.fromkeys(GROWING & {*names}, "DELTA_BINARY_PACKED"),
        ) as writer:
            for start in range(0, max(1, len(rows)), ROW_GROUP):
                part = rows[start : start + ROW_GROUP] if order is None else rows[order[start : start + ROW_GROUP]]
                columns = [_column(part[name]) for name in names]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=ROW_GROUP)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_columns(path: Path, columns: Mapping[str, Sequence[object] | npt.NDArray[np.generic]]) -> None:
    """Write named columns. A list of strings that repeats is stored once per value. Raises OSError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    temporary = path.with_name(path.name + ".tmp")
    try:
        pq.write_table(pa.table(dict(columns)), temporary, compression="zstd", row_group_size=ROW_GROUP)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def names_by_code(codes: npt.NDArray[np.integer], names: Sequence[str]) -> pa.DictionaryArray:
    """A string column given as indices into `names`."""
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(list(names), pa.string()))


def read_array(path: Path, dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """The columns of `path` that `dtype` names, as rows; a file that is not there has no rows.

    Raises RunFileError when it is truncated, not Parquet, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert dtype.names is not None
    if not path.is_file():
        return np.empty(0, dtype)
    hint = "the run cannot be opened; record it again"
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in dtype.names if name not in file.schema_arrow.names]
            if missing:
                raise RunFileError(f"{path} is damaged: no column {', '.join(missing)}", hint)
            rows = np.empty(file.metadata.num_rows, dtype)
            at = 0
            for batch in file.iter_batches(ROW_GROUP, columns=list(dtype.names)):
                part = rows[at : at + batch.num_rows]
                at += batch.num_rows
                for name in dtype.names:
                    column = batch.column(name)
                    values = column.flatten() if dtype[name].shape else column
                    part[name] = values.to_numpy(zero_copy_only=False).reshape(part[name].shape)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RunFileError(f"{path} is damaged: {str(error).splitlines()[0]}", hint) from error
    return rows


def _arrow_type(dtype: np.dtype[np.generic]) -> pa.DataType:
    import pyarrow as pa

    if dtype.subdtype is not None:
        return pa.list_(pa.from_numpy_dtype(dtype.subdtype[0]), int(np.prod(dtype.shape)))
    return pa.from_numpy_dtype(dtype)


def _column(values: npt.NDArray[np.generic]) -> pa.Array:
    import pyarrow as pa

    if values.ndim > 1:
        return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])
    return pa.array(np.ascontiguousarray(values))
