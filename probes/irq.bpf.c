/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Interrupts, keyed by CPU and nested: NMI > device interrupt or vector > softirq. An interval is written once, when it
 * ends, if a victim runs or waits on the CPU.
 */
#include "jitterprof.h"

static __always_inline void enter(struct jp_cpu *cpu, u32 context)
{
	cpu->start[context] = bpf_ktime_get_ns();
	cpu->child[context] = 0;
}

/* Net time goes to the victim's clock; the gross time is what the interrupted context must not count again. */
static __always_inline void leave(struct jp_cpu *cpu, u32 context, u32 class, u8 kind, u8 flags, u32 other, u64 b)
{
	u64 start = cpu->start[context], now, gross, net;
	struct jp_clock *clock;
	u32 below;

	if (!start)
		return;
	cpu->start[context] = 0;
	now = bpf_ktime_get_ns();
	gross = now - start;
	net = gross - cpu->child[context];
	below = context_of(cpu);
	if (below < context)
		cpu->child[below] += gross;
	if (!cpu->victim && !cpu->watch)
		return;
	if (cpu->victim) {
		clock = clock_of(cpu->victim);
		if (clock)
			clock_add(clock, class, net);
	}
	emit(cpu, now, kind, flags, bpf_get_current_pid_tgid(), other, start, b);
}

int on_irq_handler_entry(struct bpf_raw_tracepoint_args *ctx)
{
	struct jp_cpu *cpu = this_cpu();

	if (!cpu)
		return 0;
	cpu->irq = ctx->args[0];
	enter(cpu, IN_HARDIRQ);
	return 0;
}

int on_irq_handler_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct jp_cpu *cpu = this_cpu();

	if (!cpu)
		return 0;
	/* A shared line calls every handler: those that return IRQ_NONE took time all the same. */
	cpu->count[0]++;
	leave(cpu, IN_HARDIRQ, C_HARDIRQ, HARDIRQ, 0, ctx->args[0], 0);
	return 0;
}

int on_softirq_entry(struct bpf_raw_tracepoint_args *ctx)
{
	struct jp_cpu *cpu = this_cpu();

	if (!cpu)
		return 0;
	cpu->softirq = ctx->args[0];
	enter(cpu, IN_SOFTIRQ);
	return 0;
}

int on_softirq_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct jp_cpu *cpu = this_cpu();

	if (!cpu)
		return 0;
	cpu->count[1]++;
	leave(cpu, IN_SOFTIRQ, C_SOFTIRQ, SOFTIRQ, 0, ctx->args[0], 0);
	return 0;
}

static __always_inline int enter_vector(u32 vector)
{
	struct jp_cpu *cpu = this_cpu();

	if (!cpu)
		return 0;
	cpu->vector = vector;
	cpu->function = 0;
	enter(cpu, IN_VECTOR);
	return 0;
}

int on_local_timer_entry(struct bpf_raw_tracepoint_args *ctx)
{
	struct jp_cpu *cpu = this_cpu();

	if (!cpu)
		return 0;
	if (!cpu->victim)
		find_victim(cpu, bpf_ktime_get_ns());
	return enter_vector(1);
}

int on_local_timer_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct jp_cpu *cpu = this_cpu();

	if (!cpu)
		return 0;
	cpu->count[2]++;
	leave(cpu, IN_VECTOR, C_TIMER, VECTOR, 1, 0, cpu->function);
	if (cpu->victim || cpu->watch)
		look_at_steal(cpu, (void *)bpf_get_current_task(), bpf_ktime_get_ns(), true);
	return 0;
}

static __always_inline int leave_ipi(u32 vector)
{
	struct jp_cpu *cpu = this_cpu();

	if (!cpu)
		return 0;
	cpu->count[3]++;
	leave(cpu, IN_VECTOR, C_IPI, VECTOR, vector, cpu->ipi_from, cpu->function);
	cpu->ipi_from = 0;
	return 0;
}

#define IPI(name, vector)                                              \
	int on_##name##_entry(struct bpf_raw_tracepoint_args *ctx)     \
	{                                                              \
		return enter_vector(vector);                           \
	}                                                              \
	int on_##name##_exit(struct bpf_raw_tracepoint_args *ctx)      \
	{                                                              \
		return leave_ipi(vector);                              \
	}

IPI(reschedule, 2)
IPI(call_function, 3)
IPI(call_function_single, 4)
IPI(irq_work, 5)
IPI(x86_platform_ipi, 6)
IPI(thermal_apic, 7)
IPI(threshold_apic, 8)
IPI(deferred_error_apic, 9)
IPI(error_apic, 10)
IPI(spurious_apic, 11)

/* arm64 has one pair of tracepoints for all IPIs, with the reason as a string: "Rescheduling interrupts" ... */
int on_ipi_entry(struct bpf_raw_tracepoint_args *ctx)
{
	char reason = 0;

	bpf_probe_read_kernel(&reason, 1, (void *)ctx->args[0]);
	return enter_vector(reason == 'R' ? 2 : reason == 'F' ? 3 : reason == 'I' ? 5 : 6);
}

int on_ipi_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct jp_cpu *cpu = this_cpu();

	return cpu ? leave_ipi(cpu->vector) : 0;
}

int on_nmi_handler(struct bpf_raw_tracepoint_args *ctx)
{
	struct jp_cpu *cpu = this_cpu();

	if (!cpu)
		return 0;
	cpu->count[4]++;
	cpu->start[IN_NMI] = bpf_ktime_get_ns() - ctx->args[1];
	cpu->child[IN_NMI] = 0;
	leave(cpu, IN_NMI, C_NMI, NMI, 0, 0, 0);
	return 0;
}
