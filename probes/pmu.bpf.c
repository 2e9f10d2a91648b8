/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What a victim's time on the CPU went into: cycles, instructions and cache misses, counted per CPU and read when a
 * victim comes, leaves, and at every tick in between. Part of the programs of `sched` and `irq`.
 */
#include "jitterprof.h"

#define CYCLES 0
#define INSTRUCTIONS 1
#define MISSES 2
#define PMU_COUNTERS 3

struct jp_counts {
	u64 since;
	u64 value[PMU_COUNTERS];
	u64 idle; /* time for which a counter was lent to somebody else */
};

BPF_ARRAY(counts, struct jp_counts, CPUS);
BPF_PERF_ARRAY(pmu_cycles, CPUS);
BPF_PERF_ARRAY(pmu_instructions, CPUS);
BPF_PERF_ARRAY(pmu_misses, CPUS);

static __always_inline bool count_now(struct jp_counts *to)
{
	struct bpf_perf_event_value cycles = {}, instructions = {}, misses = {};

	if (pmu_cycles.perf_counter_value(CUR_CPU_IDENTIFIER, &cycles, sizeof(cycles)))
		return false;
	if (pmu_instructions.perf_counter_value(CUR_CPU_IDENTIFIER, &instructions, sizeof(instructions)))
		return false;
	/* Not every machine counts these. */
	pmu_misses.perf_counter_value(CUR_CPU_IDENTIFIER, &misses, sizeof(misses));
	to->value[CYCLES] = cycles.counter;
	to->value[INSTRUCTIONS] = instructions.counter;
	to->value[MISSES] = misses.counter;
	to->idle = cycles.enabled - cycles.running + instructions.enabled - instructions.running;
	return true;
}

static __always_inline u64 fit(u64 value, u32 *flags)
{
	if (value <= 0xffffffff)
		return value;
	*flags |= COUNTERS_LONG;
	return 0xffffffff;
}

static __always_inline void start_counters(u64 now)
{
	u32 here = bpf_get_smp_processor_id();
	struct jp_counts *before = counts.lookup(&here);

	if (before)
		before->since = count_now(before) ? now : 0;
}

static __always_inline void read_counters(struct jp_cpu *cpu, u64 now, u32 tid)
{
	u32 here = bpf_get_smp_processor_id(), flags = 0, misses;
	struct jp_counts *before = counts.lookup(&here), after = {};
	u64 cycles, instructions;

	if (!before || !count_now(&after))
		return;
	after.since = now;
	if (before->since) {
		if (after.idle != before->idle)
			flags |= COUNTERS_SHARED;
		cycles = fit(after.value[CYCLES] - before->value[CYCLES], &flags);
		instructions = fit(after.value[INSTRUCTIONS] - before->value[INSTRUCTIONS], &flags);
		misses = fit(after.value[MISSES] - before->value[MISSES], &flags);
		emit(cpu, now, COUNTERS, flags, tid, misses, before->since, cycles | instructions << 32);
	}
	*before = after;
}
