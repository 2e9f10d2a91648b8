/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
#ifndef JP_STUB_LINUX_KCONFIG_H
#define JP_STUB_LINUX_KCONFIG_H
/* bcc asks for these even where no kernel headers are installed. */
#define CONFIG_64BIT 1
#define CONFIG_BPF_SYSCALL 1
#endif
