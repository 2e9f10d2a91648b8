// SPDX-License-Identifier: Apache-2.0
/*
 * Requests that compute and hand over between two threads on one CPU: SWITCHES context switches each, about
 * `request_ns` long. Usage: handoffs CPU SWITCHES REQUEST_NS FILE. Reads "window NS" from stdin, serves requests one after
 * another for that long, writes their times in ns (int64) to FILE and answers with "COUNT ELAPSED_NS".
 * The work is a fixed number of steps, found out once: what slows it down shows.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define REQUESTS_MAX (1 << 22)

static _Atomic int turn;
static int64_t *took;
static volatile uint64_t sink;

static void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static void pass(int to)
{
	atomic_store(&turn, to);
	syscall(SYS_futex, &turn, FUTEX_WAKE, 1, NULL, NULL, 0);
	while (atomic_load(&turn) == to)
		syscall(SYS_futex, &turn, FUTEX_WAIT, to, NULL, NULL, 0);
}

static void *answer(void *argument)
{
	while (atomic_load(&turn) != 1)
		syscall(SYS_futex, &turn, FUTEX_WAIT, 0, NULL, NULL, 0);
	for (;;)
		pass(0);
	return argument;
}

static void compute(long steps)
{
	uint64_t value = sink;

	for (long i = 0; i < steps; i++)
		value = value * 6364136223846793005ULL + 1442695040888963407ULL;
	sink = value;
}

static void request(long handoffs, long steps)
{
	for (long i = 0; i < handoffs; i++) {
		compute(steps);
		pass(1);
	}
}

int main(int argc, char **argv)
{
	char line[64];
	pthread_t thread;
	cpu_set_t set;

	if (argc != 5)
		return 2;
	long handoffs = atol(argv[2]) / 2;
	int64_t request_ns = atoll(argv[3]);
	FILE *file = fopen(argv[4], "wb");
	if (!file)
		die(argv[4]);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	CPU_ZERO(&set);
	CPU_SET(atoi(argv[1]), &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
	took = mmap(NULL, REQUESTS_MAX * sizeof(*took), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (took == MAP_FAILED)
		die("mmap");
	memset(took, 0, REQUESTS_MAX * sizeof(*took));
	if (pthread_create(&thread, NULL, answer, NULL))
		die("pthread_create");

	/* Best of a few: how long a handover takes, and a step. */
	int64_t handover = INT64_MAX, step = INT64_MAX;
	const long tried = 1 << 16;
	for (int round = 0; round < 20; round++) {
		int64_t begin = now_ns();
		request(100, 0);
		int64_t middle = now_ns();
		compute(tried);
		int64_t end = now_ns();
		if ((middle - begin) / 100 < handover)
			handover = (middle - begin) / 100;
		if (end - middle < step)
			step = end - middle;
	}
	int64_t left = request_ns / handoffs - handover;
	long steps = left > 0 ? left * tried / step : 0;

	printf("ready %d\n", getpid());
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		int64_t length = 0;
		long count = 0;

		if (sscanf(line, "window %" SCNd64, &length) != 1)
			return 2;
		int64_t start = now_ns(), at = start;
		while (at < start + length && count < REQUESTS_MAX) {
			int64_t begin = at;
			request(handoffs, steps);
			at = now_ns();
			took[count++] = at - begin;
		}
		rewind(file);
		if (fwrite(took, sizeof(*took), count, file) != (size_t)count || fflush(file))
			die("writing times");
		printf("%ld %" PRId64 "\n", count, at - start);
		fflush(stdout);
	}
	return 0;
}
