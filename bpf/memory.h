/* SPDX-License-Identifier: GPL-2.0-only */
/* Where a task's memory is charged, and how much is charged there: for programs that look on at charges. */
#ifndef AGENTCGROUP_MEMORY_H
#define AGENTCGROUP_MEMORY_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#define PAGE_BYTES 4096
#define LEVELS 8 /* of cgroups that are looked at, from a task's own upwards */

static __always_inline __u64 cgroup_of(struct task_struct *task)
{
	return task->cgroups->dfl_cgrp->kn->id;
}

/* The memory controller's state of a cgroup; NULL where the controller is not enabled (or on another hierarchy). */
static __always_inline struct mem_cgroup *memory_of(struct cgroup *cgroup)
{
	struct cgroup_subsys_state *css = NULL;
	int index = bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);

	bpf_probe_read_kernel(&css, sizeof(css), (void *)__builtin_preserve_access_index(&cgroup->subsys) + index * sizeof(css));
	/* css is its first member, and has been since 3.12 */
	return (struct mem_cgroup *)css;
}

static __always_inline __u64 usage_of(struct mem_cgroup *memcg)
{
	return memcg ? (__u64)BPF_CORE_READ(memcg, memory.usage.counter) * PAGE_BYTES : 0;
}

#endif
