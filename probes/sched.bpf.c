/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Victims on and off the CPU: who runs, who waits behind whom, who woke it, and what kind of waiting it is. */
#include "jitterprof.h"

/* Occupant of a CPU in the high half, the CPU in the low half: `a` of WAKING, WAKEUP and MIGRATE. */
static __always_inline u64 queue_word(struct jp_cpu *here, u32 cpu)
{
	struct jp_cpu *there = cpu_state(cpu);
	void *task;
	u64 ids;

	if (!there)
		return cpu;
	task = (void *)there->current_task;
	if (!task)
		return cpu;
	ids = task_ids(task);
	name_task(here, task, ids);
	return cpu | (ids << 32);
}

static __always_inline void watch(struct jp_thread *thread, u32 on)
{
	struct jp_cpu *cpu;

	if (thread->wait_cpu == on + 1)
		return;
	unwatch(thread);
	cpu = cpu_state(on);
	if (!cpu)
		return;
	__sync_fetch_and_add(&cpu->watch, 1);
	thread->wait_cpu = on + 1;
}

static __always_inline bool is_throttled(const void *task)
{
#if defined(OFF_TASK_THROTTLED)
	/* Since e1fad12dcb66 (6.18) a throttled task takes itself off the queue on its way to user mode. */
	u8 throttled = 0;

	bpf_probe_read_kernel(&throttled, sizeof(throttled), task + OFF_TASK_THROTTLED);
	return throttled;
#elif defined(OFF_CFS_RQ_THROTTLE)
	/* Before, its whole queue was taken off: look at the hierarchy's count. */
	return read_u32((void *)read_u64(task + OFF_TASK_CFS_RQ) + OFF_CFS_RQ_THROTTLE) != 0;
#else
	return false;
#endif
}

static __always_inline bool is_iowait(const void *task)
{
#ifdef OFF_TASK_IOWAIT
	u8 byte = 0;

	bpf_probe_read_kernel(&byte, sizeof(byte), task + OFF_TASK_IOWAIT);
	return byte & MASK_TASK_IOWAIT;
#else
	return false;
#endif
}

/* The system call that `current` is in and its first argument, from its saved user registers: no probe on system calls. */
static __always_inline u32 current_syscall(u64 *argument)
{
	void *regs = (void *)bpf_task_pt_regs((void *)bpf_get_current_task_btf());
	u64 nr;
#if OFF_REGS_SYSCALL == OFF_REGS_ARG0 + 8
	u64 both[2] = {};

	bpf_probe_read_kernel(both, sizeof(both), regs + OFF_REGS_ARG0);
	*argument = both[0];
	nr = both[1];
#else
	nr = read_u64(regs + OFF_REGS_SYSCALL);
	*argument = read_u64(regs + OFF_REGS_ARG0);
#endif
	return nr > 0xfffe ? 0xffff : nr;
}

static __always_inline void victim_out(struct jp_cpu *cpu, const void *prev, u64 ids, u64 next_ids, u64 now,
				       bool preempt, u32 prev_state)
{
	u32 slot = cpu->victim ? cpu->victim : slot_of(ids);
	u64 argument = 0, nr = 0xffff, state;
	struct jp_thread *thread;
	struct jp_clock *clock;
	u32 flags = 0;

	cpu->victim = 0;
	if (!slot)
		return;
	clock = clock_of(slot);
	thread = thread_of(slot);
	if (!clock || !thread)
		return;
	read_counters(cpu, now, ids);
	if (preempt)
		flags |= OUT_PREEMPT;
	if (thread->fault_start)
		flags |= OUT_IN_FAULT;
	if (thread->reclaim_start)
		flags |= OUT_IN_RECLAIM;
	if (is_throttled(prev)) {
		flags |= OUT_THROTTLED;
		argument = name_cgroup(cpu, prev);
		state = S_THROTTLED;
	} else if (preempt || !prev_state) {
		state = S_PREEMPTED;
	} else {
		nr = current_syscall(&argument);
		if (prev_state & 0x800c) { /* TASK_STOPPED, TASK_TRACED, TASK_FROZEN */
			state = S_STOPPED;
		} else if (is_iowait(prev)) {
			flags |= OUT_IOWAIT;
			argument = thread->last_dev;
			state = S_BLOCK_IO;
		} else {
			state = S_BLOCKED;
		}
	}
	clock_enter(clock, state, now);
	clock->count[0]++;
	/* It ran, so it waits no more, even where the kernel did not report the switch to it. */
	unwatch(thread);
	if (state == S_PREEMPTED) {
		clock->count[1]++;
		watch(thread, bpf_get_smp_processor_id());
	}
	emit(cpu, now, SWITCH_OUT, flags, ids, next_ids, prev_state | nr << 32, argument);
	if (!preempt && (prev_state & 0x80)) /* TASK_DEAD */
		close_slot(ids, slot, clock, thread);
}

static __always_inline void victim_in(struct jp_cpu *cpu, const void *next, u64 ids, u64 next_ids, u64 now)
{
	struct jp_thread *thread;
	struct jp_clock *clock;
	u32 slot = slot_of(next_ids);

	cpu->victim = slot;
	if (!slot)
		return;
	clock = clock_of(slot);
	thread = thread_of(slot);
	if (!clock || !thread)
		return;
	unwatch(thread);
	clock_enter(clock, S_RUNNING, now);
	emit(cpu, now, SWITCH_IN, 0, next_ids, ids, 0, 0);
	name_victim(cpu, thread, next, next_ids);
	tell_frequency(cpu, now);
	start_counters(now);
}

int on_sched_switch(struct bpf_raw_tracepoint_args *ctx)
{
	void *prev = (void *)ctx->args[1], *next = (void *)ctx->args[2];
	struct jp_cpu *cpu = this_cpu();
	u64 ids = bpf_get_current_pid_tgid();
	u64 next_ids = task_ids(next);
	bool out = is_target(ids), in = is_target(next_ids);
	u32 prev_state;
	u64 now;

	if (!cpu)
		return 0;
	cpu->current_task = (u64)next;
	if (!out && !in && !cpu->watch)
		return 0;
	now = bpf_ktime_get_ns();
#if SWITCH_ARGS > 3
	/* fa2c3254d7cf and 9c2136be0878 (5.18): the state as __schedule() saw it is the last argument. */
	prev_state = ctx->args[3];
#else
	prev_state = read_u32(prev + OFF_TASK_STATE);
#endif
	cpu->count[5]++;
	look_at_steal(cpu, prev, now, true);
	if (out)
		victim_out(cpu, prev, ids, next_ids, now, ctx->args[0], prev_state);
	if (in)
		victim_in(cpu, next, ids, next_ids, now);
	else if (!out)
		emit(cpu, now, OCCUPY, 0, next_ids, ids, 0, 0);
	if (!in)
		name_task(cpu, next, next_ids);
	return 0;
}

int on_sched_waking(struct bpf_raw_tracepoint_args *ctx)
{
	void *task = (void *)ctx->args[0];
	struct jp_cpu *cpu = this_cpu();
	u64 ids = task_ids(task), now, me, detail = 0;
	struct jp_thread *thread;
	struct jp_clock *clock;
	u32 slot, context, queue;

	if (!is_target(ids))
		return 0;
	slot = slot_of(ids);
	if (!cpu || !slot)
		return 0;
	clock = clock_of(slot);
	thread = thread_of(slot);
	if (!clock || !thread)
		return 0;
	now = bpf_ktime_get_ns();
	queue = read_u32(task + OFF_TASK_CPU);
	if (clock->state >= S_BLOCKED) {
		clock_enter(clock, S_WAKEUP, now);
		watch(thread, queue);
	}
	context = context_of(cpu);
	me = bpf_get_current_pid_tgid();
	if (context == IN_HARDIRQ)
		detail = cpu->irq;
	else if (context == IN_SOFTIRQ)
		detail = cpu->softirq;
	else if (context == IN_VECTOR)
		detail = cpu->vector;
	else if (cpu->work_function && cpu->work_tid == (u32)me)
		detail = cpu->work_function;
	emit(cpu, now, WAKING, context, ids, me, queue_word(cpu, queue), detail);
	name_task(cpu, (void *)bpf_get_current_task(), me);
	return 0;
}

int on_sched_wakeup(struct bpf_raw_tracepoint_args *ctx)
{
	void *task = (void *)ctx->args[0];
	struct jp_cpu *cpu = this_cpu();
	struct jp_thread *thread;
	struct jp_clock *clock;
	u64 ids = task_ids(task), now;
	u32 slot, queue;

	if (!is_target(ids))
		return 0;
	slot = slot_of(ids);
	if (!cpu || !slot)
		return 0;
	clock = clock_of(slot);
	thread = thread_of(slot);
	if (!clock || !thread)
		return 0;
	queue = read_u32(task + OFF_TASK_CPU);
	/* Nothing new: it waits where sched_waking and sched_migrate_task said. */
	if (thread->wait_cpu == queue + 1 || clock->state == S_RUNNING)
		return 0;
	now = bpf_ktime_get_ns();
	/* A waking that raced the switch-out came too early to count: the wait starts now. */
	if (clock->state != S_WAKEUP)
		clock_enter(clock, S_WAKEUP, now);
	watch(thread, queue);
	emit(cpu, now, WAKEUP, 0, ids, bpf_get_current_pid_tgid(), queue_word(cpu, queue), 0);
	return 0;
}

int on_sched_migrate_task(struct bpf_raw_tracepoint_args *ctx)
{
	void *task = (void *)ctx->args[0];
	u32 to = ctx->args[1], slot;
	struct jp_cpu *cpu = this_cpu();
	struct jp_thread *thread;
	struct jp_clock *clock;
	u64 ids = task_ids(task);

	if (!is_target(ids))
		return 0;
	slot = slot_of(ids);
	if (!cpu || !slot)
		return 0;
	clock = clock_of(slot);
	thread = thread_of(slot);
	if (!clock || !thread)
		return 0;
	clock->count[2]++;
	if (thread->wait_cpu)
		watch(thread, to);
	emit(cpu, bpf_ktime_get_ns(), MIGRATE, 0, ids, read_u32(task + OFF_TASK_CPU), queue_word(cpu, to), 0);
	return 0;
}
