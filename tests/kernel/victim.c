// SPDX-License-Identifier: Apache-2.0
/*
 * A traced process that does known things a known number of times. One command per line on stdin, one answer per line
 * on stdout: `begin_ns end_ns tid name=value ...`, times in CLOCK_MONOTONIC; `error TEXT` when it could not.
 * With state clocks mapped (`clocks`), an answer also has clock0= and clock1=: the acting thread's slot at both times.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 1024
#define WORDS 24
#define TID 3
#define NS 4
#define CLASSES 16
#define STEAL 13
#define PAGE 4096L

static volatile uint64_t *clocks;
static char notes[4096];
static char *self_path;

struct act {
	void (*run)(struct act *, const char *);
	const char *arguments;
	int64_t begin, end;
	int64_t cpu; /* CLOCK_THREAD_CPUTIME_ID of the act */
	int64_t delay; /* schedstat run delay of the act */
	uint64_t clock[2][WORDS];
	pid_t tid;
	int ran;
};

static int64_t clock_ns(clockid_t which)
{
	struct timespec ts;

	clock_gettime(which, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static int64_t now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static pid_t tid_of_me(void)
{
	return syscall(SYS_gettid);
}

__attribute__((format(printf, 1, 2))) static void note(const char *format, ...)
{
	size_t length = strlen(notes);
	va_list list;

	va_start(list, format);
	vsnprintf(notes + length, sizeof(notes) - length, format, list);
	va_end(list);
}

static void fail(const char *what)
{
	printf("error %s: %s\n", what, strerror(errno));
	fflush(stdout);
	exit(1);
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	if (cpu < 0)
		for (int i = 0; i < sysconf(_SC_NPROCESSORS_CONF); i++)
			CPU_SET(i, &set);
	else
		CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		fail("sched_setaffinity");
}

static void policy(int policy, int priority)
{
	struct sched_param param = {.sched_priority = priority};

	if (sched_setscheduler(0, policy, &param))
		fail("sched_setscheduler");
}

static void spin_until(int64_t deadline)
{
	while (now_ns() < deadline)
		;
}

static void nap(int64_t ns)
{
	struct timespec ts = {ns / 1000000000, ns % 1000000000};

	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &ts) == EINTR)
		;
}

static int64_t run_delay(void)
{
	char path[64], text[128] = "";
	long long cpu, delay = 0;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat", tid_of_me());
	fd = open(path, O_RDONLY);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0 || sscanf(text, "%lld %lld", &cpu, &delay) != 2)
		fail("schedstat");
	close(fd);
	return delay;
}

/* State clocks: a copy during which the kernel wrote is taken again, so that it is the clock's state at `*at`. */

static volatile uint64_t *my_slot(void)
{
	uint64_t tid = tid_of_me();

	if (!clocks)
		return NULL;
	for (int i = 0; i < SLOTS; i++)
		if (clocks[i * WORDS + TID] == tid)
			return clocks + i * WORDS;
	return NULL;
}

static long snapshot(volatile uint64_t *slot, uint64_t *to, int64_t *at)
{
	for (long tries = 1; tries < 1000; tries++) {
		uint64_t version = slot[0];

		atomic_signal_fence(memory_order_seq_cst);
		*at = now_ns();
		for (int i = 0; i < WORDS; i++)
			to[i] = slot[i];
		atomic_signal_fence(memory_order_seq_cst);
		if (!(version & 1) && slot[0] == version)
			return tries;
	}
	to[0] = 1;
	return 1000;
}

/* Acts. */

static void do_nothing(struct act *act, const char *arguments)
{
	(void)act, (void)arguments;
}

static void do_spin(struct act *act, const char *arguments)
{
	spin_until(act->begin + atol(arguments) * 1000000);
}

static void do_sleep(struct act *act, const char *arguments)
{
	int count = 0, us = 0;

	(void)act;
	sscanf(arguments, "%d %d", &count, &us);
	while (count--)
		nap(us * 1000LL);
}

static void do_fault(struct act *act, const char *arguments)
{
	int count = atoi(arguments);
	volatile char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	(void)act;
	if (page == MAP_FAILED)
		fail("mmap");
	for (int i = 0; i < count; i++) {
		if (madvise((void *)page, PAGE, MADV_DONTNEED))
			fail("madvise");
		*page = 1;
	}
	munmap((void *)page, PAGE);
	note(" address=%" PRIuPTR, (uintptr_t)page);
}

static void futex_wait(_Atomic int *word, int value)
{
	while (atomic_load(word) == value)
		syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic int *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static _Atomic int turn;
static _Atomic pid_t partner;
static int rounds;

static void *hand_back(void *unused)
{
	(void)unused;
	atomic_store(&partner, tid_of_me());
	for (int i = 0; i < rounds; i++) {
		futex_wait(&turn, 0);
		atomic_store(&turn, 0);
		futex_wake(&turn);
	}
	return NULL;
}

/* Two FIFO threads of one priority on one CPU: neither preempts the other, so each hand-over is one sleep. */
static void do_futex(struct act *act, const char *arguments)
{
	pthread_t thread;
	int cpu = 0;

	sscanf(arguments, "%d %d", &rounds, &cpu);
	pin(cpu);
	policy(SCHED_FIFO, 10);
	atomic_store(&turn, 0);
	atomic_store(&partner, 0);
	if (pthread_create(&thread, NULL, hand_back, NULL))
		fail("pthread_create");
	nap(1000000);
	act->begin = now_ns();
	for (int i = 0; i < rounds; i++) {
		atomic_store(&turn, 1);
		futex_wake(&turn);
		futex_wait(&turn, 1);
	}
	act->end = now_ns();
	pthread_join(thread, NULL);
	policy(SCHED_OTHER, 0);
	pin(-1);
	note(" partner=%d word=%" PRIuPTR, atomic_load(&partner), (uintptr_t)&turn);
}

static void do_read(struct act *act, const char *arguments)
{
	char path[512], buffer[PAGE];
	int count = 0, fd;
	off_t size;

	if (sscanf(arguments, "%d %511s", &count, path) != 2)
		fail("arguments");
	fd = open(path, O_RDONLY);
	if (fd < 0 || (size = lseek(fd, 0, SEEK_END)) < count * PAGE)
		fail(path);
	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	act->begin = now_ns();
	for (int i = 0; i < count; i++)
		if (pread(fd, buffer, PAGE, size / count * i / PAGE * PAGE) != PAGE)
			fail("pread");
	act->end = now_ns();
	close(fd);
}

static void *end_at_once(void *unused)
{
	return unused;
}

static void do_churn(struct act *act, const char *arguments)
{
	int count = atoi(arguments);
	pthread_t threads[8];

	(void)act;
	while (count > 0) {
		int batch = count < 8 ? count : 8;

		for (int i = 0; i < batch; i++)
			if (pthread_create(&threads[i], NULL, end_at_once, NULL))
				fail("pthread_create");
		for (int i = 0; i < batch; i++)
			pthread_join(threads[i], NULL);
		count -= batch;
	}
}

static int64_t deadline;
static int together_cpu;
static _Atomic pid_t rivals[2];

static void *rival(void *number)
{
	pin(together_cpu);
	atomic_store(&rivals[(intptr_t)number], tid_of_me());
	spin_until(deadline);
	return NULL;
}

static void do_rivals(struct act *act, const char *arguments)
{
	pthread_t threads[2];
	int ms = 0;

	sscanf(arguments, "%d %d", &together_cpu, &ms);
	deadline = act->begin + ms * 1000000LL;
	for (intptr_t i = 0; i < 2; i++)
		if (pthread_create(&threads[i], NULL, rival, (void *)i))
			fail("pthread_create");
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	note(" a=%d b=%d", atomic_load(&rivals[0]), atomic_load(&rivals[1]));
}

static _Atomic int bursts_done;

static void *low(void *unused)
{
	(void)unused;
	policy(SCHED_FIFO, 10);
	pin(together_cpu);
	atomic_store(&rivals[0], tid_of_me());
	while (!atomic_load(&bursts_done))
		;
	return NULL;
}

static void *high(void *unused)
{
	(void)unused;
	policy(SCHED_FIFO, 20);
	pin(together_cpu);
	atomic_store(&rivals[1], tid_of_me());
	for (int i = 0; i < rounds; i++) {
		nap(2000000);
		spin_until(now_ns() + 200000);
	}
	atomic_store(&bursts_done, 1);
	return NULL;
}

/* A FIFO thread that spins, and one of higher priority that takes its CPU a known number of times. */
static void do_fifo(struct act *act, const char *arguments)
{
	pthread_t threads[2];

	sscanf(arguments, "%d %d", &together_cpu, &rounds);
	(void)act;
	atomic_store(&bursts_done, 0);
	atomic_store(&rivals[0], 0);
	if (pthread_create(&threads[0], NULL, low, NULL))
		fail("pthread_create");
	while (!atomic_load(&rivals[0]))
		nap(1000000);
	if (pthread_create(&threads[1], NULL, high, NULL))
		fail("pthread_create");
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	note(" low=%d high=%d", atomic_load(&rivals[0]), atomic_load(&rivals[1]));
}

static void do_migrate(struct act *act, const char *arguments)
{
	int count = 0, from = 0, to = 0;

	sscanf(arguments, "%d %d %d", &count, &from, &to);
	pin(from);
	act->begin = now_ns();
	for (int i = 0; i < count; i++)
		pin(i % 2 ? from : to);
	act->end = now_ns();
	pin(-1);
}

static void do_name(struct act *act, const char *arguments)
{
	(void)act;
	prctl(PR_SET_NAME, arguments);
}

/* A child wakes us, becomes another program, and wakes us again. */
static void do_child(struct act *act, const char *arguments)
{
	int ends[2];
	char byte, number[16];
	pid_t child;

	(void)act, (void)arguments;
	if (pipe(ends))
		fail("pipe");
	snprintf(number, sizeof(number), "%d", ends[1]);
	child = fork();
	if (!child) {
		nap(30000000);
		if (write(ends[1], "1", 1) != 1)
			_exit(1);
		nap(30000000);
		execl("/proc/self/exe", "again", "write-to", number, NULL);
		_exit(1);
	}
	if (read(ends[0], &byte, 1) != 1 || read(ends[0], &byte, 1) != 1 || byte != '2')
		fail("the child said nothing");
	close(ends[0]);
	close(ends[1]);
	waitpid(child, NULL, 0);
	note(" child=%d", child);
}

static void hand(int out, int in, char *byte)
{
	if (write(out, byte, 1) != 1 || read(in, byte, 1) != 1)
		_exit(1);
}

/*
 * A child with which we take turns over two pipes, and a child of that one that sleeps. All FIFO, of one priority and on
 * one CPU: neither preempts the other, so each turn is one sleep.
 */
static void do_family(struct act *act, const char *arguments)
{
	int there[2], back[2], kin[2], count = 0, cpu = 0;
	pid_t child, grandchild = 0;
	char byte = 'x';

	sscanf(arguments, "%d %d", &count, &cpu);
	pin(cpu);
	policy(SCHED_FIFO, 10);
	if (pipe(there) || pipe(back) || pipe(kin))
		fail("pipe");
	child = fork();
	if (!child) {
		grandchild = fork();
		if (!grandchild) {
			for (int i = 0; i < count; i++)
				nap(300000);
			_exit(0);
		}
		if (write(kin[1], &grandchild, sizeof(grandchild)) != sizeof(grandchild))
			_exit(1);
		for (int i = 0; i < count; i++)
			if (read(there[0], &byte, 1) != 1 || write(back[1], &byte, 1) != 1)
				_exit(1);
		waitpid(grandchild, NULL, 0);
		_exit(0);
	}
	if (read(kin[0], &grandchild, sizeof(grandchild)) != sizeof(grandchild))
		fail("the child said nothing");
	for (int i = 0; i < count; i++)
		hand(there[1], back[0], &byte);
	waitpid(child, NULL, 0);
	act->end = now_ns();
	policy(SCHED_OTHER, 0);
	pin(-1);
	for (int i = 0; i < 2; i++)
		close(there[i]), close(back[i]), close(kin[i]);
	note(" child=%d grandchild=%d", child, grandchild);
}

/* A child that sleeps for a millisecond again and again, as long as we live. */
static void do_helper(struct act *act, const char *arguments)
{
	pid_t child = fork();

	(void)act, (void)arguments;
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			nap(1000000);
	}
	note(" child=%d", child);
}

static sigjmp_buf escape;
static volatile char *volatile nowhere;

static void on_segv(int signal)
{
	siglongjmp(escape, signal);
}

/* A fault that the kernel does not handle, so that it never ends, and then a sleep. */
static void do_segv(struct act *act, const char *arguments)
{
	struct sigaction action = {.sa_handler = on_segv};

	(void)act;
	sigaction(SIGSEGV, &action, NULL);
	if (!sigsetjmp(escape, 1))
		*nowhere = 1;
	nap(atol(arguments) * 1000);
}

/* Snapshots until the deadline, each checked against the last: no class runs backwards or faster than time. */
static void do_snapshots(struct act *act, const char *arguments)
{
	uint64_t before[WORDS], after[WORDS];
	volatile uint64_t *slot = my_slot();
	long taken = 0, again = 0, backwards = 0, faster = 0, wrong = 0;
	int64_t stop = act->begin + atol(arguments) * 1000000, earlier, later;

	if (!slot)
		fail("no slot");
	for (snapshot(slot, before, &earlier); earlier < stop; earlier = later, taken++) {
		uint64_t grown = 0;

		again += snapshot(slot, after, &later) - 1;
		for (int i = NS; i < NS + CLASSES; i++) {
			backwards += after[i] < before[i];
			/* Steal is noticed later than it happens, and may have hit an interrupt. */
			grown += i == NS + STEAL ? 0 : after[i] - before[i];
		}
		faster += (int64_t)grown > later - earlier;
		wrong += after[TID] != (uint64_t)tid_of_me() || (after[0] & 1) || after[2] != 1;
		memcpy(before, after, sizeof(before));
	}
	note(" taken=%ld again=%ld backwards=%ld faster=%ld wrong=%ld", taken, again, backwards, faster, wrong);
}

static void *become(void *unused)
{
	(void)unused;
	execl(self_path, "victim", NULL);
	fail("execl");
	return NULL;
}

static void do_exec(struct act *act, const char *arguments)
{
	pthread_t thread;

	(void)act, (void)arguments;
	pthread_create(&thread, NULL, become, NULL);
	pause();
}

static const struct {
	const char *name;
	void (*run)(struct act *, const char *);
} acts[] = {
	{"nothing", do_nothing}, {"spin", do_spin}, {"sleep", do_sleep}, {"fault", do_fault}, {"futex", do_futex},
	{"read", do_read}, {"churn", do_churn}, {"rivals", do_rivals}, {"fifo", do_fifo}, {"migrate", do_migrate},
	{"name", do_name}, {"child", do_child}, {"segv", do_segv}, {"snapshots", do_snapshots}, {"exec", do_exec},
	{"family", do_family}, {"helper", do_helper},
};

static void *perform(void *argument)
{
	struct act *act = argument;
	volatile uint64_t *slot;
	int64_t delay = run_delay(), cpu;

	act->tid = tid_of_me();
	slot = my_slot();
	cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID);
	act->begin = now_ns();
	if (slot)
		snapshot(slot, act->clock[0], &act->begin);
	act->run(act, act->arguments);
	if (!act->end)
		act->end = now_ns();
	if (slot)
		snapshot(slot, act->clock[1], &act->end);
	act->cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
	act->delay = run_delay() - delay;
	act->ran = slot ? 2 : 1;
	return NULL;
}

static void answer(const struct act *act)
{
	printf("%" PRId64 " %" PRId64 " %d cpu=%" PRId64 " delay=%" PRId64 "%s", act->begin, act->end, act->tid, act->cpu,
	       act->delay, notes);
	for (int edge = 0; act->ran == 2 && edge < 2; edge++) {
		printf(" clock%d=", edge);
		for (int i = 0; i < WORDS; i++)
			printf("%s%" PRIu64, i ? "," : "", act->clock[edge][i]);
	}
	printf("\n");
	fflush(stdout);
}

static void map_clocks(const char *arguments)
{
	int pid = 0, fd = 0, pidfd, ours;

	sscanf(arguments, "%d %d", &pid, &fd);
	pidfd = syscall(SYS_pidfd_open, pid, 0);
	ours = pidfd < 0 ? -1 : syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	if (ours < 0)
		fail("pidfd_getfd");
	clocks = mmap(NULL, SLOTS * WORDS * 8, PROT_READ, MAP_SHARED, ours, 0);
	if (clocks == MAP_FAILED)
		fail("mmap");
	close(pidfd);
	close(ours);
}

int main(int argc, char **argv)
{
	char line[1024];

	if (argc == 3 && !strcmp(argv[1], "write-to"))
		return write(atoi(argv[2]), "2", 1) != 1;
	self_path = realpath("/proc/self/exe", NULL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_TIMERSLACK, 1);
	setvbuf(stdin, NULL, _IONBF, 0);
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		struct act act = {.run = NULL};
		char *name = strtok(line, " \n"), *arguments = strtok(NULL, "\n");
		int threaded = name && !strcmp(name, "thread");

		if (threaded) {
			name = strtok(arguments, " \n");
			arguments = strtok(NULL, "\n");
		}
		act.arguments = arguments ? arguments : "";
		notes[0] = 0;
		if (name && !strcmp(name, "clocks")) {
			map_clocks(act.arguments);
			name = "nothing";
		}
		if (name && !strcmp(name, "pin")) {
			pin(atoi(act.arguments));
			name = "nothing";
		}
		if (name && !strcmp(name, "fifo-priority")) {
			policy(atoi(act.arguments) ? SCHED_FIFO : SCHED_OTHER, atoi(act.arguments));
			name = "nothing";
		}
		for (size_t i = 0; name && i < sizeof(acts) / sizeof(acts[0]); i++)
			if (!strcmp(name, acts[i].name))
				act.run = acts[i].run;
		if (!act.run) {
			printf("error no act %s\n", name ? name : "");
			fflush(stdout);
			continue;
		}
		if (threaded) {
			pthread_t thread;

			if (pthread_create(&thread, NULL, perform, &act))
				fail("pthread_create");
			pthread_join(thread, NULL);
		} else {
			perform(&act);
		}
		answer(&act);
	}
	return 0;
}
