"""`explain` on a terminal: the answer first, then the slowest requests, then how far to trust it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitterprof.analysis.blame import NOT_NAMED, BlameRow
from jitterprof.analysis.counterfactual import Counterfactual
from jitterprof.analysis.distribution import round_to_total
from jitterprof.analysis.explanation import Explanation, Spike
from jitterprof.export.words import LOOKS, change, merge_parts, noun, phrase, sentence, story
from jitterprof.units import NS_PER_S, format_ns

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_NOT_NAMED = tuple(cause.id for cause in NOT_NAMED)
_BAR_MAX = 60
#: Columns that a bar leaves for the number before it and the note behind it.
_NOTE_ROOM = 46
#: Episodes listed.
_EPISODES = 5
#: From this width on three quantiles fit side by side.
_WIDE = 100
#: A cause moves a quantile when it makes at least this part of it.
_MOVES = 0.01


def print_explanation(explanation: Explanation, console: Console | None = None) -> None:
    """Print `explanation` to `console` (standard output by default), for any width from 60 columns on."""
    from rich.console import Console

    console = console or Console(highlight=False)
    _print_header(explanation, console)
    if not explanation.latency.count:
        _print_health(explanation, console)
        return
    console.print()
    if explanation.spike_count:
        _print_blame(explanation, console)
    else:
        limit = "the SLO" if explanation.slo_ns is not None else "p99"
        console.print(f"No request is above {limit} ({format_ns(explanation.threshold_ns)}): nothing to explain.")
    if explanation.counterfactuals:
        console.print()
        _print_counterfactuals(explanation, console)
    if explanation.episodes:
        console.print()
        _print_episodes(explanation, console)
    if explanation.spikes:
        console.print()
        _print_spikes(explanation, console)
    console.print()
    _print_health(explanation, console)


def _print_header(explanation: Explanation, console: Console) -> None:
    from rich.text import Text

    session, latency = explanation.session, explanation.latency
    kernel = f"Linux {session.kernel}" if session.kernel else ""
    facts = [
        f"{session.backend} on {session.device}",
        f"arm {session.arm}" if session.arm else "",
        f"{latency.count} requests in {session.duration_ns / NS_PER_S:.1f} s",
        f"{kernel} HZ={session.hz}" if kernel and session.hz else kernel,
    ]
    facts = [fact for fact in facts if fact]
    # The kernel goes whole to a line of its own where the first is full.
    if len(" · ".join([session.workload, *facts])) > console.width and kernel:
        facts[-1] = f"\n{facts[-1]}"
    head = Text(session.workload, "bold")
    for fact in facts:
        head.append(fact if fact.startswith("\n") else f" · {fact}", "not bold")
    console.print(head)
    if not latency.count:
        return
    quantiles = (
        ("p50", latency.p50_ns),
        ("p90", latency.p90_ns),
        ("p99", latency.p99_ns),
        ("p99.9", latency.p99_9_ns),
        ("max", latency.max_ns),
    )
    console.print("   ".join(f"{name} [bold]{format_ns(ns)}[/]" for name, ns in quantiles))


def _print_blame(explanation: Explanation, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    blame, count = explanation.blame, explanation.spike_count
    limit = f"{'the SLO' if explanation.slo_ns is not None else 'p99'} ({format_ns(explanation.threshold_ns)})"
    spikes = "1 request" if count == 1 else f"{count} requests"
    console.print(f"{spikes} above {limit}, on average {format_ns(blame.excess_ns)} slower than usual for the shape.")
    console.print(Text(_verdict(explanation), "bold"))
    if not blame.rows:
        return
    console.print()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("cause", no_wrap=True)
    table.add_column("culprit", overflow="fold", max_width=44)
    for name in ("share", "per spike", "spikes hit", "by chance"):
        table.add_column(name, justify="right", no_wrap=True)
    percents = round_to_total([*(100 * row.share for row in blame.rows), 100 * blame.minor_share])
    for row, percent in zip(blame.rows, percents, strict=False):
        # What rounds to nothing would only be in the way; `--json` has it.
        if percent or row.cause == "run":
            _add_row(table, row, percent, explanation)
    if blame.minor_ns:
        table.add_row(
            Text("the rest", "dim"),
            "not above chance",
            _percent(blame.minor_share, percents[-1]),
            format_ns(blame.minor_ns),
            "",
            "",
        )
    console.print(table)


def _add_row(table: Table, row: BlameRow, percent: int, explanation: Explanation) -> None:
    from rich.text import Text

    culprit = row.culprit
    if row.cause == "queue":
        culprit = culprit or f"load: {_busy(explanation)}"

    # For time on the CPU or not observed, chance is no alternative explanation.
    null = (
        ""
        if row.null_share is None or row.cause in _NOT_NAMED
        else f"{max(0.0, row.null_share):.0%}".replace("%", " %")
    )
    table.add_row(
        Text(row.cause, LOOKS[row.cause].colour),
        Text(culprit),
        _percent(row.share, percent),
        format_ns(row.excess_ns),
        f"{row.requests} of {explanation.spike_count}",
        null,
    )


def _verdict(explanation: Explanation) -> str:
    named = [row for row in explanation.causes if row.cause not in _NOT_NAMED]
    if named:
        first = named[0]
        share = sum(row.share for row in named)
        more = "" if len(named) == 1 else f"; all named causes together {share:.0%}"
        return f"{_capital(phrase(first.cause, first.culprit))}: {first.share:.0%} of that{more}.".replace("%", " %")
    shares = {"run": 0.0, "queue": 0.0}
    for row in explanation.causes:
        if row.cause in shares:
            shares[row.cause] += row.share
    where = ""
    if shares["queue"] >= 0.5:
        where = f" {shares['queue']:.0%} of that is queueing behind earlier requests, {_busy(explanation)}."
    elif shares["run"] >= 0.5:
        where = f" {shares['run']:.0%} of that is the request's own running time."
    return f"No kernel cause stands out.{where}".replace("%", " %").replace("  %", " %")


def _busy(explanation: Explanation) -> str:
    return f"workers {explanation.utilisation:.0%} busy".replace("%", " %")


def _percent(share: float, rounded: int) -> str:
    return "< 1 %" if rounded == 0 and share > 0 else f"{rounded} %"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _print_counterfactuals(explanation: Explanation, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    rows = explanation.counterfactuals
    names = list(dict.fromkeys(row.quantile for row in rows))
    # What nothing moves says nothing; where there is no room for three, the tail matters more.
    moved = [name for name in names if any(_moves(row) for row in rows if row.quantile == name)] or names[1:]
    shown = moved[-2:] if console.width < _WIDE else moved
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("without (95 % interval)", overflow="fold")
    for name in shown:
        table.add_column(name, no_wrap=True)
    for cause, culprit in dict.fromkeys((row.cause, row.culprit) for row in rows):
        mine = {row.quantile: row for row in rows if (row.cause, row.culprit) == (cause, culprit)}
        table.add_row(Text(noun(cause, culprit)), *(change(mine[name]) for name in shown))
    console.print(table)
    reasons = dict.fromkeys(row.reason for row in rows if row.reason and row.quantile in shown)
    for reason in reasons:
        console.print(Text(f"no interval: {reason}", "dim"))


def _moves(row: Counterfactual) -> bool:
    return row.first_ns > _MOVES * row.as_measured_ns


def _print_episodes(explanation: Explanation, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    episodes = explanation.episodes
    requests = sum(episode.requests for episode in episodes)
    many = "1 episode" if len(episodes) == 1 else f"{len(episodes)} episodes"
    console.print(Text(f"{many} made {requests} of the {explanation.spike_count} slow", "bold"))
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column()
    for episode in episodes[:_EPISODES]:
        grid.add_row(Text("-", LOOKS[episode.cause].colour), Text(story(episode)))
    if len(episodes) > _EPISODES:
        grid.add_row("", Text(f"and {len(episodes) - _EPISODES} smaller ones", "dim"))
    console.print(grid)


def _print_spikes(explanation: Explanation, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    spikes = explanation.spikes
    title = "Slowest requests" if len(spikes) > 1 else f"Request {spikes[0].seq}"
    console.print(Text(title, "bold"))
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True, justify="right", style="bold")
    grid.add_column()
    widest = min(_BAR_MAX, console.width - _NOTE_ROOM)
    longest = max(spike.response_ns for spike in spikes)
    bars = [_cells(spike, max(1, round(widest * spike.response_ns / max(1, longest)))) for spike in spikes]
    for spike, cells in zip(spikes, bars, strict=True):
        doubt = "" if spike.confidence == "high" else f", {spike.confidence} confidence"
        bar = _bar(cells, console)
        bar.append(f"  usual {format_ns(spike.baseline_ns)}{doubt}", "dim")
        grid.add_row(f"#{spike.seq}", Text(sentence(spike)))
        grid.add_row("", bar)
    console.print(grid)
    console.print(_legend(bars, explanation, console))


def _cells(spike: Spike, width: int) -> list[tuple[str, int]]:
    """(cause, cells) of a bar of `width` cells; what is too short for one is not in it."""
    merged = merge_parts(spike.ledger)
    cells = round_to_total([width * term.ns / max(1, spike.response_ns) for term in merged])
    return [(term.cause, length) for term, length in zip(merged, cells, strict=True) if length]


def _bar(cells: list[tuple[str, int]], console: Console) -> Text:
    from rich.text import Text

    bar = Text(no_wrap=True)
    for cause, length in cells:
        bar.append(_glyph(cause, console) * length, LOOKS[cause].colour)
    return bar


def _legend(bars: list[list[tuple[str, int]]], explanation: Explanation, console: Console) -> Text:
    from rich.text import Text

    causes = dict.fromkeys(cause for cells in bars for cause, _ in cells)
    names = {cause: f"queue ({_busy(explanation)})" if cause == "queue" else cause for cause in causes}
    entries = [
        Text.assemble((_glyph(cause, console), LOOKS[cause].colour), (f" {name}", "dim"))
        for cause, name in names.items()
    ]
    return _fill(entries, "   ", console.width)


def _fill(entries: list[Text], gap: str, width: int) -> Text:
    """Entries one after the other, with line breaks only between them."""
    from rich.text import Text

    filled = Text()
    used = 0
    for entry in entries:
        if used and used + len(gap) + len(entry) > width:
            filled.append("\n")
            used = 0
        elif used:
            filled.append(gap)
            used += len(gap)
        filled.append_text(entry)
        used += len(entry)
    return filled


def _glyph(cause: str, console: Console) -> str:
    plain = console.color_system is None or console.no_color
    return LOOKS[cause].letter if plain else "█"


def _print_health(explanation: Explanation, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    health = explanation.health
    figures = [
        f"events lost {health.lost_events}",
        f"unknown {health.unknown_share:.2%}",
        f"jitterprof itself {health.observer_share:.2%}",
    ]
    if health.floor.count:
        figures.append(f"generator floor p99.9 {format_ns(health.floor.p99_9_ns)}")
    if health.dispatch_lag.count:
        figures.append(f"dispatch lag p99 {format_ns(health.dispatch_lag.p99_ns)}")
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True, justify="right", style="bold")
    grid.add_column()
    entries = [Text(figure.replace("%", " %")) for figure in figures]
    grid.add_row("Health", _fill(entries, " · ", console.width - len("Health ")))
    for line in health.caveats:
        loud = line in health.loud
        grid.add_row(Text("!", "bold red") if loud else Text("-", "dim"), Text(line, "" if loud else "dim"))
    console.print(grid)
