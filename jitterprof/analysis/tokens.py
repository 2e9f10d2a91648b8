"""Generated tokens explained like requests: a token's response time is the gap since the token before it.

The first token of a request is left out, as the field does: it pays for the prompt, and belongs to the request's own
latency.
"""

from dataclasses import replace

import numpy as np

from jitterprof.errors import SpecError
from jitterprof.model.request import Kind, Phase
from jitterprof.store import Run


def token_view(run: Run) -> Run:
    """`run` with its measured tokens in place of its requests. Raises SpecError where no tokens were recorded."""
    tokens = run.requests[(run.requests["kind"] == Kind.TOKEN) & (run.requests["phase"] == Phase.MEASURED)].copy()
    if not len(tokens):
        raise SpecError(f"{run.path} has no tokens", "tokens are recorded for models that generate, such as decoder")
    _, first = np.unique(np.stack([tokens["worker"].astype(np.int64), tokens["parent"]]), axis=1, return_index=True)
    later = np.ones(len(tokens), bool)
    later[first] = False
    tokens = tokens[later]
    tokens["kind"] = Kind.REQUEST
    spec = replace(run.manifest.spec, workload=f"{run.manifest.spec.workload} (tokens)", slo_ns=None)
    # State clocks and /proc counters are of requests; a token has none of its own.
    counted = {name: getattr(run, name)[:0] for name in ("clocks", "procfs", "states")}
    return replace(run, requests=tokens, manifest=replace(run.manifest, spec=spec), **counted)
