/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The hold: a task is marked while it charges memory, and waits in a queue by deadline from when it returns to user space.  A timer
 * empties the queue.
 */
#ifndef AGENTCGROUP_HOLD_H
#define AGENTCGROUP_HOLD_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include "brake.h"
#include "compat.h"
#include "tasks.h"

#define TICK_NS 1000000
#define LONGEST_HOLD_NS 1000000000ULL
#define LOOKED_AT 32 /* of those that are held, at each tick */

static __always_inline void arm(void)
{
	struct tick *tick;
	__u32 key = 0;

	if (__sync_lock_test_and_set(&ticking, 1))
		return;
	tick = bpf_map_lookup_elem(&ticks, &key);
	if (!tick || bpf_timer_start(&tick->timer, TICK_NS, 0))
		ticking = 0; /* the next one tries again */
}

/* In the task, on its way back to user space. */
static int hold_now(struct bpf_map *map, void *key, void *value)
{
	struct task_struct *current = bpf_get_current_task_btf();
	struct task *task = task_of(current);
	__u64 now = bpf_ktime_get_ns();

	if (!task || task->hold_until_ns <= now)
		return 0;
	count(figures.delays, now - task->asked_at_ns);
	/* Taken off the processor before it has started the timer, it would wait for itself. */
	bpf_preempt_disable();
	task->held_from_ns = now;
	/* Counted before the timer is looked at: a processor may be away (its host runs another) for long at any point of the way. */
	if (!__sync_lock_test_and_set(&task->held_until_ns, task->hold_until_ns))
		__sync_fetch_and_add(&held_tasks, 1);
	arm();
	scx_bpf_kick_cpu(bpf_get_smp_processor_id(), SCX_KICK_PREEMPT);
	bpf_preempt_enable();
	return 0;
}

static __always_inline void hold(struct task_struct *of, struct task *task, __u64 until_ns, __u64 now, enum hold_reason reason)
{
	__u32 id = of->pid;
	struct work *work;

	if (task->hold_until_ns > now)
		return;
	work = bpf_map_lookup_elem(&works, &id);
	if (!work)
		return;
	if (until_ns > now + LONGEST_HOLD_NS)
		until_ns = now + LONGEST_HOLD_NS;
	task->hold_until_ns = until_ns;
	task->held_for = reason;
	task->asked_at_ns = now;
	if (bpf_task_work_schedule_resume(of, &work->work, &works, hold_now)) {
		/* It is still inside its last hold, or there is no memory: asked again at the next charge, or turn. */
		task->hold_until_ns = 0;
		return;
	}
	count_hold(reason, now);
}

static __always_inline void let_go(struct task *task, __u64 now)
{
	if (!__sync_lock_test_and_set(&task->held_until_ns, 0))
		return;
	task->hold_until_ns = 0;
	__sync_fetch_and_add(&held_tasks, -1);
	count(figures.held, now - task->held_from_ns);
	__sync_fetch_and_add(&figures.held_ns, now - task->held_from_ns);
}

/* Whether what a task is held for is still so: user space may have answered meanwhile. */
static __always_inline bool still_slowed(struct task_struct *of, struct task *task, __u64 now)
{
	enum hold_reason reason;
	struct member member = {};
	struct call *call;

	if (task->held_for == HOLD_QUOTA)
		return true;
	call = call_of(of, &member);
	return call && is_slowed(call, member.usage, now, &reason);
}

static int on_tick(void *map, int *key, struct bpf_timer *timer)
{
	struct bpf_iter_scx_dsq iterator;
	__u64 now = bpf_ktime_get_ns();
	struct task_struct *of;
	int looked_at = 0;
	__s32 cpu;

	__sync_lock_test_and_set(&ticking, 0); /* in order: who counts itself after the look below finds that nobody ticks */
	bpf_iter_scx_dsq_new(&iterator, HELD, 0);
	while ((of = bpf_iter_scx_dsq_next(&iterator))) {
		struct task *task = task_of(of);

		if (task && task->held_until_ns > now) {
			if (++looked_at > LOOKED_AT)
				break;
			if (still_slowed(of, task, now))
				continue;
		}
		if (task)
			let_go(task, now);
		scx_bpf_dsq_move_set_vtime(&iterator, now_virtual);
		if (!scx_bpf_dsq_move_vtime(&iterator, of, READY, 0))
			continue;
		cpu = scx_bpf_pick_idle_cpu(of->cpus_ptr, 0);
		if (cpu >= 0)
			scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
	}
	bpf_iter_scx_dsq_destroy(&iterator);
	if (held_tasks > 0 || scx_bpf_dsq_nr_queued(HELD) > 0)
		arm();
	return 0;
}

#endif
