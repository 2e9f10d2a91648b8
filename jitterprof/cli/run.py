"""`jitterprof run`."""

from pathlib import Path
from typing import Annotated

import typer

from jitterprof.cli.outcome import end_with

EXAMPLES = """
Examples:
  # a small model, as fast as it goes, for 30 s
  jitterprof run mlp
  # 300 requests/s at random times; response times count from the schedule
  jitterprof run silero-vad --arrival poisson:300
  # your own model, on CPUs 2 and 3
  jitterprof run model.onnx --dim batch=4 --cpus 2-3 --threads 2 --duration 2m
  # any Python callable; slow means above 10 ms
  jitterprof run my.py:build --slo 10ms --out before.jprof
  # for hours: full detail around slow requests only
  jitterprof run silero-vad --arrival poisson:300 --duration 4h --keep tail
  # a setting for this run only: nothing of the host changes
  jitterprof run decoder --backend torch --set policy=FIFO:10
"""


def run(
    workload: Annotated[
        str,
        typer.Argument(
            metavar="WORKLOAD",
            help="A name (see doctor), a model.onnx, a TorchScript or exported torch file, or my.py:build.",
        ),
    ],
    backend: Annotated[str, typer.Option(metavar="NAME", help="onnxruntime, torch, null, or auto.")] = "auto",
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda or rocm.")] = "cpu",
    threads: Annotated[int, typer.Option(metavar="N", help="Intra-op threads of the runtime.", min=1)] = 1,
    workers: Annotated[
        int, typer.Option(metavar="N", help="Worker threads that serve requests side by side.", min=1)
    ] = 1,
    cpus: Annotated[
        str, typer.Option(metavar="LIST", help="CPUs of the workload, e.g. 2-3,6; all that are allowed by default.")
    ] = "",
    arrival: Annotated[
        str, typer.Option(metavar="PROCESS", help="closed, poisson:RATE, constant:RATE (per second) or replay:FILE.")
    ] = "closed",
    duration: Annotated[str, typer.Option(metavar="TIME", help="Length of the measured part: 30s, 2m.")] = "30s",
    requests: Annotated[
        int | None, typer.Option(metavar="N", help="Measure this many requests instead of a duration.", min=1)
    ] = None,
    warmup: Annotated[
        str, typer.Option(metavar="TIME", help="Served before the measured part, and left out of it.")
    ] = "2s",
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the arrival times and of the inputs.", min=0)] = 0,
    probes: Annotated[
        str, typer.Option(metavar="MODE", help="auto, bpf, clocks (in-kernel sums only), procfs (no BPF) or none.")
    ] = "auto",
    keep: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="all events, or tail: those around slow requests and a random sample, for recordings of hours.",
        ),
    ] = "all",
    slo: Annotated[
        str | None, typer.Option(metavar="TIME", help="What counts as slow, e.g. 10ms; the session's p99 by default.")
    ] = None,
    dim: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N", help="Size of a dynamic axis of an ONNX model: NAME=N. Repeatable."),
    ] = None,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SHAPE", help="Shape of one input of a torch file: 1x3x224x224 or 1x16:int64. Repeatable."
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KNOB=VALUE", help="A thread or runtime setting for this run only: KNOB=VALUE. Repeatable."
        ),
    ] = None,
    gc: Annotated[
        str, typer.Option(metavar="MODE", help="Python's garbage collector in the workload: frozen or on.")
    ] = "frozen",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run directory to make; WORKLOAD-TIME.jprof by default.")
    ] = None,
    top: Annotated[int, typer.Option(metavar="N", help="How many of the slowest requests to show.", min=0)] = 5,
    json_output: Annotated[bool, typer.Option("--json", help="Print the explanation as one JSON document.")] = False,
) -> None:
    """Drive a model under load and explain its slow requests."""
    from jitterprof.cli.explain import show
    from jitterprof.cli.progress import session_progress
    from jitterprof.cli.spec import default_out, run_spec
    from jitterprof.experiment.session import record_session

    spec = run_spec(
        workload,
        backend=backend,
        device=device,
        threads=threads,
        workers=workers,
        cpus=cpus,
        arrival=arrival,
        duration=duration,
        requests=requests,
        warmup=warmup,
        seed=seed,
        probes=probes,
        keep=keep,
        slo=slo,
        dims=dim or [],
        input_shapes=input_shape or [],
        settings=setting or [],
        gc=gc,
    )
    with session_progress(quiet=json_output) as listen:
        recording = record_session(spec, out or default_out(workload), listen)
        listen("explaining", None)
    show(recording.run, top=top, as_json=json_output)
    if not json_output:
        typer.echo(f"\nRecorded in {recording.path}. More: jitterprof explain {recording.path} --top 20", err=True)
    if recording.trouble is not None:
        end_with(recording.trouble)


run.__doc__ = f"{run.__doc__}\n\n\b{EXAMPLES}"
