// SPDX-License-Identifier: GPL-2.0-only
/* The scheduler, but for one thing: it never serves its queue, until the kernel's watchdog takes it out. */
#include "../../bpf/kernel.h"
#include <bpf/bpf_helpers.h>
#include "../../bpf/compat.h"
#define scx_bpf_dsq_move_to_local(queue) 0
#include "../../bpf/scheduler.bpf.c"
