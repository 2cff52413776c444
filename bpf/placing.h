/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The hold of new programs: one started in the agent domain waits at its first instruction until user space has
 * placed it (its cgroup is another), or said that it is the agent's own (released), at most for the cap.
 * It holds no lock there, and gives way to others; when user space dies the cap ends it.
 */
#ifndef AGENTCGROUP_PLACING_H
#define AGENTCGROUP_PLACING_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include "compat.h"
#include "events.h"
#include "records.h"

struct hold {
	__u64 from_ns;
	__u32 pid;
	bool late;
};

static long wait_for_place(__u32 index, struct hold *hold)
{
	struct tracked *entry;
	struct place *place;
	bool over;
	char byte;

	bpf_rcu_read_lock();
	place = place_of(bpf_get_current_task_btf());
	entry = bpf_map_lookup_elem(&tracked, &hold->pid);
	over = !place || place->role != PLACE_AGENT || !entry || entry->released;
	bpf_rcu_read_unlock();
	if (over)
		return 1;
	if (bpf_ktime_get_ns() - hold->from_ns > settings.hold_cap_ns) {
		hold->late = true;
		return 1;
	}
	/* It may sleep, so it lets others run. */
	bpf_copy_from_user(&byte, 0, NULL);
	return 0;
}

static __always_inline int hold_until_placed(long result)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct hold hold = {.from_ns = bpf_ktime_get_ns(), .pid = bpf_get_current_pid_tgid() >> 32};
	struct place *place;
	struct event *event;
	__u64 cgroup = 0;
	bool agent;

	if (result || !settings.hold_cap_ns)
		return 0;
	bpf_rcu_read_lock();
	place = place_of(task);
	agent = place && place->role == PLACE_AGENT;
	if (agent)
		cgroup = cgroup_of(task);
	bpf_rcu_read_unlock();
	if (!agent)
		return 0;
	bpf_loop(1 << 23, wait_for_place, &hold, 0);
	__sync_fetch_and_add(&counts.holds, 1);
	__sync_fetch_and_add(&counts.held_ns, bpf_ktime_get_ns() - hold.from_ns);
	if (!hold.late)
		return 0;
	event = begin(EVENT_HELD_OUT, cgroup, hold.pid);
	if (event) {
		event->amount = bpf_ktime_get_ns() - hold.from_ns;
		submit(event);
	}
	return 0;
}

#endif
