/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Shared by every probe: the record, the maps, the per-CPU and per-thread state, and the filter.
 * The record's meaning by kind is documented once, in jitterprof/model/event.py; keep the two in step
 * (tests/unit/trace/test_layout.py compares them).
 *
 * Parameters come as -D from trace/session.py: EMIT_EVENTS, RING_PAGES, WAKE_EVERY, CPUS, TICK_FUNCTION, WITH_NAME for
 * the probes that others call, and the OFF_* member offsets read from the running kernel's BTF. An OFF_* that is not
 * defined means that this kernel has no such member.
 */
#ifndef JITTERPROF_H
#define JITTERPROF_H

#include <linux/types.h>

#ifndef BPF_F_MMAPABLE
#define BPF_F_MMAPABLE 1024
#endif

#define CLOCK_SLOTS 1024

/* PID_MAX_LIMIT of 64-bit kernels (include/linux/threads.h): no process number is larger, whatever pid_max says. */
#define PID_LIMIT 4194304
#define PIDS_PER_ROW 64

enum jp_kind {
	SWITCH_OUT = 1, SWITCH_IN, OCCUPY, WAKING, WAKEUP, MIGRATE, FORK, EXIT, TASK, TASK_CGROUP, CGROUP,
	HARDIRQ = 16, SOFTIRQ, VECTOR, NMI, FAULT, RECLAIM, STEAL, BLOCK_IO, WORK, IDLE_EXIT, SIGNAL,
	COUNTERS = 32, FREQUENCY, NEIGHBOUR,
};

/* What the target's processes are marked with. FOLLOWED stays when the process is gone: until the number is reused. */
enum jp_mark { MARK_FOLLOWED = 1, MARK_CANARY = 2, MARK_EVER = 4 };

enum jp_out_flag { OUT_PREEMPT = 1, OUT_THROTTLED = 2, OUT_IOWAIT = 4, OUT_IN_FAULT = 8, OUT_IN_RECLAIM = 16 };

enum jp_counters_flag { COUNTERS_SHARED = 1, COUNTERS_LONG = 2 };

enum jp_neighbour { NEIGHBOUR_NONE, NEIGHBOUR_SMT, NEIGHBOUR_CACHE };

/* Interrupt context, innermost last; also the `flags` of WAKING. */
enum jp_context { IN_TASK, IN_SOFTIRQ, IN_VECTOR, IN_HARDIRQ, IN_NMI, CONTEXTS };

/* Clock states: RUNNING, or 2 + the index of the class that the time goes to. */
enum jp_state { S_UNKNOWN, S_RUNNING, S_PREEMPTED, S_WAKEUP, S_BLOCKED, S_BLOCK_IO, S_THROTTLED, S_STOPPED };
enum jp_class { C_HARDIRQ = 6, C_TIMER, C_IPI, C_SOFTIRQ, C_NMI, C_FAULT, C_RECLAIM, C_STEAL, CLASSES = 16 };

struct jp_event {
	u64 ts;
	u32 seq;
	u16 cpu;
	u8 kind;
	u8 flags;
	u32 tid;
	u32 other;
	u64 a;
	u64 b;
};

/* A thread's state clock, mapped read-only by the thread itself. */
struct jp_clock {
	u64 version; /* odd while being written */
	u64 since;
	u64 state;
	u64 tid;
	u64 ns[CLASSES];
	u64 count[4]; /* switches, involuntary, migrations, faults */
};

/* What the probes remember about a victim and user space need not see. */
struct jp_thread {
	u32 wait_cpu; /* 1 + the CPU on whose queue it waits; 0: it does not */
	u32 last_dev;
	u64 fault_start;
	u64 fault_address;
	u64 fault_clocked;
	u64 reclaim_start;
	u64 reclaim_clocked;
	u32 fault_flags;
	u32 named; /* user space knows who it is */
};

/*
 * One CPU, by who writes and who reads it: a line of the cache that another CPU has written costs an interrupt here as
 * much as the rest of its program. The sizes of the blocks are multiples of 64 bytes, and the map is page-aligned.
 */
struct jp_cpu {
	/* This CPU alone. */
	u64 start[CONTEXTS];
	u32 seq;
	u32 vector;
	u32 irq;
	u32 softirq;
	u64 function; /* of the hrtimer that the vector ran */
	u64 child[CONTEXTS];
	u64 written;
	u64 lost;
	u64 looked; /* when it last looked at its neighbours */
	u64 count[8]; /* all hardirqs, softirqs, timers, IPIs, NMIs, switches, victims without a slot, unused */
	u64 work_function;
	u64 work_start;
	u64 work_tid;
	u64 rq;
	u64 steal;
	u64 steal_ts;
	u64 steal_first;
	u64 khz_told; /* frequency that the last record of this CPU gave */
	/* Written by this CPU at switches, read by all. */
	u64 current_task;
	u32 victim; /* 1 + the slot of the victim that runs here */
	u32 idle_state;
	u64 khz; /* written by whoever changes the frequency */
	u64 pad_here[5];
	/* Written by whoever wakes or moves a victim. */
	u32 watch; /* victims waiting on this CPU's run queue */
	u32 pad_watch[15];
	/* Written by whoever interrupts this CPU. */
	u64 ipi_from;
	u64 ipi_function;
	u64 pad_ipi[6];
};

struct jp_pids {
	u8 mark[PIDS_PER_ROW];
};

BPF_F_TABLE("array", u32, struct jp_clock, clocks, CLOCK_SLOTS, BPF_F_MMAPABLE);
BPF_ARRAY(threads, struct jp_thread, CLOCK_SLOTS);
BPF_F_TABLE("array", u32, struct jp_cpu, cpus, CPUS, BPF_F_MMAPABLE);
/* A byte per process number: user space can set one while a program sets its neighbour. */
BPF_F_TABLE("array", u32, struct jp_pids, pids, PID_LIMIT / PIDS_PER_ROW, BPF_F_MMAPABLE);
BPF_HASH(slots, u32, u32, CLOCK_SLOTS);
/* 1 + the slot that a thread with these low bits had last: a quarter of what the hash takes, where it is right. */
BPF_ARRAY(hints, u32, CLOCK_SLOTS);
BPF_STACK(free_slots, u32, CLOCK_SLOTS);
BPF_TABLE("lru_hash", u32, u8, named, 16384);
BPF_TABLE("lru_hash", u64, u8, named_groups, 1024);
#if EMIT_EVENTS
BPF_RINGBUF_OUTPUT(events, RING_PAGES);
#endif

static __always_inline u64 read_u64(const void *from)
{
	u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), from);
	return value;
}

static __always_inline u32 read_u32(const void *from)
{
	u32 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), from);
	return value;
}

/* pid (the thread) in the low half, tgid in the high half: the two members are adjacent in every kernel. */
static __always_inline u64 task_ids(const void *task)
{
	return read_u64(task + OFF_TASK_PID);
}

/* Where a process is marked; 0 for a number that no process can have. */
static __always_inline u8 *mark_of(u32 tgid)
{
	u32 row = tgid / PIDS_PER_ROW;
	struct jp_pids *found = pids.lookup(&row);

	return found ? &found->mark[tgid % PIDS_PER_ROW] : 0;
}

static __always_inline bool is_target(u64 ids)
{
	u8 *mark = mark_of(ids >> 32);

	/* The canary is traced like the target, for half a second before the session. */
	return mark && (*mark & (MARK_FOLLOWED | MARK_CANARY));
}

static __always_inline struct jp_cpu *cpu_state(u32 cpu)
{
	return cpus.lookup(&cpu);
}

static __always_inline struct jp_cpu *this_cpu(void)
{
	return cpu_state(bpf_get_smp_processor_id());
}

/*
 * The sequence number is a plain increment: an interrupt between its load and its store can hand a number out
 * twice, but never skip one, so a hole always means a loss.
 */
static __always_inline void emit(struct jp_cpu *cpu, u64 ts, u8 kind, u8 flags, u32 tid, u32 other, u64 a, u64 b)
{
#if EMIT_EVENTS
	struct jp_event *event;
	u32 seq = cpu->seq;
	u64 wake = BPF_RB_NO_WAKEUP;

	cpu->seq = seq + 1;
	event = events.ringbuf_reserve(sizeof(*event));
	if (!event) {
		cpu->lost++;
		return;
	}
	cpu->written++;
	event->ts = ts;
	event->seq = seq;
	event->cpu = bpf_get_smp_processor_id();
	event->kind = kind;
	event->flags = flags;
	event->tid = tid;
	event->other = other;
	event->a = a;
	event->b = b;
	/* No wake-up per record: one whenever this CPU's share of a quarter of the ring may have filled. */
	if ((seq & (WAKE_EVERY - 1)) == 0)
		wake = BPF_RB_FORCE_WAKEUP;
	events.ringbuf_submit(event, wake);
#endif
}

/* The kernfs node of a task's cpu cgroup; its id is the inode number of the cgroup's directory. */
static __always_inline void *cgroup_node(const void *task)
{
#ifdef OFF_TASK_GROUP
	void *group = (void *)read_u64(task + OFF_TASK_GROUP);

	group = (void *)read_u64(group + OFF_GROUP_CGROUP);
	return (void *)read_u64(group + OFF_CGROUP_KN);
#else
	return 0;
#endif
}

static __always_inline void emit_path(struct jp_cpu *cpu, u64 now, u64 id, const void *node, u32 level)
{
#ifdef OFF_TASK_GROUP
	u64 name[4] = {};

	bpf_probe_read_kernel_str(name, sizeof(name), (void *)read_u64(node + OFF_KN_NAME));
	emit(cpu, now, CGROUP, level, id, 0, name[0], name[1]);
	emit(cpu, now, CGROUP, level, id, 1, name[2], name[3]);
#endif
}

/* A cgroup may be gone before user space looks for its directory: its name and its parent's go along, once. */
static __always_inline u64 name_cgroup(struct jp_cpu *cpu, const void *task)
{
#ifdef OFF_TASK_GROUP
	void *node = cgroup_node(task);
	u64 id = read_u64(node + OFF_KN_ID), now;
	u8 yes = 1;

	if (named_groups.lookup(&id))
		return id;
	named_groups.update(&id, &yes);
	now = bpf_ktime_get_ns();
	emit_path(cpu, now, id, node, 0);
	node = (void *)read_u64(node + OFF_KN_PARENT);
	if (node)
		emit_path(cpu, now, id, node, 1);
	return id;
#else
	return 0;
#endif
}

static __always_inline void emit_name(struct jp_cpu *cpu, const void *task, u64 ids, const void *comm)
{
#if EMIT_EVENTS
	u64 name[2] = {};
	u64 now = bpf_ktime_get_ns();
	u32 flags = 0;
	u64 group;

	bpf_probe_read_kernel(name, sizeof(name), comm);
#ifdef OFF_TASK_FLAGS
	flags = read_u32(task + OFF_TASK_FLAGS);
#endif
	/* PF_KTHREAD, include/linux/sched.h */
	emit(cpu, now, TASK, (flags & 0x00200000) ? 1 : 0, ids, ids >> 32, name[0], name[1]);
	group = name_cgroup(cpu, task);
	if (group)
		emit(cpu, now, TASK_CGROUP, 0, ids, 0, group, 0);
#endif
}

/* Tell user space once who a thread is. The idle task needs no name. */
static __always_inline void name_task(struct jp_cpu *cpu, const void *task, u64 ids)
{
	u32 tid = ids;
	u8 yes = 1;

	if (!tid || named.lookup(&tid))
		return;
	named.update(&tid, &yes);
	emit_name(cpu, task, ids, task + OFF_TASK_COMM);
}

/* The slot of a victim, opened on first sight; 0 when all are taken, else 1 + index. */
static __always_inline u32 slot_of(u32 tid)
{
	u32 low = tid % CLOCK_SLOTS, *hint = hints.lookup(&low), *known, slot;
	struct jp_clock *clock;

	if (hint && *hint) {
		slot = *hint - 1;
		clock = clocks.lookup(&slot);
		/* Only the thread that has the slot has its number there. */
		if (clock && clock->tid == tid)
			return slot + 1;
	}
	known = slots.lookup(&tid);
	if (known) {
		slot = *known + 1;
		if (hint)
			*hint = slot;
		return slot;
	}
	if (free_slots.pop(&slot)) {
		struct jp_cpu *cpu = this_cpu();

		if (cpu)
			cpu->count[6]++;
		return 0;
	}
	slots.update(&tid, &slot);
	clock = clocks.lookup(&slot);
	if (clock) {
		__builtin_memset(clock, 0, sizeof(*clock));
		clock->tid = tid;
	}
	return slot + 1;
}

static __always_inline struct jp_clock *clock_of(u32 slot)
{
	slot -= 1;
	return clocks.lookup(&slot);
}

static __always_inline struct jp_thread *thread_of(u32 slot)
{
	slot -= 1;
	return threads.lookup(&slot);
}

#define barrier() asm volatile("" ::: "memory")

static __always_inline void clock_enter(struct jp_clock *clock, u64 state, u64 now)
{
	u64 old = clock->state;
	u64 class = old - 2;

	clock->version++;
	barrier();
	if (old >= S_PREEMPTED && class < CLASSES)
		clock->ns[class & (CLASSES - 1)] += now - clock->since;
	clock->since = now;
	clock->state = state;
	barrier();
	clock->version++;
}

static __always_inline void clock_add(struct jp_clock *clock, u32 class, u64 ns)
{
	clock->version++;
	barrier();
	clock->ns[class & (CLASSES - 1)] += ns;
	barrier();
	clock->version++;
}

static __always_inline void unwatch(struct jp_thread *thread)
{
	struct jp_cpu *cpu;

	if (!thread->wait_cpu)
		return;
	cpu = cpu_state(thread->wait_cpu - 1);
	if (cpu)
		__sync_fetch_and_add(&cpu->watch, -1);
	thread->wait_cpu = 0;
}

/* A thread that is gone gives its slot back on its last switch, after sched_process_exit. */
static __always_inline void close_slot(u32 tid, u32 slot, struct jp_clock *clock, struct jp_thread *thread)
{
	slot -= 1;
	unwatch(thread);
	__builtin_memset(clock, 0, sizeof(*clock));
	__builtin_memset(thread, 0, sizeof(*thread));
	slots.delete(&tid);
	free_slots.push(&slot, 0);
}

/*
 * Parts that other probes bring along (pmu, frequency, neighbour); where such a probe is not there, its part is nothing.
 * A victim has just got this CPU; is about to leave it; runs at a tick.
 */
#ifdef WITH_PMU
static __always_inline void start_counters(u64 now);
static __always_inline void read_counters(struct jp_cpu *cpu, u64 now, u32 tid);
#else
#define start_counters(now)
#define read_counters(cpu, now, tid)
#endif
#ifdef WITH_FREQUENCY
static __always_inline void tell_frequency(struct jp_cpu *cpu, u64 now);
#else
#define tell_frequency(cpu, now)
#endif
#ifdef WITH_NEIGHBOUR
static __always_inline void look_at_neighbours(struct jp_cpu *cpu, u64 now, u32 tid);
#else
#define look_at_neighbours(cpu, now, tid)
#endif

/* The same for a victim, at every arrival. */
static __always_inline void name_victim(struct jp_cpu *cpu, struct jp_thread *thread, const void *task, u64 ids)
{
	if (thread->named)
		return;
	thread->named = 1;
	name_task(cpu, task, ids);
}

/*
 * A victim whose switch to this CPU was not seen, because it ran before the probes were attached or because the kernel
 * hides the task before it: found at the next tick.
 */
static __always_inline void find_victim(struct jp_cpu *cpu, u64 now)
{
	u64 ids = bpf_get_current_pid_tgid();
	struct jp_thread *thread;
	struct jp_clock *clock;
	u32 slot;

	if (!is_target(ids))
		return;
	slot = slot_of(ids);
	cpu->victim = slot;
	if (!slot)
		return;
	clock = clock_of(slot);
	thread = thread_of(slot);
	if (!clock || !thread)
		return;
	unwatch(thread);
	clock_enter(clock, S_RUNNING, now);
	name_victim(cpu, thread, (void *)bpf_get_current_task(), ids);
	start_counters(now);
	tell_frequency(cpu, now);
}

/* All time that is already on some clock: an interval in task context is net of what grew meanwhile. */
static __always_inline u64 clocked(struct jp_clock *clock)
{
	u64 sum = 0;
	int i;

#pragma unroll
	for (i = 0; i < CLASSES; i++)
		sum += clock->ns[i];
	return sum;
}

static __always_inline u32 context_of(struct jp_cpu *cpu)
{
	if (cpu->start[IN_NMI])
		return IN_NMI;
	if (cpu->start[IN_HARDIRQ])
		return IN_HARDIRQ;
	if (cpu->start[IN_VECTOR])
		return IN_VECTOR;
	if (cpu->start[IN_SOFTIRQ])
		return IN_SOFTIRQ;
	return IN_TASK;
}

/*
 * Hypervisor steal since the last look, in ns: rq->prev_steal_time_rq, which update_rq_clock_task() advances at every
 * tick and switch. /proc/stat has the same figure in units of 10 ms.
 */
static __always_inline void look_at_steal(struct jp_cpu *cpu, const void *task, u64 now, bool report)
{
#ifdef OFF_RQ_STEAL
	u64 steal;

	if (!cpu->rq) {
		cpu->rq = read_u64((void *)read_u64(task + OFF_TASK_CFS_RQ) + OFF_CFS_RQ_RQ);
		cpu->steal = read_u64((void *)cpu->rq + OFF_RQ_STEAL);
		cpu->steal_first = cpu->steal;
		cpu->steal_ts = now;
		return;
	}
	steal = read_u64((void *)cpu->rq + OFF_RQ_STEAL);
	if (steal != cpu->steal) {
		if (report) {
			emit(cpu, now, STEAL, 0, 0, 0, cpu->steal_ts, steal - cpu->steal);
			if (cpu->victim) {
				struct jp_clock *clock = clock_of(cpu->victim);

				if (clock)
					clock_add(clock, C_STEAL, steal - cpu->steal);
			}
		}
		cpu->steal = steal;
	}
	cpu->steal_ts = now;
#endif
}

/* The timer has interrupted a CPU on which a victim runs or waits. */
static __always_inline void at_tick(struct jp_cpu *cpu, u64 now)
{
	look_at_steal(cpu, (void *)bpf_get_current_task(), now, true);
	if (cpu->victim) {
		read_counters(cpu, now, bpf_get_current_pid_tgid());
		look_at_neighbours(cpu, now, bpf_get_current_pid_tgid());
	}
}

#endif
