// SPDX-License-Identifier: Apache-2.0
/* SIGSTOP to a process and SIGCONT at the end of the pulse. Extra arguments: pid, the thread that shall be seen to stop.
 * A pulse begins when that thread has stopped: between the signal and that it runs on. SCHED_FIFO: punctual at both ends. */
#include "pulse.h"
#include <fcntl.h>

static int has_stopped(int fd)
{
	char text[256] = {0}, *state;
	ssize_t got = pread(fd, text, sizeof(text) - 1, 0);

	if (got <= 0)
		die("the victim is gone");
	state = strrchr(text, ')');
	return state && state[2] == 'T';
}

int main(int argc, char **argv)
{
	struct plan plan = begin(argc, argv, "jp-sigstop");
	struct sched_param priority = {.sched_priority = 50};
	pid_t pid = argc > 8 ? atoi(argv[7]) : 0, tid = argc > 8 ? atoi(argv[8]) : 0;
	char path[64];

	if (pid <= 1 || tid <= 1)
		return 2;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	int fd = open(path, O_RDONLY);
	if (fd < 0)
		die(path);
	pin(plan.other);
	if (sched_setscheduler(0, SCHED_FIFO, &priority))
		die("SCHED_FIFO refused (root? a v1 cpu cgroup needs cpu.rt_runtime_us)");
	while (next_pulse(&plan)) {
		int64_t sent = now_ns();
		struct pulse pulse = {.t0 = sent};

		/* To the one that runs: another thread of the process would first have to wait for a CPU to be stopped on. */
		if (syscall(SYS_tgkill, pid, tid, SIGSTOP))
			die("SIGSTOP");
		do {
			pulse.t0 = now_ns();
		} while (!has_stopped(fd) && pulse.t0 < sent + 1000000000LL && !stopping);
		sleep_until(pulse.t0 + plan.pulse_ns);
		pulse.t1 = now_ns();
		kill(pid, SIGCONT);
		log_pulse(pulse);
	}
	kill(pid, SIGCONT);
	return finish();
}
