// SPDX-License-Identifier: Apache-2.0
/* A SCHED_FIFO loop on the victim's CPU, asleep between pulses. */
#include "pulse.h"

int main(int argc, char **argv)
{
	struct plan plan = begin(argc, argv, "jp-fifo");
	struct sched_param priority = {.sched_priority = 50};
	pin(plan.cpu);
	if (sched_setscheduler(0, SCHED_FIFO, &priority))
		die("SCHED_FIFO refused (root? a v1 cpu cgroup needs cpu.rt_runtime_us)");
	/* What it takes from the victim begins before its loop does: waking up, and going to sleep again. */
	for (int64_t cpu = thread_cpu_ns(); next_pulse(&plan);) {
		struct pulse pulse = {.t0 = now_ns()};
		while ((pulse.t1 = now_ns()) < pulse.t0 + plan.pulse_ns)
			;
		pulse.cpu_ns = -cpu;
		pulse.cpu_ns += cpu = thread_cpu_ns();
		log_pulse(pulse);
	}
	return finish();
}
