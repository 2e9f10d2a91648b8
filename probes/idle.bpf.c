/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* When a CPU for which a victim waits wakes from idle, and from which idle state. */
#include "jitterprof.h"

int on_cpu_idle(struct bpf_raw_tracepoint_args *ctx)
{
	struct jp_cpu *cpu = this_cpu();
	u32 state = ctx->args[0];

	if (!cpu)
		return 0;
	if (state != (u32)-1)
		cpu->idle_state = state;
	else if (cpu->watch)
		emit(cpu, bpf_ktime_get_ns(), IDLE_EXIT, 0, 0, cpu->idle_state, 0, 0);
	return 0;
}
