"""Whatever is cut off, what is read is a prefix of what was written."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from fakes import switch_events
from hypothesis import given, settings
from hypothesis import strategies as st

from jitterprof.store import EventStream, read_events
from jitterprof.store.histogram_log import fill_histogram


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=6), st.data())
def test_any_prefix_of_a_stream_reads_as_a_prefix_of_its_events(batches: list[int], data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "events.stream"
        events = switch_events(sum(batches))
        with EventStream(path) as stream:
            for start, size in zip(np.cumsum([0, *batches]), batches, strict=False):
                stream.write_batch(events[start : start + size])
        content = path.read_bytes()
        kept = data.draw(st.integers(0, len(content)))
        path.write_bytes(content[:kept])
        read = read_events(path)
        assert np.array_equal(read.events, events[: len(read.events)])
        full = [size for size in batches if size]
        ends = np.cumsum([0, *(16 + 40 * size for size in full)])
        assert len(read.events) == sum(full[: int(np.searchsorted(ends, kept, "right")) - 1])
        assert read.dropped_bytes == kept - ends[ends <= kept].max()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3_600_000_000_000), min_size=1, max_size=200))
def test_bulk_filled_histogram_equals_one_filled_value_by_value(values: list[int]) -> None:
    from hdrh.histogram import HdrHistogram

    single = HdrHistogram(1, 3_600_000_000_000, 3)
    for value in values:
        single.record_value(value)
    bulk = fill_histogram(np.array(values, np.int64))
    assert list(bulk.counts) == list(single.counts)
    assert bulk.get_max_value() == single.get_max_value()
