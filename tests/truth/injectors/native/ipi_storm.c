// SPDX-License-Identifier: Apache-2.0
/* Call-function interrupts on the victim's CPU, sent from another. Extra arguments: perf | membarrier, gap between two in ns.
 * perf: reading an event that counts on that CPU asks that CPU, whoever runs there. membarrier: reaches only processes that
 * registered for it (tests/truth/victims.py does). */
#include "pulse.h"
#include <linux/membarrier.h>
#include <linux/perf_event.h>

int main(int argc, char **argv)
{
	struct plan plan = begin(argc, argv, "jp-ipi");
	int by_membarrier = argc > 7 && !strcmp(argv[7], "membarrier");
	int64_t every_ns = argc > 8 ? atoll(argv[8]) : 20000;
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_CONTEXT_SWITCHES,
	};
	int fd = -1;

	if (plan.cpu == plan.other) {
		fprintf(stderr, "an interrupt between CPUs needs two of them\n");
		return 2;
	}
	pin(plan.other);
	if (!by_membarrier) {
		fd = syscall(SYS_perf_event_open, &attr, -1, plan.cpu, -1, PERF_FLAG_FD_CLOEXEC);
		if (fd < 0)
			die("perf_event_open");
	}
	while (next_pulse(&plan)) {
		struct pulse pulse = {.t0 = now_ns()};
		int64_t next = pulse.t0, cpu = thread_cpu_ns();
		uint64_t value;
		while ((pulse.t1 = now_ns()) < pulse.t0 + plan.pulse_ns) {
			if (pulse.t1 < next)
				continue;
			next = pulse.t1 + every_ns;
			if (by_membarrier ? syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0) :
					    read(fd, &value, sizeof(value)) != sizeof(value))
				die(by_membarrier ? "membarrier" : "read");
			pulse.count++;
		}
		pulse.cpu_ns = thread_cpu_ns() - cpu;
		log_pulse(pulse);
	}
	return finish();
}
