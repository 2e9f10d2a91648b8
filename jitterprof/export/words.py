"""Causes in words: the phrase, the letter and the colour of each, and a request as a sum that adds up."""

from dataclasses import dataclass

from jitterprof.analysis.counterfactual import Counterfactual
from jitterprof.analysis.distribution import round_to_total
from jitterprof.analysis.episodes import Episode
from jitterprof.analysis.explanation import Part, Spike
from jitterprof.model.cause import Cause
from jitterprof.units import NS_PER_MS, NS_PER_S, NS_PER_US, format_ns

#: More parts than this make a sentence unreadable; the smallest are then added up.
PARTS_MAX = 6
#: What a request inherited in smaller parts of its time than this is added up.
INHERITED_MIN = 0.02
#: Losses that fill at least this part of the time they lie in are one: a tick in between makes two pieces of them.
_WHOLE = 0.9


@dataclass(frozen=True, slots=True)
class Look:
    """How a cause reads (with and without a culprit) and how its part of a bar looks (with and without colour)."""

    alone: str
    phrase: str
    letter: str
    colour: str


LOOKS: dict[str, Look] = {
    Cause.RUN.id: Look("run", "run", "-", "green"),
    Cause.HARDIRQ.id: Look("interrupt", "interrupt {}", "h", "bright_red"),
    Cause.TIMER.id: Look("timer", "timer {}", "t", "bright_magenta"),
    Cause.IPI.id: Look("ipi", "ipi {}", "i", "magenta"),
    Cause.SOFTIRQ.id: Look("softirq", "softirq {}", "s", "bright_yellow"),
    Cause.NMI.id: Look("nmi", "nmi {}", "n", "bright_red"),
    Cause.PREEMPTED.id: Look("preempted", "preempted by {}", "P", "red"),
    Cause.WAKEUP.id: Look("waking up", "waking up behind {}", "W", "dark_orange"),
    Cause.THROTTLED.id: Look("throttled", "throttled in {}", "T", "purple"),
    Cause.PAGE_FAULT.id: Look("page faults", "page faults {}", "f", "blue"),
    Cause.RECLAIM.id: Look("memory reclaim", "memory reclaim {}", "m", "bright_blue"),
    Cause.BLOCK_IO.id: Look("disk", "disk {}", "D", "cyan"),
    Cause.LOCK.id: Look("lock", "lock released by {}", "L", "yellow"),
    Cause.GC.id: Look("gc", "gc {}", "G", "bright_cyan"),
    Cause.NET.id: Look("net", "net {}", "N", "bright_blue"),
    Cause.SLEEP.id: Look("sleep", "sleep {}", "z", "bright_black"),
    Cause.STOPPED.id: Look("stopped", "stopped by {}", "X", "bright_red"),
    Cause.GPU.id: Look("gpu", "gpu {}", "g", "bright_green"),
    Cause.SPIN.id: Look("spinning", "spinning for {}", "w", "orange3"),
    Cause.STEAL.id: Look("steal", "steal {}", "v", "deep_pink2"),
    Cause.QUEUE.id: Look("queue", "queue ({})", "q", "bright_white"),
    Cause.DISPATCH.id: Look("dispatch", "dispatch {}", "d", "white"),
    Cause.UNKNOWN.id: Look("unknown", "unknown ({})", "?", "bright_black"),
}

#: Culprits that name the whole thing: "waking up behind idle exit" would be nonsense.
_SELF_EVIDENT = ("idle exit",)


#: The event itself, where the phrase says what the request suffered.
_NOUNS = {
    Cause.PREEMPTED.id: ("preemption", "preemption by {}"),
    Cause.WAKEUP.id: ("wait for a CPU", "wait for a CPU held by {}"),
    Cause.THROTTLED.id: ("throttling", "throttling in {}"),
    Cause.STOPPED.id: ("stop", "stop by {}"),
    Cause.LOCK.id: ("wait for a lock", "wait for a lock released by {}"),
    Cause.SPIN.id: ("spinning", "spinning for {}"),
    Cause.UNKNOWN.id: ("unknown time", "unknown time ({})"),
}


def noun(cause: str, culprit: str) -> str:
    """ "preemption by stress-ng/4711", "softirq NET_RX"."""
    if culprit in _SELF_EVIDENT or cause not in _NOUNS:
        return phrase(cause, culprit)
    alone, by = _NOUNS[cause]
    return by.format(culprit) if culprit else alone


def phrase(cause: str, culprit: str) -> str:
    """ "preempted by stress-ng/4711", "softirq NET_RX", "run"."""
    look = LOOKS[cause]
    if not culprit:
        return look.alone
    return culprit if culprit in _SELF_EVIDENT else look.phrase.format(culprit)


@dataclass(frozen=True, slots=True)
class Term:
    """One term of the sum: `ns` of a cause and culprit, over all CPUs and threads; `origin_seq` as in Part."""

    cause: str
    culprit: str
    origin_seq: int | None
    ns: int

    @property
    def text(self) -> str:
        """ "softirq NET_RX", "queued behind #1292's softirq NET_RX"."""
        if self.origin_seq is None:
            return phrase(self.cause, self.culprit)
        what = "longer run" if self.cause == Cause.QUEUE.id else noun(self.cause, self.culprit)
        return f"queued behind #{self.origin_seq}'s {what}"


def merge_parts(parts: tuple[Part, ...]) -> list[Term]:
    """Over all CPUs and threads: `run` first, then the largest."""
    sums: dict[tuple[str, str, int | None], int] = {}
    for part in parts:
        key = (part.cause, part.culprit, part.origin_seq)
        sums[key] = sums.get(key, 0) + part.ns
    ordered = sorted(sums.items(), key=lambda entry: (entry[0][0] != Cause.RUN.id, -entry[1]))
    return [Term(*key, ns) for key, ns in ordered]


def sentence(spike: Spike) -> str:
    """ "11.8 ms = 3.1 run + 6.9 preempted by stress-ng/4711 + ...": what is printed adds up to what is printed.

    Parts that round to nothing are left out.
    """
    unit, size = _unit(spike.response_ns)
    decimals = 0 if size == 1 else 2 if spike.response_ns < 10 * size else 1 if spike.response_ns < 100 * size else 0
    quantum = size // 10**decimals
    merged = merge_parts(spike.ledger)
    small = [term for term in merged if term.origin_seq is not None and term.ns < INHERITED_MIN * spike.response_ns]
    merged = [term for term in merged if term not in small] if len(small) > 1 else merged
    shown, rest = merged[:PARTS_MAX], merged[PARTS_MAX:]
    terms = [(term.text, term.ns) for term in shown]
    if rest:
        terms.append((f"{len(rest)} others", sum(term.ns for term in rest)))
    if len(small) > 1:
        terms.append(("queued behind smaller delays", sum(term.ns for term in small)))
    rounded = round_to_total([ns for _, ns in terms], quantum)
    total = sum(rounded)
    written = [f"{ns / size:.{decimals}f} {text}" for (text, _), ns in zip(terms, rounded, strict=True) if ns]
    return f"{total / size:.{decimals}f} {unit} = {' + '.join(written) or '0'}"


def story(episode: Episode) -> str:
    """ "one 8.00 ms softirq NET_RX at +12.3 s on CPU 1 made 23 requests slow (#1290-#1312)"."""
    what = "run" if episode.cause == Cause.QUEUE.id else noun(episode.cause, episode.culprit)
    when = f"at +{format_ns(episode.at_ns)}"
    lost = f"one {format_ns(episode.ns)} {what}"
    # Losses of several workers at a time add up to more than the time they lie in.
    if not _WHOLE <= episode.ns / max(1, episode.end_ns - episode.start_ns) <= 1:
        lost = f"{format_ns(episode.ns)} of {what}"
        when += f" within {format_ns(episode.end_ns - episode.start_ns)}"
    where = f" on CPU {episode.cpu}" if episode.cpu >= 0 else ""
    who = f"#{episode.first_seq}-#{episode.last_seq}"
    return f"{lost} {when}{where} made {episode.requests} requests slow ({who})"


def change(row: Counterfactual) -> str:
    """ "3.90 ms -> 1.20 ms (1.10 - 1.40)", with the interval in the unit of the figure before it."""
    text = f"{format_ns(row.as_measured_ns)} -> {format_ns(row.without_ns)}"
    if row.low_ns is None or row.high_ns is None:
        return text
    _, size = _unit(row.without_ns)
    low, high = row.low_ns / size, row.high_ns / size
    decimals = 2 if high < 10 else 1 if high < 100 else 0
    return f"{text} ({low:.{decimals}f} - {high:.{decimals}f})"


def _unit(ns: int) -> tuple[str, int]:
    for unit, size in (("s", NS_PER_S), ("ms", NS_PER_MS), ("us", NS_PER_US)):
        if ns >= size:
            return unit, size
    return "ns", 1
