// SPDX-License-Identifier: Apache-2.0
/*
 * Context switches and interrupts at full speed on one CPU, timed in chunks. Reads commands from stdin:
 *   yield-thread CHUNKS OPS    sched_yield() between two threads: an operation is two switches
 *   yield-process CHUNKS OPS   the same with a thread of another process, not our child
 *   futex CHUNKS OPS           a futex handed back and forth: two switches, two wakings, two wake-ups
 *   fault CHUNKS OPS           a page is given back and touched again: a minor fault
 *   syscall CHUNKS OPS         getppid(): what a program on sys_enter can write a record for
 *   gaps COUNT NS PERIOD       the first COUNT gaps of more than NS while another CPU sends an IPI every PERIOD ns
 * Says "ready PID", then answers with the times of the chunks, or with the gaps, in ns on one line. All SCHED_FIFO.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
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

#define CHUNKS_MAX 4096
#define PRIORITY 50

struct partner {
	_Atomic int go;   /* 1: yield for ever, 2: answer on the futex */
	_Atomic int turn;
};

static struct partner *partners; /* 0: a thread, 1: a process */
static int64_t took[CHUNKS_MAX];

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

static void futex(_Atomic int *word, int operation, int value)
{
	syscall(SYS_futex, word, operation, value, NULL, NULL, 0);
}

static void *answer(void *argument)
{
	struct partner *self = argument;

	for (;;) {
		int go = atomic_load(&self->go);

		if (go == 0) {
			futex(&self->go, FUTEX_WAIT, 0);
		} else if (go == 1) {
			sched_yield();
		} else if (atomic_load(&self->turn)) {
			atomic_store(&self->turn, 0);
			futex(&self->turn, FUTEX_WAKE, 1);
		} else {
			futex(&self->turn, FUTEX_WAIT, 0);
		}
	}
	return NULL;
}

static void yield_chunks(struct partner *with, long chunks, long ops)
{
	for (long chunk = 0; chunk < chunks; chunk++) {
		int64_t begin = now_ns();

		for (long i = 0; i < ops; i++)
			sched_yield();
		took[chunk] = now_ns() - begin;
	}
	(void)with;
}

static void futex_chunks(struct partner *with, long chunks, long ops)
{
	for (long chunk = 0; chunk < chunks; chunk++) {
		int64_t begin = now_ns();

		for (long i = 0; i < ops; i++) {
			atomic_store(&with->turn, 1);
			futex(&with->turn, FUTEX_WAKE, 1);
			while (atomic_load(&with->turn))
				futex(&with->turn, FUTEX_WAIT, 1);
		}
		took[chunk] = now_ns() - begin;
	}
}

static void with_partner(struct partner *with, int go, long chunks, long ops,
			 void (*run)(struct partner *, long, long))
{
	atomic_store(&with->turn, 0);
	atomic_store(&with->go, go);
	futex(&with->go, FUTEX_WAKE, 1);
	run(with, 1, 100);
	run(with, chunks, ops);
	atomic_store(&with->go, 0);
	atomic_store(&with->turn, 2);
	futex(&with->turn, FUTEX_WAKE, 1);
	sched_yield();
}

static void syscall_chunks(long chunks, long ops)
{
	for (long chunk = 0; chunk < chunks; chunk++) {
		int64_t begin = now_ns();

		for (long i = 0; i < ops; i++)
			syscall(SYS_getppid);
		took[chunk] = now_ns() - begin;
	}
}

static void fault_chunks(long chunks, long ops)
{
	volatile char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED)
		die("mmap");
	munlock((void *)page, 4096);
	for (long chunk = 0; chunk < chunks; chunk++) {
		int64_t begin = now_ns();

		for (long i = 0; i < ops; i++) {
			if (madvise((void *)page, 4096, MADV_DONTNEED))
				die("madvise");
			*page = 1;
		}
		took[chunk] = now_ns() - begin;
	}
	munmap((void *)page, 4096);
}

static int other_cpu;
static _Atomic int sending;

/* Sends this process an IPI on every CPU that it runs on (membarrier), every `period` ns, from another CPU. */
static void *send_interrupts(void *period)
{
	struct sched_param param = {.sched_priority = PRIORITY};
	int64_t next;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(other_cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
	sched_setscheduler(0, SCHED_FIFO, &param);
	atomic_store(&sending, 2);
	next = now_ns();
	while (atomic_load(&sending)) {
		syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
		next += (intptr_t)period;
		while (now_ns() < next)
			;
	}
	return NULL;
}

/* Each time that an IPI takes, seen from a loop that reads the clock. */
static void interrupt_gaps(long count, long shortest, long period)
{
	pthread_t sender;
	int64_t last, now;

	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0))
		die("membarrier");
	atomic_store(&sending, 1);
	if (pthread_create(&sender, NULL, send_interrupts, (void *)period))
		die("sender");
	/* It starts on our CPU, with our priority. */
	while (atomic_load(&sending) != 2)
		sched_yield();
	last = now_ns();
	for (long seen = 0; seen < count; last = now) {
		now = now_ns();
		if (now - last > shortest)
			took[seen++] = now - last;
	}
	atomic_store(&sending, 0);
	pthread_join(sender, NULL);
}

int main(int argc, char **argv)
{
	struct sched_param param = {.sched_priority = PRIORITY};
	char line[128], name[32];
	pthread_t thread;
	pid_t child;
	cpu_set_t set;

	if (argc != 3)
		return 2;
	other_cpu = atoi(argv[2]);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	CPU_ZERO(&set);
	CPU_SET(atoi(argv[1]), &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
	if (sched_setscheduler(0, SCHED_FIFO, &param))
		die("sched_setscheduler");
	partners = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (partners == MAP_FAILED)
		die("mmap");
	/* The parent is the partner: what a traced process has started is traced too. */
	child = fork();
	mlockall(MCL_CURRENT | MCL_FUTURE);
	if (child > 0)
		answer(&partners[1]);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (child < 0 || pthread_create(&thread, NULL, answer, &partners[0]))
		die("partner");
	printf("ready %d\n", getpid());
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		long chunks = 0, ops = 0, period = 0;

		if (sscanf(line, "%31s %ld %ld %ld", name, &chunks, &ops, &period) < 3 || chunks > CHUNKS_MAX)
			return 2;
		if (!strcmp(name, "yield-thread"))
			with_partner(&partners[0], 1, chunks, ops, yield_chunks);
		else if (!strcmp(name, "yield-process"))
			with_partner(&partners[1], 1, chunks, ops, yield_chunks);
		else if (!strcmp(name, "futex"))
			with_partner(&partners[0], 2, chunks, ops, futex_chunks);
		else if (!strcmp(name, "fault"))
			fault_chunks(chunks, ops);
		else if (!strcmp(name, "syscall"))
			syscall_chunks(chunks, ops);
		else if (!strcmp(name, "gaps"))
			interrupt_gaps(chunks, ops, period);
		else
			return 2;
		for (long i = 0; i < chunks; i++)
			printf("%" PRId64 "%c", took[i], i + 1 < chunks ? ' ' : '\n');
		fflush(stdout);
	}
	return 0;
}
