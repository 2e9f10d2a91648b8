/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Page faults and reclaim of victims. The exception tracepoints mark a fault's start only; its end is the software
 * event that mm_account_fault() raises when the fault has been handled (bce617edecad, 5.9), opened per victim thread.
 */
#include "jitterprof.h"

static __always_inline int fault_start(u64 address, u32 flags)
{
	struct jp_cpu *cpu = this_cpu();
	struct jp_thread *thread;
	struct jp_clock *clock;
	u64 now;

	if (!cpu || !cpu->victim || context_of(cpu) != IN_TASK)
		return 0;
	clock = clock_of(cpu->victim);
	thread = thread_of(cpu->victim);
	if (!clock || !thread)
		return 0;
	now = bpf_ktime_get_ns();
	clock->count[3]++;
#if FAULT_END
	thread->fault_start = now;
	thread->fault_address = address;
	thread->fault_flags = flags;
	thread->fault_clocked = clocked(clock);
#else
	emit(cpu, now, FAULT, flags | 4, bpf_get_current_pid_tgid(), 0, now, address);
#endif
	return 0;
}

int on_page_fault_user(struct bpf_raw_tracepoint_args *ctx)
{
	return fault_start(ctx->args[0], 0);
}

int on_page_fault_kernel(struct bpf_raw_tracepoint_args *ctx)
{
	return fault_start(ctx->args[0], 1);
}

static __always_inline int fault_end(u32 major)
{
	struct jp_cpu *cpu = this_cpu();
	struct jp_thread *thread;
	struct jp_clock *clock;
	u64 now, start;

	if (!cpu || !cpu->victim)
		return 0;
	clock = clock_of(cpu->victim);
	thread = thread_of(cpu->victim);
	if (!clock || !thread)
		return 0;
	start = thread->fault_start;
	if (!start)
		return 0;
	thread->fault_start = 0;
	now = bpf_ktime_get_ns();
	clock_add(clock, C_FAULT, now - start - (clocked(clock) - thread->fault_clocked));
	emit(cpu, now, FAULT, thread->fault_flags | major, bpf_get_current_pid_tgid(), 0, start, thread->fault_address);
	return 0;
}

int on_minor_fault(struct bpf_perf_event_data *ctx)
{
	return fault_end(0);
}

int on_major_fault(struct bpf_perf_event_data *ctx)
{
	return fault_end(2);
}

int on_reclaim_begin(struct bpf_raw_tracepoint_args *ctx)
{
	struct jp_cpu *cpu = this_cpu();
	struct jp_thread *thread;
	struct jp_clock *clock;

	if (!cpu || !cpu->victim)
		return 0;
	clock = clock_of(cpu->victim);
	thread = thread_of(cpu->victim);
	if (!clock || !thread || thread->reclaim_start)
		return 0;
	thread->reclaim_start = bpf_ktime_get_ns();
	thread->reclaim_clocked = clocked(clock);
	return 0;
}

static __always_inline int reclaim_end(u8 flags)
{
	struct jp_cpu *cpu = this_cpu();
	struct jp_thread *thread;
	struct jp_clock *clock;
	u64 start, now;

	if (!cpu || !cpu->victim)
		return 0;
	clock = clock_of(cpu->victim);
	thread = thread_of(cpu->victim);
	if (!clock || !thread)
		return 0;
	start = thread->reclaim_start;
	if (!start)
		return 0;
	thread->reclaim_start = 0;
	now = bpf_ktime_get_ns();
	clock_add(clock, C_RECLAIM, now - start - (clocked(clock) - thread->reclaim_clocked));
	emit(cpu, now, RECLAIM, flags, bpf_get_current_pid_tgid(), 0, start, 0);
	return 0;
}

int on_direct_reclaim_end(struct bpf_raw_tracepoint_args *ctx)
{
	return reclaim_end(0);
}

int on_memcg_reclaim_end(struct bpf_raw_tracepoint_args *ctx)
{
	return reclaim_end(1);
}

int on_compaction_end(struct bpf_raw_tracepoint_args *ctx)
{
	return reclaim_end(2);
}
