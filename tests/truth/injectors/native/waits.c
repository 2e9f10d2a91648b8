// SPDX-License-Identifier: Apache-2.0
/*
 * Locks of the victim and the threads that hold them: jp-holder; jp-middle, who waits for jp-last. In C, because a
 * thread that is stopped while it has Python's lock would stop the victim by that, and not by the lock under test.
 *
 * waits_arm(kind, dose) asks the holders to take their locks; once waits_ready(), waits_take(times) waits for the lock
 * and writes when it began to and when it had it. The holders run SCHED_FIFO: they take over at once when they are due.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PRIORITY 10
/* What a holder whose CPU is taken still computes before it lets go. */
#define LAST_NS 20000

enum kind { SLEEPS, PREEMPTED, CHAIN };

struct holder {
	const char *name;
	sem_t ask, go;
	pthread_mutex_t mutex;
	_Atomic int held;
};

static struct holder holder = {.name = "jp-holder"}, middle = {.name = "jp-middle"}, last = {.name = "jp-last"};
static enum kind kind;
static int64_t dose_ns;
static uint32_t *held_word;
static uint32_t pulse_number;

static int64_t now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static void sleep_for(int64_t ns)
{
	int64_t until = now_ns() + ns;
	struct timespec ts = {until / 1000000000LL, until % 1000000000LL};
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
		;
}

static void wait_for(sem_t *semaphore)
{
	while (sem_wait(semaphore) && errno == EINTR)
		;
}

static void while_held(struct holder *self)
{
	if (self == &middle) {
		pthread_mutex_lock(&last.mutex);
		pthread_mutex_unlock(&last.mutex);
	} else if (kind == PREEMPTED) {
		/* jp-fifo wakes up here, on this CPU and above this thread. */
		__atomic_store_n(held_word, pulse_number, __ATOMIC_SEQ_CST);
		syscall(SYS_futex, held_word, FUTEX_WAKE, 1, NULL, NULL, 0);
		for (int64_t until = now_ns() + LAST_NS; now_ns() < until;)
			;
	} else {
		sleep_for(dose_ns);
	}
}

static void *hold(void *argument)
{
	struct holder *self = argument;

	prctl(PR_SET_NAME, self->name);
	prctl(PR_SET_TIMERSLACK, 1);
	for (;;) {
		wait_for(&self->ask);
		pthread_mutex_lock(&self->mutex);
		atomic_store(&self->held, 1);
		wait_for(&self->go);
		while_held(self);
		pthread_mutex_unlock(&self->mutex);
	}
	return NULL;
}

/* 0, or an errno. `held`: a futex shared with the injector. */
int waits_start(int cpu, void *held)
{
	struct holder *all[] = {&holder, &middle, &last};
	struct sched_param priority = {.sched_priority = PRIORITY};
	cpu_set_t cpus;

	held_word = held;
	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	for (unsigned i = 0; i < sizeof(all) / sizeof(*all); i++) {
		pthread_t thread;
		int error;

		sem_init(&all[i]->ask, 0, 0);
		sem_init(&all[i]->go, 0, 0);
		pthread_mutex_init(&all[i]->mutex, NULL);
		error = pthread_create(&thread, NULL, hold, all[i]);
		if (!error)
			error = pthread_setaffinity_np(thread, sizeof(cpus), &cpus);
		if (!error)
			error = pthread_setschedparam(thread, SCHED_FIFO, &priority);
		if (error)
			return error;
	}
	return 0;
}

void waits_arm(int what, int64_t ns, uint32_t number)
{
	kind = what;
	dose_ns = ns;
	pulse_number = number;
	if (kind == CHAIN) {
		sem_post(&last.ask);
		sem_post(&middle.ask);
	} else {
		sem_post(&holder.ask);
	}
}

int waits_ready(void)
{
	return kind == CHAIN ? atomic_load(&middle.held) && atomic_load(&last.held) : atomic_load(&holder.held);
}

void waits_take(int64_t *times)
{
	struct holder *mine = kind == CHAIN ? &middle : &holder;

	mine->held = 0;
	if (kind == CHAIN) {
		last.held = 0;
		times[0] = now_ns();
		/* The middle one first: it must find the last one's lock taken. */
		sem_post(&middle.go);
		sem_post(&last.go);
	} else {
		times[0] = now_ns();
		sem_post(&mine->go);
	}
	pthread_mutex_lock(&mine->mutex);
	times[1] = now_ns();
	pthread_mutex_unlock(&mine->mutex);
}
