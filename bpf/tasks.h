/* SPDX-License-Identifier: GPL-2.0-only */
/* What the scheduler knows of cgroups and tasks, and where each is kept. */
#ifndef AGENTCGROUP_TASKS_H
#define AGENTCGROUP_TASKS_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include "events.h"
#include "memory.h"

#define READY 1 /* by virtual time */
#define HELD 2  /* by deadline */

/* Only an object of a type has the compiler describe all of it, and libbpf compares it with the kernel's. */
const struct cpumask declared SEC(".rodata.declared") = {};
const struct farewell *const declared_too SEC(".rodata.declared") = NULL;
const enum hold_reason declared_as_well SEC(".rodata.declared") = HOLD_BRAKE;
static __u64 now_virtual SEC(".data.own");
static __s64 held_tasks SEC(".data.own"); /* on their way into HELD, or in it */
static __u32 ticking SEC(".data.own");

/* A cgroup with the cpu controller. */
struct group {
	__u64 parent;
	__u64 weight;
	__s64 active_weight; /* of the children that want to run */
	__s64 active;        /* tasks here, and children, that want to run */
	__s64 queued;
	__u64 virtual;
	__u64 credit_ns; /* for new calls among its children */
	__u64 credit_at_ns;
	__u64 began; /* has had its own */
	__u64 period_ns;
	__u64 quota_ns;
	__u64 period_from_ns;
	__s64 period_used_ns;
	__u64 used_up_until_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, __u64);
	__type(value, struct group);
} groups SEC(".maps");

struct task {
	__u64 group; /* the cgroup it counts in while it wants to run; 0: none */
	__u64 share;
	__u64 hold_until_ns; /* asked for; it comes into force at its return to user space */
	enum hold_reason held_for;
	__u64 asked_at_ns;
	__u64 held_until_ns;
	__u64 held_from_ns;
	__u64 queued_at_ns;
	__u64 all_ran_ns; /* what all had run when it was queued */
	__u64 running_from_ns;
	bool queued;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task);
} tasks SEC(".maps");

struct work {
	struct bpf_task_work work;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, __u32);
	__type(value, struct work);
} works SEC(".maps");

struct tick {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tick);
} ticks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} farewells SEC(".maps");

static __always_inline struct task *task_of(struct task_struct *task)
{
	return bpf_task_storage_get(&tasks, task, NULL, 0);
}

static __always_inline struct group *group_by(__u64 id)
{
	return id ? bpf_map_lookup_elem(&groups, &id) : NULL;
}

/* What a task counts in: where its own cgroup has no cpu controller, the nearest above it that has. */
static __always_inline struct group *group_of(struct task_struct *task, __u64 *id)
{
	struct cgroup *cgroup = task->cgroups->dfl_cgrp;
	struct group *group = NULL;

	for (int i = 0; i < LEVELS && cgroup && !group; i++) {
		*id = BPF_CORE_READ(cgroup, kn, id);
		group = group_by(*id);
		cgroup = BPF_CORE_READ(cgroup, self.parent, cgroup);
	}
	if (!group)
		*id = 0;
	return group;
}

#endif
