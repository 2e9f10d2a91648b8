/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
#ifndef JP_STUB_LINUX_VERSION_H
#define JP_STUB_LINUX_VERSION_H
/* The probes test for members and tracepoints, never for a version. */
#define LINUX_VERSION_CODE 0
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
#endif
