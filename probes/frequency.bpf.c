/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* At which frequency a CPU runs on which a victim runs. */
#include "jitterprof.h"

int on_cpu_frequency(struct bpf_raw_tracepoint_args *ctx)
{
	u32 khz = ctx->args[0], which = ctx->args[1];
	struct jp_cpu *here = this_cpu(), *there = cpu_state(which);

	if (!here || !there)
		return 0;
	there->khz = khz;
	if (there->victim && there->khz_told != khz) {
		there->khz_told = khz;
		emit(here, bpf_ktime_get_ns(), FREQUENCY, 0, 0, which, khz, 0);
	}
	return 0;
}

/* What changed while no victim was there is told when one comes. */
static __always_inline void tell_frequency(struct jp_cpu *cpu, u64 now)
{
	u64 khz = cpu->khz;

	if (khz == cpu->khz_told)
		return;
	cpu->khz_told = khz;
	emit(cpu, now, FREQUENCY, 0, 0, bpf_get_smp_processor_id(), khz, 0);
}
