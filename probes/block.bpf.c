/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Block requests that a victim submits itself: which device it is about to wait for. */
#include "jitterprof.h"

int on_block_bio_queue(struct bpf_raw_tracepoint_args *ctx)
{
	void *bio = (void *)ctx->args[0], *bdev;
	struct jp_cpu *cpu = this_cpu();
	struct jp_thread *thread;
	u32 dev;

	if (!cpu || !cpu->victim || context_of(cpu) != IN_TASK)
		return 0;
	thread = thread_of(cpu->victim);
	if (!thread)
		return 0;
	bdev = (void *)read_u64(bio + OFF_BIO_BDEV);
	dev = read_u32(bdev + OFF_BDEV_DEV);
	thread->last_dev = dev;
	emit(cpu, bpf_ktime_get_ns(), BLOCK_IO, 0, bpf_get_current_pid_tgid(), dev,
	     read_u64(bio + OFF_BIO_SECTOR), read_u32(bio + OFF_BIO_SIZE));
	return 0;
}
