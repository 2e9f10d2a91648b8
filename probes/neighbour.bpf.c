/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Who runs beside a victim: on the other threads of its core, and on the CPUs with which it shares its last cache. Looked
 * at by the tick that interrupts the victim. Part of the program of `irq`.
 */
#include "jitterprof.h"

/* Ticks come 100 to 1000 times a second, other timers as often as they like. */
#define LOOK_EVERY_NS 3000000
/* CPUs per look. Siblings of the core are looked at each time, the others by turns. */
#define LOOK_AT 8
#define NEIGHBOURS 256

struct jp_neighbours {
	u32 count;
	u32 siblings; /* the first ones in the list */
	u32 next;
	u32 pad;
	u32 list[NEIGHBOURS]; /* CPU | enum jp_neighbour << 16 */
};

BPF_ARRAY(neighbours, struct jp_neighbours, CPUS);

static __always_inline void look_at_neighbours(struct jp_cpu *cpu, u64 now, u32 tid)
{
	u32 here = bpf_get_smp_processor_id(), seen = 0, at, entry;
	struct jp_neighbours *mine;
	struct jp_cpu *there;
	void *task;
	u64 ids;
	int i;

	if (now - cpu->looked < LOOK_EVERY_NS)
		return;
	cpu->looked = now;
	mine = neighbours.lookup(&here);
	if (!mine || !mine->count)
		return;
#pragma clang loop unroll(disable)
	for (i = 0; i < LOOK_AT; i++) {
		if (i >= mine->count)
			break;
		at = i;
		if (i >= mine->siblings) {
			at = mine->next;
			mine->next = at + 1 < mine->count ? at + 1 : mine->siblings;
		}
		entry = mine->list[at & (NEIGHBOURS - 1)];
		there = cpu_state(entry & 0xffff);
		if (!there)
			continue;
		task = (void *)there->current_task;
		if (!task)
			continue;
		ids = task_ids(task);
		if (!(u32)ids || is_target(ids))
			continue;
		seen++;
		emit(cpu, now, NEIGHBOUR, entry >> 16, ids, entry & 0xffff, tid, 0);
		name_task(cpu, task, ids);
	}
	/* Nobody: so that a look at idle neighbours differs from none. */
	if (!seen)
		emit(cpu, now, NEIGHBOUR, NEIGHBOUR_NONE, 0, 0, tid, 0);
}
