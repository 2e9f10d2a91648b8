/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
#ifndef JP_STUB_LINUX_SCHED_H
#define JP_STUB_LINUX_SCHED_H
#define TASK_COMM_LEN 16
#endif
