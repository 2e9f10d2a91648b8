/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Interrupts, keyed by CPU and nested: NMI > device interrupt or vector > softirq. An interval is written once, when it
 * ends, if a victim runs or waits on the CPU.
 */
#include "jitterprof.h"

#define VECTOR_RESCHEDULE 2
#define VECTOR_CALL 3
#define VECTOR_CALL_SINGLE 4

static __always_inline void enter(struct jp_cpu *cpu, u32 context)
{
	cpu->start[context] = bpf_ktime_get_ns();
	cpu->child[context] = 0;
}

/*
 * Net time goes to the victim's clock; the gross time is what the interrupted context must not count again. `sent`: the
 * sender of the IPI and the function that it sent belong in the record: read only here, where they are wanted, since
 * another CPU has just written them. Returns the time, or 0 where no victim runs or waits.
 */
static __always_inline u64 leave(struct jp_cpu *cpu, u32 context, u32 class, u8 kind, u8 flags, u32 other, u64 b,
				 bool sent)
{
	u64 start = cpu->start[context], now, gross, net;
	bool concerns = cpu->victim || cpu->watch;
	struct jp_clock *clock;
	u32 below;

	if (!start)
		return 0;
	cpu->start[context] = 0;
	below = context_of(cpu);
	if (!concerns && below == IN_TASK)
		return 0;
	now = bpf_ktime_get_ns();
	gross = now - start;
	net = gross - cpu->child[context];
	if (below < context)
		cpu->child[below] += gross;
	if (!concerns)
		return 0;
	if (cpu->victim) {
		clock = clock_of(cpu->victim);
		if (clock)
			clock_add(clock, class, net);
	}
	if (sent) {
		other = cpu->ipi_from;
		if (flags == VECTOR_CALL || flags == VECTOR_CALL_SINGLE)
			b = cpu->ipi_function;
#if CPUS > 64
		/* Not every sender is seen there (irq_origin), so none must be taken for the next one. */
		cpu->ipi_from = 0;
#endif
	}
	emit(cpu, now, kind, flags, bpf_get_current_pid_tgid(), other, start, b);
	return now;
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
	leave(cpu, IN_HARDIRQ, C_HARDIRQ, HARDIRQ, 0, ctx->args[0], 0, false);
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
	leave(cpu, IN_SOFTIRQ, C_SOFTIRQ, SOFTIRQ, 0, ctx->args[0], 0, false);
	return 0;
}

static __always_inline int enter_vector(u32 vector)
{
	struct jp_cpu *cpu = this_cpu();

	if (!cpu)
		return 0;
	cpu->vector = vector;
	enter(cpu, IN_VECTOR);
	return 0;
}

int on_local_timer_entry(struct bpf_raw_tracepoint_args *ctx)
{
	struct jp_cpu *cpu = this_cpu();

	if (!cpu)
		return 0;
	cpu->function = 0;
	enter_vector(1);
	if (!cpu->victim)
		find_victim(cpu, cpu->start[IN_VECTOR]);
	return 0;
}

int on_local_timer_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct jp_cpu *cpu = this_cpu();
	u64 now;

	if (!cpu)
		return 0;
	cpu->count[2]++;
	now = leave(cpu, IN_VECTOR, C_TIMER, VECTOR, 1, 0, cpu->function, false);
	if (now)
		at_tick(cpu, now);
	return 0;
}

static __always_inline int leave_ipi(u32 vector)
{
	struct jp_cpu *cpu = this_cpu();

	if (!cpu)
		return 0;
	cpu->count[3]++;
	leave(cpu, IN_VECTOR, C_IPI, VECTOR, vector, 0, 0, vector >= VECTOR_RESCHEDULE && vector <= VECTOR_CALL_SINGLE);
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
	leave(cpu, IN_NMI, C_NMI, NMI, 0, 0, 0, false);
	return 0;
}
