/* SPDX-License-Identifier: Apache-2.0 */
/* What every injector shares: arguments, the pulse schedule, clean stopping, and the log of exact starts and stops. */
#ifndef JP_PULSE_H
#define JP_PULSE_H

#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PULSES_MAX 4096
#define DOSES_MAX 8

struct plan {
	int cpu;   /* the victim's */
	int other; /* where the rest of the injector runs */
	long pulses;
	int64_t pulse_ns, gap_ns; /* pulse_ns: of the pulse that next_pulse() started */
	uint64_t seed;
	int doses;
	int64_t dose_ns[DOSES_MAX]; /* taken in turns */
};

struct pulse {
	int64_t t0, t1, count, cpu_ns, dose_ns;
};

static struct pulse log_of[PULSES_MAX];
static long logged;
static int64_t current_ns;
static volatile sig_atomic_t stopping;

static void on_signal(int signo)
{
	(void)signo;
	stopping = 1;
}

static void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static inline int64_t now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static inline int64_t thread_cpu_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static void sleep_until(int64_t target_ns)
{
	struct timespec ts = {target_ns / 1000000000LL, target_ns % 1000000000LL};
	while (!stopping && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
		;
}

static void pin(int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

/* NAME cpu other pulses pulse_ns[,pulse_ns...] gap_ns seed: the Python side checks the values. */
static struct plan begin(int argc, char **argv, const char *comm)
{
	if (argc < 7) {
		fprintf(stderr, "usage: %s cpu other pulses pulse_ns gap_ns seed ...\n", argv[0]);
		exit(2);
	}
	struct plan plan = {
		.cpu = atoi(argv[1]), .other = atoi(argv[2]), .pulses = atol(argv[3]), .gap_ns = atoll(argv[5]),
		.seed = strtoull(argv[6], NULL, 10),
	};
	int64_t longest = 0;
	for (char *dose = strtok(argv[4], ","); dose && plan.doses < DOSES_MAX; dose = strtok(NULL, ",")) {
		plan.dose_ns[plan.doses] = atoll(dose);
		if (plan.dose_ns[plan.doses] > longest)
			longest = plan.dose_ns[plan.doses];
		plan.doses++;
	}
	if (!plan.doses)
		exit(2);
	plan.pulse_ns = plan.dose_ns[0];
	if (plan.pulses > PULSES_MAX)
		plan.pulses = PULSES_MAX;
	struct sigaction action = {.sa_handler = on_signal};
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGALRM, &action, NULL);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	prctl(PR_SET_NAME, comm);
	prctl(PR_SET_TIMERSLACK, 1);
	/* Never longer than twice the plan: an injector that hangs must not stay on a machine. */
	alarm(10 + 2 * plan.pulses * (longest + plan.gap_ns) / 1000000000LL);
	return plan;
}

/* Sleeps the next gap, between half and one and a half times gap_ns; false when it is time to stop. */
static int next_pulse(struct plan *plan)
{
	if (logged >= plan->pulses || stopping)
		return 0;
	plan->pulse_ns = current_ns = plan->dose_ns[logged % plan->doses];
	plan->seed = plan->seed * 6364136223846793005ULL + 1442695040888963407ULL;
	double u = (double)(plan->seed >> 11) / 9007199254740992.0;
	sleep_until(now_ns() + (int64_t)((0.5 + u) * plan->gap_ns));
	return !stopping;
}

static void log_pulse(struct pulse pulse)
{
	pulse.dose_ns = current_ns;
	log_of[logged++] = pulse;
}

/* Written when all pulses are over: the log must not be a disturbance of its own. */
static int finish(void)
{
	for (long i = 0; i < logged; i++)
		printf("{\"pulse\": %ld, \"t0_ns\": %" PRId64 ", \"t1_ns\": %" PRId64 ", \"count\": %" PRId64 ", \"cpu_ns\": %" PRId64
		       ", \"dose_ns\": %" PRId64 "}\n",
		       i, log_of[i].t0, log_of[i].t1, log_of[i].count, log_of[i].cpu_ns, log_of[i].dose_ns);
	return fflush(stdout) ? 1 : 0;
}

#endif
