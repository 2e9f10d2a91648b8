"""`jitterprof doctor --calibrate`."""

import json
import sys

from jitterprof.cli.outcome import standard_output


def calibrate(pulses: int, json_output: bool) -> None:
    """Inject every fault that this host allows, and print how right the blame was."""
    from jitterprof.analysis.selfcheck import judge
    from jitterprof.analysis.session_ledger import session_ledger
    from jitterprof.cli.progress import session_progress
    from jitterprof.experiment.selfcheck import recorded_faults

    with session_progress(quiet=json_output) as listen, recorded_faults(pulses, listen) as recorded:
        listen("comparing the blame with the log", None)
        run = recorded.recording.run
        check = judge(run, session_ledger(run), recorded.log)
    with standard_output():
        if json_output:
            from jitterprof.export.selfcheck_document import selfcheck_document

            json.dump(selfcheck_document(check), sys.stdout, indent=1)
            sys.stdout.write("\n")
        else:
            from jitterprof.export.console_selfcheck import print_selfcheck

            print_selfcheck(check)
