/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
#ifndef JP_STUB_UAPI_LINUX_PTRACE_H
#define JP_STUB_UAPI_LINUX_PTRACE_H
#include <linux/types.h>
#if defined(__TARGET_ARCH_arm64) || defined(__aarch64__)
struct user_pt_regs { __u64 regs[31], sp, pc, pstate; };
struct pt_regs { __u64 regs[31], sp, pc, pstate, orig_x0; __s32 syscallno; __u32 unused; };
#else
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
#endif
#endif
