// SPDX-License-Identifier: Apache-2.0
/* N ordinary loops on the victim's CPU; between pulses they wait on a futex. Extra argument: N. */
#include "pulse.h"
#include <linux/futex.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define HOGS_MAX 64

struct shared {
	_Atomic uint32_t generation;
	_Atomic int64_t deadline;
	_Atomic int done;
	int64_t ended[HOGS_MAX], cpu_ns[HOGS_MAX];
};

static void hog(struct shared *shared, const struct plan *plan, int self)
{
	uint32_t seen = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "jp-hog");
	pin(plan->cpu);
	for (;;) {
		/* What it takes from the victim begins before its loop does: waking up, and going to sleep again. */
		int64_t cpu = thread_cpu_ns(), deadline, now;
		while (atomic_load(&shared->generation) == seen)
			syscall(SYS_futex, &shared->generation, FUTEX_WAIT, seen, NULL, NULL, 0);
		seen = atomic_load(&shared->generation);
		deadline = atomic_load(&shared->deadline);
		while ((now = now_ns()) < deadline)
			;
		shared->ended[self] = now;
		shared->cpu_ns[self] = thread_cpu_ns() - cpu;
		atomic_fetch_add(&shared->done, 1);
	}
}

int main(int argc, char **argv)
{
	struct plan plan = begin(argc, argv, "jp-hog-master");
	int hogs = argc > 7 ? atoi(argv[7]) : 1;
	pid_t children[HOGS_MAX];
	struct shared *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (shared == MAP_FAILED)
		die("mmap");
	if (hogs < 1 || hogs > HOGS_MAX)
		hogs = 1;
	for (int i = 0; i < hogs; i++) {
		children[i] = fork();
		if (children[i] < 0)
			die("fork");
		if (!children[i]) {
			signal(SIGTERM, SIG_DFL);
			hog(shared, &plan, i);
		}
	}
	pin(plan.other);
	while (next_pulse(&plan)) {
		struct pulse pulse = {.t0 = now_ns(), .count = hogs};
		atomic_store(&shared->done, 0);
		atomic_store(&shared->deadline, pulse.t0 + plan.pulse_ns);
		atomic_fetch_add(&shared->generation, 1);
		syscall(SYS_futex, &shared->generation, FUTEX_WAKE, HOGS_MAX, NULL, NULL, 0);
		sleep_until(pulse.t0 + plan.pulse_ns);
		/* A hog that is queued at its deadline needs the CPU once more to see it. */
		while (atomic_load(&shared->done) < hogs && !stopping)
			sleep_until(now_ns() + 100000);
		pulse.t1 = pulse.t0 + plan.pulse_ns;
		for (int i = 0; i < hogs; i++) {
			if (shared->ended[i] > pulse.t1)
				pulse.t1 = shared->ended[i];
			pulse.cpu_ns += shared->cpu_ns[i];
		}
		log_pulse(pulse);
	}
	for (int i = 0; i < hogs; i++)
		kill(children[i], SIGKILL);
	while (wait(NULL) > 0)
		;
	return finish();
}
