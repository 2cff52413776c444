// SPDX-License-Identifier: GPL-2.0-only
/*
 * Slows tool calls whose memory others need, and keeps the memory of those of the highest rank from reclaim: as memcg struct_ops,
 * on kernels that carry them.
 *
 * The kernel asks at every charge of a task in a cgroup that it is attached to for how long that task is to sleep on its
 * way back to user space.  User space attaches it to the calls of each session, and detaches it before their cgroups go.
 */
#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "brake.h"
#include "compat.h"
#include "events.h"
#include "memory.h"

char LICENSE[] SEC("license") = "GPL";

#define NS_PER_MS 1000000

SEC("struct_ops/get_high_delay_ms")
unsigned int BPF_PROG(get_high_delay_ms, struct mem_cgroup *memcg)
{
	struct task_struct *current = bpf_get_current_task_btf();
	__u64 id = cgroup_of(current), now = bpf_ktime_get_ns(), ns;
	struct call *call = bpf_map_lookup_elem(&calls, &id);
	enum hold_reason reason = HOLD_BRAKE;

	if (!call)
		return 0;
	ns = brake_for(call, usage_of(memory_of(current->cgroups->dfl_cgrp)), CHARGE_PAGES, now, &reason);
	if (!ns)
		return 0;
	count_hold(reason, now);
	count(figures.held, ns);
	__sync_fetch_and_add(&figures.held_ns, ns);
	return ns / NS_PER_MS ?: 1;
}

/* Reclaim passes by what belongs to a call of the highest rank, as long as there is anything else. */
SEC("struct_ops/below_low")
bool BPF_PROG(below_low, struct mem_cgroup *memcg)
{
	__u64 id = BPF_CORE_READ(memcg, css.cgroup, kn, id);
	struct call *call = bpf_map_lookup_elem(&calls, &id);

	return call && !call->rank;
}

/* Never beyond that: then the kernel would rather kill. */
SEC("struct_ops/below_min")
bool BPF_PROG(below_min, struct mem_cgroup *memcg)
{
	return false;
}

/* User space loads the one whose members the kernel has. */
SEC(".struct_ops.link")
struct memcg_bpf_ops brake_and_protect = {
	.below_low = (void *)below_low,
	.below_min = (void *)below_min,
	.get_high_delay_ms = (void *)get_high_delay_ms,
};

SEC(".struct_ops.link")
struct memcg_bpf_ops brake_only = {
	.get_high_delay_ms = (void *)get_high_delay_ms,
};

SEC("fentry/psi_memstall_enter")
int BPF_PROG(on_stall_begin)
{
	stalled(true);
	return 0;
}

SEC("fentry/psi_memstall_leave")
int BPF_PROG(on_stall_end)
{
	stalled(false);
	return 0;
}
