/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
#ifndef JP_STUB_LINUX_TYPES_H
#define JP_STUB_LINUX_TYPES_H
typedef signed char __s8; typedef unsigned char __u8; typedef short __s16; typedef unsigned short __u16;
typedef int __s32; typedef unsigned int __u32; typedef long long __s64; typedef unsigned long long __u64;
typedef __s8 s8; typedef __u8 u8; typedef __s16 s16; typedef __u16 u16; typedef __s32 s32; typedef __u32 u32; typedef __s64 s64; typedef __u64 u64;
typedef __u16 __le16, __be16, __sum16; typedef __u32 __le32, __be32, __wsum; typedef __u64 __le64, __be64;
typedef unsigned char uint8_t; typedef unsigned short uint16_t; typedef unsigned int uint32_t; typedef unsigned long uint64_t;
typedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long int64_t;
typedef unsigned long size_t, uintptr_t, __kernel_size_t; typedef long ssize_t; typedef _Bool bool;
typedef int pid_t, clockid_t; typedef unsigned int uid_t, gid_t, dev_t, mode_t, umode_t, gfp_t; typedef long off_t; typedef long long loff_t;
typedef __u64 sector_t, blkcnt_t, aligned_u64, __aligned_u64; typedef __u64 dma_addr_t, phys_addr_t;
#define __aligned_u64 __u64 __attribute__((aligned(8)))
enum { false = 0, true = 1 };
#define NULL ((void *)0)
#define __user
#define __rcu
#define __percpu
#define __force
#define __bitwise
#define __packed __attribute__((packed))
#define __always_inline inline __attribute__((always_inline))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define offsetof(t, m) __builtin_offsetof(t, m)
#define READ_ONCE(x) (*(volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile typeof(x) *)&(x) = (v))
#define BITS_PER_LONG 64
#endif
