/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
#ifndef JP_STUB_UAPI_LINUX_IF_ETHER_H
#define JP_STUB_UAPI_LINUX_IF_ETHER_H
#include <linux/types.h>
#endif
