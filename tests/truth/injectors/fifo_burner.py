"""A SCHED_FIFO loop on the victim's CPU: the victim is runnable and the CPU is held by `jp-fifo`."""

from program import begin, native

if __name__ == "__main__":
    native(begin("fifo_burner"), "fifo_burner")
