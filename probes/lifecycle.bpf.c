/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Threads and processes of the target come, go, are renamed and are signalled. */
#include "jitterprof.h"

/*
 * A process belongs to the target when its parent does. Settled before it first runs; and a mark stays until the number
 * is given to somebody else, so that the last switch of the last thread still counts.
 */
static __always_inline void inherit(u32 tgid, u32 parent)
{
	u8 *mark = mark_of(tgid), *from = mark_of(parent);

	if (!mark || !from)
		return;
	if (*from & MARK_FOLLOWED)
		*mark = MARK_FOLLOWED | MARK_EVER;
	else if (*mark)
		*mark &= MARK_EVER;
}

int on_sched_process_fork(struct bpf_raw_tracepoint_args *ctx)
{
	void *parent = (void *)ctx->args[0], *child = (void *)ctx->args[1];
	struct jp_cpu *cpu = this_cpu();
	u64 ids = task_ids(child), parent_ids = task_ids(parent);
	u32 tid = ids, tgid = ids >> 32;

	/* A reused tid is a new task: name it again. */
	named.delete(&tid);
	if (tid == tgid)
		inherit(tgid, parent_ids >> 32);
	if (cpu && is_target(ids)) {
		emit(cpu, bpf_ktime_get_ns(), FORK, 0, tid, parent_ids, tgid, 0);
		name_task(cpu, child, ids);
	}
	return 0;
}

int on_sched_process_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct jp_cpu *cpu = this_cpu();
	u64 ids = bpf_get_current_pid_tgid();

	if (cpu && is_target(ids))
		emit(cpu, bpf_ktime_get_ns(), EXIT, 0, ids, 0, 0, 0);
	return 0;
}

/* A thread that execs takes over the number of its process: its old number, and what we knew under it, are gone. */
int on_sched_process_exec(struct bpf_raw_tracepoint_args *ctx)
{
	u32 old = ctx->args[1], *slot, number;
	u64 ids = bpf_get_current_pid_tgid();
	struct jp_cpu *cpu = this_cpu();
	struct jp_thread *thread;
	struct jp_clock *clock;

	if (!cpu || !is_target(ids) || old == (u32)ids)
		return 0;
	slot = slots.lookup(&old);
	if (!slot)
		return 0;
	number = *slot + 1;
	clock = clock_of(number);
	thread = thread_of(number);
	if (clock && thread)
		close_slot(old, number, clock, thread);
	cpu->victim = 0;
	return 0;
}

int on_task_rename(struct bpf_raw_tracepoint_args *ctx)
{
	void *task = (void *)ctx->args[0];
	struct jp_cpu *cpu = this_cpu();
	u64 ids = task_ids(task);
	u32 tid = ids;

	if (cpu && (named.lookup(&tid) || is_target(ids)))
		emit_name(cpu, task, ids, (void *)ctx->args[1]);
	return 0;
}

int on_signal_generate(struct bpf_raw_tracepoint_args *ctx)
{
	struct jp_cpu *cpu = this_cpu();
	u64 ids = task_ids((void *)ctx->args[2]), me;

	if (!cpu || !is_target(ids))
		return 0;
	me = bpf_get_current_pid_tgid();
	emit(cpu, bpf_ktime_get_ns(), SIGNAL, 0, ids, me, ctx->args[0], 0);
	name_task(cpu, (void *)bpf_get_current_task(), me);
	return 0;
}
