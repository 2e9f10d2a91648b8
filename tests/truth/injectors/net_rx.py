"""A UDP stream over loopback, sent by `jp-udp` on another CPU and received in NET_RX on the victim's."""

from pathlib import Path

from program import begin, native

_RPS = Path("/sys/class/net/lo/queues/rx-0/rps_cpus")

if __name__ == "__main__":
    plan = begin("net_rx", extra=lambda parser: parser.add_argument("--every-us", type=float, default=20.0))
    before = _RPS.read_text().strip()
    high, low = divmod(1 << plan.cpu, 1 << 32)
    try:
        _RPS.write_text(f"{high:x},{low:08x}" if high else f"{low:x}")
        native(plan, "net_rx", round(plan.arguments.every_us * 1e3))
    finally:
        _RPS.write_text(before)
