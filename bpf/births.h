/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Births in the agent domain, told when they happen or made good later.
 *
 * What the kernel left out both programs for (see keep_processor) would be nobody's when its parent has ended: a double fork
 * leaves no trace.  So a process that has no entry in `tracked` is told as born before anything else that it does, and at
 * the latest when its parent ends.
 */
#ifndef AGENTCGROUP_BIRTHS_H
#define AGENTCGROUP_BIRTHS_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include "events.h"
#include "records.h"

#define CHILDREN 256 /* of one process that ends, looked at */

/* `exec_id` is that at its birth; 0: not known any more.  The record says when it was born, however late that is told. */
static __always_inline void tell_birth(__u64 cgroup, __u32 parent, __u32 pid, __u64 born_ns, __u64 exec_id)
{
	struct tracked new = {.exec_id = exec_id};
	struct event *event;

	bpf_map_update_elem(&tracked, &pid, &new, 0);
	event = begin(EVENT_FORK, cgroup, parent);
	if (event) {
		event->at_ns = born_ns;
		event->amount = pid;
		submit(event);
	}
}

/* A process of the agent domain does something: was its birth told?  That of one from outside (docker exec) was none. */
static __always_inline void make_birth_good(struct task_struct *task)
{
	struct task_struct *parent = task->real_parent;
	__u32 pid = task->tgid;

	if (!bpf_map_lookup_elem(&tracked, &pid) && place_of(parent))
		tell_birth(cgroup_of(task), parent->tgid, pid, task->group_leader->start_time, 0);
}

struct children {
	struct list_head *head;
	struct list_head *at;
	__u32 parent;
};

static long look_at_child(__u32 index, struct children *of)
{
	struct list_head *at = of->at;
	struct task_struct *child;
	struct place *place;
	__u64 cgroup;
	__u32 pid;

	of->at = at = BPF_CORE_READ(at, next);
	if (!at || at == of->head)
		return 1;
	child = (void *)at - bpf_core_field_offset(struct task_struct, sibling);
	cgroup = BPF_CORE_READ(child, cgroups, dfl_cgrp, kn, id);
	place = bpf_map_lookup_elem(&places, &cgroup);
	pid = BPF_CORE_READ(child, tgid);
	if (!place || place->role != PLACE_AGENT || bpf_map_lookup_elem(&tracked, &pid))
		return 0;
	/* One that has ended has no entry any more. */
	if (BPF_CORE_READ(child, signal, live.counter) > 0)
		tell_birth(cgroup, of->parent, pid, BPF_CORE_READ(child, start_time), 0);
	return 0;
}

/* A process of a session ends: nobody can say afterwards whose its children were. */
static __always_inline void make_children_good(struct task_struct *task)
{
	struct list_head *head = &task->children;
	struct children of = {.head = head, .at = head, .parent = task->tgid};

	bpf_loop(CHILDREN, look_at_child, &of, 0);
}

#endif
