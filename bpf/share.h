/* SPDX-License-Identifier: GPL-2.0-only */
/* What each cgroup may use of the processors: its virtual time, the credit of new calls, and cpu.max. */
#ifndef AGENTCGROUP_SHARE_H
#define AGENTCGROUP_SHARE_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include "tasks.h"

#define DEPTH 8
#define ONE (1ULL << 20) /* a share of all */
#define CREDIT_REFILL 5   /* siblings earn a fifth of the time in credit for new calls */
#define CREDIT_POOL 4     /* up to so many calls' credit */
#define LAG_MOST 20       /* slices that a cgroup may get later: more than the credit */
#define NO_QUOTA (~0ULL)

static __always_inline __u64 share_of(struct group *group)
{
	struct group *child = group, *parent;
	__u64 share = ONE;

	for (int i = 0; i < DEPTH; i++) {
		parent = group_by(child->parent);
		if (!parent)
			break;
		if (parent->active_weight > (__s64)child->weight)
			share = share * child->weight / (__u64)parent->active_weight;
		child = parent;
	}
	return share ?: 1;
}

static __always_inline void join(__u64 id)
{
	for (int i = 0; i < DEPTH; i++) {
		struct group *group = group_by(id), *parent;

		if (!group || __sync_fetch_and_add(&group->active, 1))
			return;
		parent = group_by(group->parent);
		if (parent)
			__sync_fetch_and_add(&parent->active_weight, group->weight);
		id = group->parent;
	}
}

static __always_inline void leave(__u64 id)
{
	for (int i = 0; i < DEPTH; i++) {
		struct group *group = group_by(id), *parent;

		if (!group || __sync_fetch_and_add(&group->active, -1) != 1)
			return;
		parent = group_by(group->parent);
		if (parent)
			__sync_fetch_and_add(&parent->active_weight, -(__s64)group->weight);
		id = group->parent;
	}
}

/* What a new call gets ahead: out of what it and its siblings have left. */
static __always_inline __u64 credit_of(struct group *group, __u64 now)
{
	struct group *parent = group_by(group->parent);
	__u64 pool, credit;

	if (!parent)
		return 0;
	pool = parent->credit_at_ns ? parent->credit_ns + (now - parent->credit_at_ns) / CREDIT_REFILL
				    : CREDIT_POOL * rates.credit_ns;
	if (pool > CREDIT_POOL * rates.credit_ns)
		pool = CREDIT_POOL * rates.credit_ns;
	credit = pool < rates.credit_ns ? pool : rates.credit_ns;
	parent->credit_ns = pool - credit;
	parent->credit_at_ns = now;
	return credit;
}

static __always_inline void use(struct group *group, __u64 ran, __u64 now)
{
	__u64 used;

	for (int i = 0; i < DEPTH && group; i++) {
		if (group->quota_ns != NO_QUOTA && group->period_ns) {
			__u64 periods = (now - group->period_from_ns) / group->period_ns;

			if (periods) {
				__s64 left = group->period_used_ns - (__s64)(periods * group->quota_ns);

				group->period_used_ns = left > 0 ? left : 0;
				group->period_from_ns += periods * group->period_ns;
			}
			used = __sync_fetch_and_add(&group->period_used_ns, ran) + ran;
			/* What was used beyond it is paid back in the next periods. */
			if (group->quota_ns && used >= group->quota_ns)
				group->used_up_until_ns = group->period_from_ns + used / group->quota_ns * group->period_ns;
		}
		group = group_by(group->parent);
	}
}

/* What a task has run since this was asked last is charged to its cgroups. */
static __always_inline struct group *charge_time(struct task *task, __u64 now)
{
	struct group *group = group_by(task->group);
	__u64 ran = now - task->running_from_ns;

	task->running_from_ns = now;
	__sync_fetch_and_add(&figures.ran_ns, ran);
	if (group) {
		task->share = share_of(group);
		__sync_fetch_and_add(&group->virtual, ran * ONE / (task->share ?: ONE));
		use(group, ran, now);
	}
	return group;
}

/* Where a task belongs in the queue: one after the other, so that a call with many tasks is not served in one go. */
static __always_inline __u64 place_of(struct task *task, struct group *group, __s64 before_it)
{
	return group->virtual + (before_it > 0 ? before_it : 0) * rates.slice_ns * ONE / (task->share ?: ONE);
}

/*
 * The virtual time of all is that of the latest turn.  Who can't use what it is due, as a call of one task and a large weight, does
 * not save it up: with more tasks later, it would have the processors to itself for as long.
 */
static __always_inline void turn_of(struct task *task, struct group *group)
{
	__u64 most = LAG_MOST * rates.slice_ns * ONE / (task->share ?: ONE);
	__u64 latest = *(volatile __u64 *)&now_virtual, virtual = *(volatile __u64 *)&group->virtual;

	if (latest < virtual)
		now_virtual = virtual;
	else if (latest - virtual > most)
		__sync_fetch_and_add(&group->virtual, latest - virtual - most);
}

static __always_inline void set_quota(struct group *group, __u64 period_us, __u64 quota_us)
{
	group->period_ns = period_us * 1000;
	group->quota_ns = quota_us == NO_QUOTA ? NO_QUOTA : quota_us * 1000;
	group->period_used_ns = 0;
	group->used_up_until_ns = 0;
}

#endif
