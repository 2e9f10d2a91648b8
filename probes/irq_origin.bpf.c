/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Who is behind a vector: the function that a timer or a cross call runs, and the task that sent the IPI. */
#include "jitterprof.h"

int on_hrtimer_expire_entry(struct bpf_raw_tracepoint_args *ctx)
{
#ifdef OFF_HRTIMER_FUNCTION
	struct jp_cpu *cpu = this_cpu();
	u64 function;

	if (!cpu)
		return 0;
#ifdef __TARGET_ARCH_arm64
	/* The local timer is a device interrupt there, and has no tracepoint of its own. */
	if (read_u64((void *)ctx->args[0] + OFF_HRTIMER_FUNCTION) == TICK_FUNCTION) {
		if (!cpu->victim)
			find_victim(cpu, bpf_ktime_get_ns());
		if (cpu->victim || cpu->watch)
			at_tick(cpu, bpf_ktime_get_ns());
	}
#endif
	if (!cpu->start[IN_VECTOR])
		return 0;
	function = read_u64((void *)ctx->args[0] + OFF_HRTIMER_FUNCTION);
	/* The tick shares the interrupt with whatever else is due: name the other. */
	if (function != TICK_FUNCTION)
		cpu->function = function;
#endif
	return 0;
}

/* On the sender's side: it would tax every interrupt, and every call that a CPU makes to itself, on the other. */
int on_csd_queue_cpu(struct bpf_raw_tracepoint_args *ctx)
{
	struct jp_cpu *there = cpu_state(ctx->args[0]);

	if (there)
		there->ipi_function = ctx->args[2];
	return 0;
}

static __always_inline void sent(struct jp_cpu *here, u32 to, u64 ids)
{
	struct jp_cpu *there = cpu_state(to);

	if (!there)
		return;
	there->ipi_from = ids;
	if (there->victim || there->watch)
		name_task(here, (void *)bpf_get_current_task(), ids);
}

int on_ipi_send_cpu(struct bpf_raw_tracepoint_args *ctx)
{
	struct jp_cpu *cpu = this_cpu();

	if (cpu)
		sent(cpu, ctx->args[0], bpf_get_current_pid_tgid());
	return 0;
}

int on_ipi_send_cpumask(struct bpf_raw_tracepoint_args *ctx)
{
	u64 ids = bpf_get_current_pid_tgid(), mask;
	struct jp_cpu *cpu = this_cpu();
	int i;

	if (!cpu)
		return 0;
	mask = read_u64((void *)ctx->args[0]);
	/* The first 64 CPUs; beyond, the sender stays unknown. */
	for (i = 0; i < 64 && i < CPUS; i++)
		if (mask & (1ULL << i))
			sent(cpu, i, ids);
	return 0;
}
