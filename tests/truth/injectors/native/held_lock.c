// SPDX-License-Identifier: Apache-2.0
/* For each pulse asks the victim to wait for a lock (waits.c); when its holder says that it has it and
 * somebody waits, takes the CPU of the holder, plan.other, for the length of the pulse. Extra argument: control file. */
#include "pulse.h"
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>

/* tests/truth/injectors/control.py */
#define CONTROL_SIZE 65536
#define HELD_LOCK 7
enum { PID, TID, REQUESTS, ACTION, PULSE, DOSE, HELD };

int main(int argc, char **argv)
{
	struct plan plan = begin(argc, argv, "jp-fifo");
	/* Above the holder's own real-time priority. */
	struct sched_param priority = {.sched_priority = 50};
	int fd = argc > 7 ? open(argv[7], O_RDWR) : -1;
	volatile int64_t *words;

	if (fd < 0)
		die("control file");
	words = mmap(NULL, CONTROL_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (words == MAP_FAILED)
		die("mmap");
	pin(plan.other);
	if (sched_setscheduler(0, SCHED_FIFO, &priority))
		die("SCHED_FIFO refused (root? a v1 cpu cgroup needs cpu.rt_runtime_us)");
	/* What it takes from the victim begins before its loop does: waking up, and going to sleep again. */
	for (int64_t cpu = thread_cpu_ns(); next_pulse(&plan);) {
		int64_t number = logged + 1;
		struct timespec patience = {5, 0};
		uint32_t *held = (uint32_t *)&words[HELD];
		uint32_t seen = __atomic_load_n(held, __ATOMIC_SEQ_CST);

		words[PULSE] = number - 1;
		words[DOSE] = plan.pulse_ns;
		__atomic_store_n(&words[ACTION], HELD_LOCK, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(held, __ATOMIC_SEQ_CST) != (uint32_t)number && !stopping)
			if (syscall(SYS_futex, held, FUTEX_WAIT, seen, &patience, NULL, 0) && errno == ETIMEDOUT)
				die("the victim's lock was not taken");
		struct pulse pulse = {.t0 = now_ns()};
		while ((pulse.t1 = now_ns()) < pulse.t0 + plan.pulse_ns)
			;
		pulse.cpu_ns = -cpu;
		pulse.cpu_ns += cpu = thread_cpu_ns();
		log_pulse(pulse);
	}
	return finish();
}
