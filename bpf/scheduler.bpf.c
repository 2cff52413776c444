// SPDX-License-Identifier: GPL-2.0-only
/*
 * Shares processors among tool calls, and slows those whose memory others need (sched_ext).
 *
 * Only tasks whose policy is SCHED_EXT come here; user space gives it to tool calls and to nothing else.
 * All other programs, agents included, stay with the kernel's own scheduler, which goes first.  Where they leave
 * tool calls too little, this scheduler steps aside (see `stepped_aside`).
 *
 * Order.  Each cgroup has a virtual time that advances with the time its tasks ran, divided by its share: the
 * product, up the tree, of its cpu.weight over those of its siblings that want to run.  Tasks wait in one
 * queue by the virtual time of their cgroup (start-time fair queueing; Goyal, Guo, Vin 1996).  A new cgroup, that is a
 * new tool call, gets a little time ahead, so that short calls don't wait behind long ones; its
 * siblings share what there is of that.
 *
 * Hold.  A task that is to be slowed is marked while it charges memory; when it returns to user space, and so
 * holds no lock of the kernel, it is taken off its processor and put into a queue by deadline, which a timer
 * empties.  (It is inside a task-work callback then: a reader of RCU tasks trace, so what waits for a hold to end is
 * the freeing of sleepable BPF programs, and nothing else.)  Every hold ends by itself, and the longest is far below the watchdog's patience.  cpu.max works the
 * same way.
 */
#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "brake.h"
#include "compat.h"
#include "events.h"
#include "hold.h"
#include "memory.h"
#include "share.h"
#include "tasks.h"

#define LAG_SLICES 2
#define STARVED_NS 1000000000ULL
#define STARVED_SHARE 4 /* of the processors' time: with less than a quarter, tool calls are better off elsewhere */
#define UNTIL_ASIDE 1

char LICENSE[] SEC("license") = "GPL";

SEC("struct_ops/runnable")
int BPF_PROG(ext_runnable, struct task_struct *of, __u64 flags)
{
	struct task *task = task_of(of);
	__u64 now = bpf_ktime_get_ns(), ahead, floor;
	struct group *group;
	bool was_idle;

	if (!task)
		return 0;
	group = group_of(of, &task->group);
	if (!group)
		return 0;
	was_idle = group->active <= 0;
	join(task->group);
	task->share = share_of(group);
	if (!was_idle)
		return 0;
	/* Who slept does not get back what it did not use, but for a little. */
	ahead = LAG_SLICES * rates.slice_ns;
	if (!group->began) {
		group->began = 1;
		ahead = credit_of(group, now) * ONE / task->share;
	}
	floor = now_virtual > ahead ? now_virtual - ahead : 0;
	if (group->virtual < floor)
		group->virtual = floor;
	return 0;
}

static __always_inline void unqueue(struct task *task)
{
	struct group *group;

	if (!task->queued)
		return;
	task->queued = false;
	group = group_by(task->group);
	if (group)
		__sync_fetch_and_add(&group->queued, -1);
}

SEC("struct_ops/quiescent")
int BPF_PROG(ext_quiescent, struct task_struct *of, __u64 flags)
{
	struct task *task = task_of(of);

	if (!task)
		return 0;
	unqueue(task);
	leave(task->group);
	task->group = 0;
	return 0;
}

SEC("struct_ops/dequeue")
int BPF_PROG(ext_dequeue, struct task_struct *of, __u64 flags)
{
	struct task *task = task_of(of);

	if (task)
		unqueue(task);
	return 0;
}

/* Queues */

SEC("struct_ops/select_cpu")
int BPF_PROG(ext_select_cpu, struct task_struct *of, __s32 before, __u64 flags)
{
	struct task *task = task_of(of);
	bool idle = false;
	__s32 cpu = scx_bpf_select_cpu_dfl(of, before, flags, &idle);
	__u64 now = bpf_ktime_get_ns();

	if (!idle || !task || task->held_until_ns > now)
		return cpu;
	let_go(task, now);
	scx_bpf_dsq_insert(of, SCX_DSQ_LOCAL, rates.slice_ns, 0);
	return cpu;
}

SEC("struct_ops/enqueue")
int BPF_PROG(ext_enqueue, struct task_struct *of, __u64 flags)
{
	struct task *task = task_of(of);
	__u64 now = bpf_ktime_get_ns(), key = now_virtual;
	struct group *group;
	__s32 cpu;

	if (task && task->held_until_ns > now) {
		scx_bpf_dsq_insert_vtime(of, HELD, rates.slice_ns, task->held_until_ns, flags);
		return 0;
	}
	if (task)
		let_go(task, now);
	/* The processor has nothing else to do, and won't look into the queue again: its hold has ended just now. */
	if (!task || flags & SCX_ENQ_LAST) {
		scx_bpf_dsq_insert(of, SCX_DSQ_LOCAL, rates.slice_ns, flags);
		return 0;
	}
	group = group_by(task->group);
	if (group) {
		key = place_of(task, group, __sync_fetch_and_add(&group->queued, 1));
		task->queued = true;
	}
	task->queued_at_ns = now;
	task->all_ran_ns = figures.ran_ns;
	scx_bpf_dsq_insert_vtime(of, READY, rates.slice_ns, key, flags);
	cpu = scx_bpf_pick_idle_cpu(of->cpus_ptr, 0);
	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
	return 0;
}

/* Running */

/* Other programs leave tool calls so little that the kernel's own scheduler, which weighs both, is the better one. */
static __always_inline void step_aside_if_starved(struct task_struct *of, struct task *task, __u64 waited)
{
	static char words[] = "other programs leave tool calls too little of the processors";
	__u64 ran = figures.ran_ns - task->all_ran_ns;
	unsigned long long nothing[1] = {};

	if (waited > STARVED_NS && ran < waited * scx_bpf_nr_cpu_ids() / STARVED_SHARE)
		scx_bpf_exit_bstr(UNTIL_ASIDE, words, nothing, sizeof(nothing));
}

static __always_inline void hold_if_used_up(struct task_struct *of, struct task *task, struct group *group, __u64 now)
{
	for (int i = 0; i < DEPTH && group; i++) {
		if (group->used_up_until_ns > now) {
			hold(of, task, group->used_up_until_ns, now, HOLD_QUOTA);
			return;
		}
		group = group_by(group->parent);
	}
}

SEC("struct_ops/running")
int BPF_PROG(ext_running, struct task_struct *of)
{
	struct task *task = task_of(of);
	__u64 now = bpf_ktime_get_ns();
	struct group *group;

	if (!task)
		return 0;
	unqueue(task);
	task->running_from_ns = now;
	if (task->queued_at_ns) {
		count(figures.waits, now - task->queued_at_ns);
		step_aside_if_starved(of, task, now - task->queued_at_ns);
		task->queued_at_ns = 0;
	}
	group = group_by(task->group);
	if (group) {
		turn_of(task, group);
		hold_if_used_up(of, task, group, now);
	}
	return 0;
}

SEC("struct_ops/stopping")
int BPF_PROG(ext_stopping, struct task_struct *of, bool runnable)
{
	struct task *task = task_of(of);

	if (task && task->running_from_ns) {
		charge_time(task, bpf_ktime_get_ns());
		task->running_from_ns = 0;
	}
	return 0;
}

SEC("struct_ops/dispatch")
int BPF_PROG(ext_dispatch, __s32 cpu, struct task_struct *before)
{
	__u64 now = bpf_ktime_get_ns();
	struct task *task = before ? task_of(before) : NULL;
	struct task_struct *first;
	struct group *group;

	if (!task || !task->running_from_ns || task->held_until_ns > now) {
		scx_bpf_dsq_move_to_local(READY);
		return 0;
	}
	/* It may be the one whose turn it is: a call that is due more than one processor could not get it otherwise. */
	group = charge_time(task, now);
	first = scx_bpf_dsq_peek(READY);
	if (first && (!group || place_of(task, group, group->queued) >= first->scx.dsq_vtime) && scx_bpf_dsq_move_to_local(READY))
		return 0;
	if (group) {
		turn_of(task, group);
		hold_if_used_up(before, task, group, now);
	}
	scx_bpf_task_set_slice(before, rates.slice_ns);
	return 0;
}

/* Who comes and goes */

SEC("struct_ops/enable")
int BPF_PROG(ext_enable, struct task_struct *of)
{
	struct work work = {};
	__u32 id = of->pid;

	bpf_task_storage_get(&tasks, of, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	bpf_map_update_elem(&works, &id, &work, 0);
	return 0;
}

SEC("struct_ops/disable")
int BPF_PROG(ext_disable, struct task_struct *of)
{
	struct task *task = task_of(of);
	__u32 id = of->pid;

	if (task)
		let_go(task, bpf_ktime_get_ns());
	bpf_task_storage_delete(&tasks, of);
	bpf_map_delete_elem(&works, &id);
	return 0;
}

SEC("struct_ops.s/cgroup_init")
int BPF_PROG(ext_cgroup_init, struct cgroup *cgroup, struct scx_cgroup_init_args *args)
{
	struct group group = {.weight = args->weight};
	__u64 id = cgroup->kn->id;
	int above = cgroup->level - 1;

	if (above >= 0)
		group.parent = BPF_CORE_READ(cgroup, self.parent, cgroup, kn, id);
	set_quota(&group, args->bw_period_us, args->bw_quota_us);
	return bpf_map_update_elem(&groups, &id, &group, 0);
}

SEC("struct_ops.s/cgroup_exit")
int BPF_PROG(ext_cgroup_exit, struct cgroup *cgroup)
{
	__u64 id = cgroup->kn->id;

	bpf_map_delete_elem(&groups, &id);
	bpf_map_delete_elem(&calls, &id);
	return 0;
}

SEC("struct_ops/cgroup_set_weight")
int BPF_PROG(ext_cgroup_set_weight, struct cgroup *cgroup, __u32 weight)
{
	struct group *group = group_by(cgroup->kn->id), *parent;

	if (!group)
		return 0;
	parent = group_by(group->parent);
	if (parent && group->active > 0)
		__sync_fetch_and_add(&parent->active_weight, (__s64)weight - (__s64)group->weight);
	group->weight = weight;
	return 0;
}

SEC("struct_ops/cgroup_set_bandwidth")
int BPF_PROG(ext_cgroup_set_bandwidth, struct cgroup *cgroup, __u64 period_us, __u64 quota_us, __u64 burst_us)
{
	struct group *group = group_by(cgroup->kn->id);

	if (group)
		set_quota(group, period_us, quota_us);
	return 0;
}

SEC("struct_ops.s/init")
int BPF_PROG(ext_init)
{
	struct tick *tick;
	__u32 key = 0;
	int error = scx_bpf_create_dsq(READY, -1) ?: scx_bpf_create_dsq(HELD, -1);

	tick = bpf_map_lookup_elem(&ticks, &key);
	if (error || !tick)
		return error ?: -12;
	return bpf_timer_init(&tick->timer, &ticks, 1 /* CLOCK_MONOTONIC */) ?: bpf_timer_set_callback(&tick->timer, on_tick);
}

SEC("struct_ops/exit")
int BPF_PROG(ext_exit, struct scx_exit_info *info)
{
	struct farewell *farewell = bpf_ringbuf_reserve(&farewells, sizeof(*farewell), 0);

	if (!farewell)
		return 0;
	farewell->kind = info->kind;
	farewell->padding = 0;
	farewell->code = info->exit_code;
	bpf_probe_read_kernel_str(farewell->reason, sizeof(farewell->reason), info->reason);
	bpf_probe_read_kernel_str(farewell->message, sizeof(farewell->message), info->msg);
	bpf_ringbuf_submit(farewell, 0);
	return 0;
}

SEC(".struct_ops.link")
struct sched_ext_ops agentcgroup = {
	.select_cpu = (void *)ext_select_cpu,
	.enqueue = (void *)ext_enqueue,
	.dequeue = (void *)ext_dequeue,
	.dispatch = (void *)ext_dispatch,
	.runnable = (void *)ext_runnable,
	.running = (void *)ext_running,
	.stopping = (void *)ext_stopping,
	.quiescent = (void *)ext_quiescent,
	.enable = (void *)ext_enable,
	.disable = (void *)ext_disable,
	.cgroup_init = (void *)ext_cgroup_init,
	.cgroup_exit = (void *)ext_cgroup_exit,
	.cgroup_set_weight = (void *)ext_cgroup_set_weight,
	.cgroup_set_bandwidth = (void *)ext_cgroup_set_bandwidth,
	.init = (void *)ext_init,
	.exit = (void *)ext_exit,
	/* A task is held while a program runs for it, which disables its migration: it has to come to our queue all the same. */
	.flags = SCX_OPS_SWITCH_PARTIAL | SCX_OPS_ENQ_LAST | SCX_OPS_ENQ_MIGRATION_DISABLED,
	.timeout_ms = 10000,
	.name = "agentcgroup",
};

/* Memory */

/* Called for every 64 pages or so that a task takes; of others than tool calls, only the policy is looked at. */
SEC("fentry/page_counter_try_charge")
int BPF_PROG(on_charge, struct page_counter *counter, unsigned long pages)
{
	struct task_struct *current = bpf_get_current_task_btf();
	struct member member = {};
	struct mem_cgroup *charged;
	struct task *task;
	struct call *call;
	__u64 now, ns;
	enum hold_reason reason = HOLD_BRAKE;

	if (current->policy != SCHED_EXT)
		return 0;
	task = task_of(current);
	call = call_of(current, &member);
	charged = (void *)member.charged;
	if (!call || !task || !charged || __builtin_preserve_access_index(&charged->memory) != counter)
		return 0;
	now = bpf_ktime_get_ns();
	ns = brake_for(call, member.usage + pages * PAGE_BYTES, pages, now, &reason);
	if (ns)
		hold(current, task, now + ns, now, reason);
	return 0;
}

SEC("fentry/psi_memstall_enter")
int BPF_PROG(on_stall_begin)
{
	struct task_struct *current = bpf_get_current_task_btf();
	struct member member = {};
	struct call *call;

	if (current->policy == SCHED_EXT && (call = call_of(current, &member)))
		stall_begins(call, bpf_ktime_get_ns());
	return 0;
}

SEC("fentry/psi_memstall_leave")
int BPF_PROG(on_stall_end)
{
	struct task_struct *current = bpf_get_current_task_btf();
	struct member member = {};
	struct call *call;

	if (current->policy == SCHED_EXT && (call = call_of(current, &member)))
		stall_ends(call, bpf_ktime_get_ns());
	return 0;
}
