// SPDX-License-Identifier: Apache-2.0
/* An hrtimer on the victim's CPU that restarts itself in its interrupt: a perf cpu-clock event that nobody reads.
 * (A timerfd fires once per read, so it would need a thread that keeps waking there.) Extra argument: period in ns. */
#include "pulse.h"
#include <linux/perf_event.h>
#include <sys/ioctl.h>

int main(int argc, char **argv)
{
	struct plan plan = begin(argc, argv, "jp-timer");
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.sample_period = argc > 7 ? strtoull(argv[7], NULL, 10) : 20000,
		.disabled = 1,
	};
	pin(plan.other);
	int fd = syscall(SYS_perf_event_open, &attr, -1, plan.cpu, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0)
		die("perf_event_open");
	while (next_pulse(&plan)) {
		struct pulse pulse = {.t0 = now_ns()};
		if (ioctl(fd, PERF_EVENT_IOC_ENABLE, 0))
			die("PERF_EVENT_IOC_ENABLE");
		sleep_until(pulse.t0 + plan.pulse_ns);
		ioctl(fd, PERF_EVENT_IOC_DISABLE, 0);
		pulse.t1 = now_ns();
		pulse.count = (pulse.t1 - pulse.t0) / (int64_t)attr.sample_period;
		log_pulse(pulse);
	}
	close(fd);
	return finish();
}
