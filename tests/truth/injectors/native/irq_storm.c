// SPDX-License-Identifier: Apache-2.0
/* O_DIRECT reads from another CPU, several in flight, so that the device keeps interrupting where its irq points.
 * Extra arguments: file, depth. */
#include "pulse.h"
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <sys/stat.h>

#define BLOCK 4096
#define DEPTH_MAX 64

int main(int argc, char **argv)
{
	struct plan plan = begin(argc, argv, "jp-reads");
	int depth = argc > 8 ? atoi(argv[8]) : 8;
	aio_context_t context = 0;
	struct iocb requests[DEPTH_MAX], *pointers[DEPTH_MAX];
	struct io_event events[DEPTH_MAX];
	struct stat status;
	char *buffer;

	if (argc < 8 || depth < 1 || depth > DEPTH_MAX)
		return 2;
	pin(plan.other);
	int fd = open(argv[7], O_RDONLY | O_DIRECT);
	if (fd < 0 || fstat(fd, &status) || status.st_size < BLOCK)
		die(argv[7]);
	if (posix_memalign((void **)&buffer, BLOCK, BLOCK * DEPTH_MAX) || syscall(SYS_io_setup, DEPTH_MAX, &context))
		die("io_setup");
	uint64_t place = plan.seed;
	for (int i = 0; i < depth; i++) {
		requests[i] = (struct iocb){.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = fd, .aio_nbytes = BLOCK,
					    .aio_buf = (uint64_t)(uintptr_t)(buffer + i * BLOCK)};
		pointers[i] = &requests[i];
	}
	while (next_pulse(&plan)) {
		struct pulse pulse = {.t0 = now_ns()};
		int64_t cpu = thread_cpu_ns();
		int in_flight = 0;
		for (int i = 0; i < depth; i++) {
			place = place * 6364136223846793005ULL + 1;
			requests[i].aio_offset = (place >> 20) % (status.st_size / BLOCK) * BLOCK;
			requests[i].aio_data = i;
			if (syscall(SYS_io_submit, context, 1, &pointers[i]) != 1)
				die("io_submit");
			in_flight++;
		}
		while (in_flight) {
			int more = now_ns() < pulse.t0 + plan.pulse_ns && !stopping;
			long got = syscall(SYS_io_getevents, context, 1, DEPTH_MAX, events, NULL);
			if (got < 0 && errno != EINTR)
				die("io_getevents");
			for (long i = 0; i < got; i++) {
				struct iocb *request = &requests[events[i].data];
				if (events[i].res != BLOCK) {
					errno = events[i].res < 0 ? -events[i].res : EIO;
					die("read");
				}
				in_flight--;
				pulse.count++;
				place = place * 6364136223846793005ULL + 1;
				request->aio_offset = (place >> 20) % (status.st_size / BLOCK) * BLOCK;
				if (more && syscall(SYS_io_submit, context, 1, &request) == 1)
					in_flight++;
			}
		}
		pulse.t1 = now_ns();
		pulse.cpu_ns = thread_cpu_ns() - cpu;
		log_pulse(pulse);
	}
	syscall(SYS_io_destroy, context);
	return finish();
}
