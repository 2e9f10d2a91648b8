"""threads.parquet: every thread that the events name."""

import numpy as np
import numpy.typing as npt

from jitterprof.model.event import EventKind
from jitterprof.model.run import Manifest


def thread_columns(events: npt.NDArray[np.void], manifest: Manifest) -> dict[str, list[object]]:
    """Columns tid, tgid, comm, kernel, cgroup, victim: the last name and cgroup that the events give each thread."""
    names = _last_by_tid(events[events["kind"] == EventKind.TASK])
    groups = _last_by_tid(events[events["kind"] == EventKind.TASK_CGROUP])
    cgroup_of = dict(zip(groups["tid"].tolist(), groups["a"].tolist(), strict=True))
    comm = np.ascontiguousarray(np.stack([names["a"], names["b"]], axis=1).astype("<u8")).view("S16").reshape(-1)
    switched = events["tid"][np.isin(events["kind"], (EventKind.SWITCH_OUT, EventKind.SWITCH_IN))]
    victims = {*np.unique(switched).tolist(), *manifest.worker_tids}
    processes = set(manifest.pids)
    tids, processes_of = names["tid"].tolist(), names["other"].tolist()
    return {
        "tid": tids,
        "tgid": processes_of,
        "comm": [text.decode("utf-8", "replace") for text in comm.tolist()],
        "kernel": (names["flags"] & 1).astype(bool).tolist(),
        "cgroup": [manifest.cgroups.get(str(cgroup_of.get(tid, "")), "") for tid in tids],
        "victim": [tid in victims or tgid in processes for tid, tgid in zip(tids, processes_of, strict=True)],
    }


def _last_by_tid(events: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    if not len(events):
        return events
    order = np.lexsort((events["ts"], events["tid"]))
    last = np.append(np.diff(events["tid"][order].astype(np.int64)) != 0, True)
    kept: npt.NDArray[np.void] = events[order[last]]
    return kept
