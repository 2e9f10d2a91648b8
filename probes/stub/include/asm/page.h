/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
#ifndef JP_STUB_ASM_PAGE_H
#define JP_STUB_ASM_PAGE_H
#define PAGE_SHIFT 12
#define PAGE_SIZE 4096UL
#endif
