"""Sessions of the flight recorder (`--keep tail`): which requests have full detail, and one ledger for all of them.

Outside the kept windows the events were thrown away, so what they seem to say there is void. Those requests have a
ledger from their state clocks: causes, but no culprits.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from jitterprof.analysis.degraded import ledger_from_clocks
from jitterprof.analysis.evidence import Evidence, evidence_of
from jitterprof.analysis.ledger import previous_end
from jitterprof.model.ledger import Ledger
from jitterprof.model.request import Kind, Phase
from jitterprof.model.stream import Why
from jitterprof.store import Run
from jitterprof.units import NS_PER_S

Flags = npt.NDArray[np.bool_]


def keeps_tail(run: Run) -> bool:
    """Whether `run` has events of some of its requests only."""
    return run.manifest.spec.keep == "tail" and run.manifest.probe_mode == "bpf"


def run_evidence(run: Run) -> Evidence:
    """The evidence of a session, whatever it kept: only what was lost is a gap, not what was thrown away."""
    evidence = evidence_of(run.manifest, run.events, run.gc)
    if not keeps_tail(run):
        return evidence
    # A window is written when it is whole: a recording that was cut is known to its last window's end.
    end = max(evidence.window[1], int(run.windows["end_ns"].max(initial=0)))
    return replace(evidence, gaps=run.losses, window=(evidence.window[0], end))


def detailed_rows(run: Run) -> Flags:
    """bool[requests]: whether all events of the request were kept, from when its worker was free for it to its end.

    True everywhere where all events of the session were kept.
    """
    requests = run.requests
    if not keeps_tail(run):
        return np.ones(len(requests), bool)
    detailed = np.zeros(len(requests), bool)
    for kind in Kind:
        rows = np.flatnonzero(requests["kind"] == kind)
        mine = requests[rows]
        ready = np.clip(previous_end(mine), mine["intended_ns"], mine["start_ns"])
        detailed[rows] = within_one(ready, mine["end_ns"], run.windows)
    return detailed


def sampled_rows(run: Run) -> Flags | None:
    """bool[requests]: those with full detail that were chosen without a look at how long they took: they stand for all.
    None where all events of the session were kept, so that every request stands for itself."""
    if not keeps_tail(run):
        return None
    requests, windows = run.requests, run.windows
    drawn = windows[windows["why"] & Why.SAMPLE != 0]
    # A token was drawn with its request.
    number = np.where(requests["parent"] >= 0, requests["parent"], requests["seq"])
    keys = number * (len(Phase) + 1) + requests["phase"]
    chosen = np.isin(keys, drawn["seq"] * (len(Phase) + 1) + drawn["phase"])
    start = windows[windows["why"] & Why.START != 0]
    chosen |= within_one(requests["intended_ns"], requests["end_ns"], start)
    sampled: Flags = chosen & detailed_rows(run)
    return sampled


def within_one(start: npt.NDArray[np.int64], end: npt.NDArray[np.int64], windows: npt.NDArray[np.void]) -> Flags:
    """Whether each [start, end] lies in one stretch of `windows` (closed; they may overlap)."""
    if not len(windows):
        return np.zeros(len(start), bool)
    windows = windows[np.argsort(windows["start_ns"], kind="stable")]
    reach = np.maximum.accumulate(windows["end_ns"])
    opens = np.flatnonzero(np.append(True, windows["start_ns"][1:] > reach[:-1] + 1))
    first, last = windows["start_ns"][opens], reach[np.append(opens[1:] - 1, len(reach) - 1)]
    at = np.searchsorted(first, start, "right") - 1
    within: Flags = (at >= 0) & (last[np.maximum(at, 0)] >= end)
    return within


def detail_line(run: Run, rows: npt.NDArray[np.intp], tail: npt.NDArray[np.intp]) -> str:
    """What was kept, in words. `rows`: the requests that are explained; `tail`: the spikes among them."""
    detailed = detailed_rows(run)
    start, end = run.manifest.window_ns
    size = sum(file.stat().st_size for file in run.path.iterdir()) if run.path.is_dir() else 0
    rate = f", {size / 1e6 * 3600 * NS_PER_S / (end - start):.3g} MB per hour" if end > start and size else ""
    return (
        f"--keep tail: {int(detailed[tail].sum())} of {len(tail)} spikes and {int(detailed[rows].sum())} of {len(rows)}"
        f" requests have full detail{rate}; of the others the causes are known, not the culprits"
    )


def mixed_ledger(run: Run, from_events: Callable[[Run, Evidence], Ledger]) -> Ledger:
    """One ledger of all requests: `from_events` of those with full detail, of the others from the state clocks.

    `from_events` is given the session as if only the former had been measured: the phase of the others is WARMUP.
    """
    evidence = run_evidence(run)
    detailed = detailed_rows(run)
    requests = run.requests.copy()
    requests["phase"][~detailed & (requests["phase"] == Phase.MEASURED)] = Phase.WARMUP
    return merge_ledgers(
        from_events(replace(run, requests=requests), evidence),
        ledger_from_clocks(run.requests, run.states, evidence),
        detailed,
    )


def merge_ledgers(one: Ledger, other: Ledger, rows: Flags) -> Ledger:
    """The pieces of `one` for `rows` (bool[requests]), those of `other` for the rest."""
    names = {name: number for number, name in enumerate(one.culprits)}
    code = np.array([names.setdefault(name, len(names)) for name in other.culprits], np.int32)
    ours = np.zeros(len(names), bool)
    ours[: len(one.culprits)] = one.observer
    ours[code] |= other.observer
    theirs = other.pieces[~rows[other.pieces["row"]]]
    theirs["culprit"] = code[theirs["culprit"]]
    pieces = np.concatenate([one.pieces[rows[one.pieces["row"]]], theirs])
    pieces = pieces[np.argsort(pieces["row"], kind="stable")]
    return Ledger(pieces, tuple(names), ours)
