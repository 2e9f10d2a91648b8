/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Which function a kworker runs while a victim waits for its CPU or for its result. */
#include "jitterprof.h"

int on_workqueue_execute_start(struct bpf_raw_tracepoint_args *ctx)
{
	struct jp_cpu *cpu = this_cpu();

	if (!cpu)
		return 0;
	cpu->work_function = read_u64((void *)ctx->args[0] + OFF_WORK_FUNC);
	cpu->work_start = bpf_ktime_get_ns();
	cpu->work_tid = bpf_get_current_pid_tgid();
	return 0;
}

int on_workqueue_execute_end(struct bpf_raw_tracepoint_args *ctx)
{
	struct jp_cpu *cpu = this_cpu();

	if (!cpu || !cpu->work_function || cpu->work_tid != (u32)bpf_get_current_pid_tgid())
		return 0;
	if (cpu->watch)
		emit(cpu, bpf_ktime_get_ns(), WORK, 0, cpu->work_tid, 0, cpu->work_start, cpu->work_function);
	cpu->work_function = 0;
	return 0;
}
