// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tells user space what happens in the cgroups of AgentCgroup's sessions: where tool calls begin and
 * end, and where they want memory or processors.  Says nothing of anything else on the machine.
 *
 * A cgroup belongs to a session if user space gave it a `struct place`; for every other task a hook ends
 * at the first look.  Places are a hash and not cgroup local storage, whose look-ups fail when they
 * interrupt one another on a processor: a birth would go unnoticed.
 *
 * What happens inside a tool call is counted here, and told only when it crosses a threshold, at most
 * WINDOW_RECORDS times per WINDOW and leaf; what is left out is counted in the next record
 * ("folded").  Births and ends in the agent domain are always told: each may be a tool call.
 */
#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "births.h"
#include "compat.h"
#include "events.h"
#include "hint.h"
#include "memory.h"
#include "placing.h"
#include "records.h"

char LICENSE[] SEC("license") = "GPL";

/* Births, programs, ends */

/* `again`: only if the first program was left out (see keep_processor). */
static __always_inline void forked(struct task_struct *parent, struct task_struct *child, bool again)
{
	struct place *place = place_of(child);
	__u32 pid = child->tgid;

	if (!place || child->pid != child->tgid)
		return;
	if (!again)
		__sync_fetch_and_add(&place->forks, 1);
	remember_home(child, cgroup_of(child));
	if (place->role != PLACE_AGENT || (again && bpf_map_lookup_elem(&tracked, &pid)))
		return;
	make_birth_good(parent);
	tell_birth(cgroup_of(child), parent->tgid, pid, child->start_time, child->self_exec_id);
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	keep_processor();
	forked(parent, child, false);
	give_processor();
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(again_fork, struct task_struct *parent, struct task_struct *child)
{
	keep_processor();
	forked(parent, child, true);
	give_processor();
	return 0;
}

static __always_inline bool is_told(__u32 pid, __u64 exec_id)
{
	struct tracked *entry = bpf_map_lookup_elem(&tracked, &pid);

	return entry && entry->exec_id == exec_id;
}

static __always_inline struct event *begin_started(struct task_struct *task, __u32 pid)
{
	struct started *started = (void *)begin_sized(EVENT_EXEC, cgroup_of(task), pid, sizeof(*started));
	unsigned long from = BPF_CORE_READ(task, mm, arg_start);
	__u64 bytes = BPF_CORE_READ(task, mm, arg_end) - from;

	if (!started)
		return NULL;
	started->padding = 0;
	if (bytes > ARGS_BYTES || bpf_probe_read_user(started->args, bytes, (void *)from))
		bytes = 0;
	started->args_bytes = bytes;
	return &started->event;
}

static __always_inline void execed(struct task_struct *task, bool again)
{
	struct place *place = place_of(task);
	__u32 pid = task->tgid;
	struct tracked fresh = {.exec_id = task->self_exec_id};
	struct search search = {};
	const char *hint = search.word + HINT_NAME_BYTES;
	struct event *event;
	bool asked_for;
	__u64 sum;

	if (!place || (again && (place->role != PLACE_AGENT || is_told(pid, fresh.exec_id))))
		return;
	remember_home(task->group_leader, cgroup_of(task));
	find_hint(task, &search);
	if (place->role == PLACE_AGENT) {
		make_birth_good(task);
		bpf_map_update_elem(&tracked, &pid, &fresh, 0);
	} else {
		/* Inside a call only a new hint is news, and what its root becomes; or all that starts in it. */
		sum = hash(hint, WORD_BYTES - HINT_NAME_BYTES);
		asked_for = place->tell_programs || bpf_map_lookup_elem(&tracked, &pid);
		if ((!search.found || sum == place->hint_hash) && !search.unread && !asked_for)
			return;
		if (search.found)
			place->hint_hash = sum;
		/* That somebody may have to look is not urgent: a call with a large environment says it of each of its programs. */
		if (!may_tell(place, search.found || asked_for ? EVENT_EXEC : EVENT_GROWTH))
			return;
	}
	event = place->role == PLACE_AGENT ? begin_started(task, pid) : begin(EVENT_EXEC, cgroup_of(task), pid);
	if (event) {
		event->flags = search.unread ? EVENT_UNREAD : 0;
		bpf_probe_read_kernel_str(event->hint, sizeof(event->hint), hint);
		submit(event);
	}
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task)
{
	keep_processor();
	execed(task, false);
	give_processor();
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(again_exec, struct task_struct *task)
{
	keep_processor();
	execed(task, true);
	give_processor();
	return 0;
}

/* It has started a program that was not told: the kernel left both programs out. */
static __always_inline bool hides_a_program(struct place *place, struct task_struct *task, __u32 pid)
{
	struct tracked *entry = bpf_map_lookup_elem(&tracked, &pid);

	return place->role == PLACE_AGENT && entry && entry->exec_id && entry->exec_id != task->self_exec_id;
}

static __always_inline void exited(struct task_struct *task)
{
	__u64 home = home_of(task->group_leader);
	struct place *place = bpf_map_lookup_elem(&places, &home);
	struct signal_struct *signal = task->signal;
	__u32 pid = task->tgid;
	struct event *event;
	bool hidden;

	/* The last thread to leave ends the process. */
	if (!place || signal->live.counter)
		return;
	make_children_good(task);
	hidden = hides_a_program(place, task, pid);
	/* Two last threads at once both come here, and the second program; one finds the entry. */
	if (bpf_map_delete_elem(&tracked, &pid))
		return;
	if (hidden) {
		event = begin(EVENT_EXEC, home, pid);
		if (event)
			submit(event);
	}
	event = begin(EVENT_EXIT, home, pid);
	if (event) {
		event->amount = signal->flags & SIGNAL_GROUP_EXIT ? signal->group_exit_code : task->group_leader->exit_code;
		event->ran_ns = signal->sum_sched_runtime + task->se.sum_exec_runtime;
		submit(event);
	}
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
	keep_processor();
	exited(task);
	give_processor();
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(again_exit, struct task_struct *task)
{
	keep_processor();
	exited(task);
	give_processor();
	return 0;
}

/* A process was moved to another cgroup: by us, or out of its place by another's hand.  How many of those are told is bounded:
 * who hears of one finds the others that are where it is. */
SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(on_attach, struct cgroup *to, const char *path, struct task_struct *task)
{
	__u64 id = to->kn->id, home;
	struct thread *thread;
	struct place *place;

	if (task->pid != task->tgid)
		return 0;
	if (bpf_map_lookup_elem(&places, &id)) {
		remember_home(task, id);
		return 0;
	}
	thread = bpf_task_storage_get(&threads, task, NULL, 0);
	if (!thread)
		return 0;
	home = thread->home;
	place = bpf_map_lookup_elem(&places, &home);
	if (place)
		tell(place, EVENT_LEFT, home, task->tgid, id);
	return 0;
}

static __always_inline void populated_changed(struct cgroup *cgroup, int populated)
{
	__u64 id = cgroup->kn->id;
	struct place *place;
	struct event *event;

	if (populated)
		return;
	place = bpf_map_lookup_elem(&places, &id);
	if (!place || place->role != PLACE_CALL)
		return;
	/* Not folded: without it a call would seem to go on. */
	event = begin(EVENT_EMPTY, id, 0);
	if (event)
		submit(event);
}

SEC("tp_btf/cgroup_notify_populated")
int BPF_PROG(on_populated, struct cgroup *cgroup, const char *path, int populated)
{
	keep_processor();
	populated_changed(cgroup, populated);
	give_processor();
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(on_rmdir, struct cgroup *cgroup)
{
	__u64 id = cgroup->kn->id;

	bpf_map_delete_elem(&places, &id);
	bpf_map_delete_elem(&grants, &id);
	return 0;
}

SEC("fexit.s/" SYSCALL(execve))
int BPF_PROG(hold_execve, const struct pt_regs *registers, long result)
{
	return hold_until_placed(result);
}

SEC("fexit.s/" SYSCALL(execveat))
int BPF_PROG(hold_execveat, const struct pt_regs *registers, long result)
{
	return hold_until_placed(result);
}

/* Memory */

/* A call that has nearly used up what it was granted says so, once for each grant. */
static __always_inline void ask(struct place *place, struct task_struct *task, __u64 usage)
{
	__u64 id = cgroup_of(task);
	struct grant *grant = bpf_map_lookup_elem(&grants, &id);

	if (!grant || usage < grant->ask_at_bytes || __sync_lock_test_and_set(&grant->asked, 1))
		return;
	/* Noted before it is told: who hears it may take the processor, and answer, before we go on. */
	if (!tell(place, EVENT_WANTS, id, task->tgid, usage))
		grant->asked = 0;
}

/* Called for every 64 pages or so that a task takes, not for every page. */
SEC("fentry/page_counter_try_charge")
int BPF_PROG(on_charge, struct page_counter *counter, unsigned long pages)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct place *place = place_of(task);
	struct mem_cgroup *memcg;
	__u64 usage, now;

	if (!place || place->role != PLACE_CALL)
		return 0;
	memcg = memory_of(task->cgroups->dfl_cgrp);
	/* Other counters (kernel stacks, huge pages, swap) come here too. */
	if (!memcg || __builtin_preserve_access_index(&memcg->memory) != counter)
		return 0;
	usage = usage_of(memcg) + pages * PAGE_BYTES;
	ask(place, task, usage);
	now = bpf_ktime_get_ns();
	if (now - place->step_from_ns > settings.step_time_ns || usage < place->step_from_bytes) {
		place->step_from_ns = now;
		place->step_from_bytes = usage;
		return 0;
	}
	if (usage - place->step_from_bytes < place->step_bytes)
		return 0;
	place->step_from_ns = now;
	place->step_from_bytes = usage;
	tell(place, EVENT_GROWTH, cgroup_of(task), task->tgid, usage);
	return 0;
}

/* A memory.events counter of some cgroup rose, perhaps of one of ours. */
static __always_inline void memory_event(__u32 kind, struct mem_cgroup *memcg)
{
	__u64 id = BPF_CORE_READ(memcg, css.cgroup, kn, id);
	struct place *place = bpf_map_lookup_elem(&places, &id);

	if (place && place->role == PLACE_CALL)
		tell(place, kind, id, bpf_get_current_pid_tgid() >> 32, usage_of(memcg));
}

SEC("fentry/__memcg_memory_event")
int BPF_PROG(on_memory_event, struct mem_cgroup *memcg, int event)
{
	if (event == MEMCG_HIGH)
		memory_event(EVENT_OVER, memcg);
	else if (event == MEMCG_MAX)
		memory_event(EVENT_FULL, memcg);
	else if (event == MEMCG_OOM)
		memory_event(EVENT_OOM, memcg);
	return 0;
}

static __always_inline int current_event(__u32 kind)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct place *place = place_of(task);

	if (place && place->role == PLACE_CALL)
		tell(place, kind, cgroup_of(task), task->tgid, usage_of(memory_of(task->cgroups->dfl_cgrp)));
	return 0;
}

/* Programs named instead_* are left out where __memcg_memory_event can be attached to. */

static __always_inline int over_high(void)
{
	/* Before 6.15 it is called at every return to user space, and looks itself whether there is anything to do. */
	return bpf_get_current_task_btf()->memcg_nr_pages_over_high ? current_event(EVENT_OVER) : 0;
}

SEC("fentry/__mem_cgroup_handle_over_high")
int BPF_PROG(instead_on_over_high)
{
	return over_high();
}

SEC("fentry/mem_cgroup_handle_over_high")
int BPF_PROG(instead_on_over_high_before_6_15)
{
	return over_high();
}

SEC("tp_btf/mm_vmscan_memcg_reclaim_begin")
int BPF_PROG(instead_on_reclaim)
{
	return current_event(EVENT_FULL);
}

SEC("fentry/out_of_memory")
int BPF_PROG(instead_on_out_of_memory, struct oom_control *control)
{
	struct mem_cgroup *memcg = control->memcg;

	if (memcg)
		memory_event(EVENT_OOM, memcg);
	return 0;
}

static __always_inline void chosen(struct task_struct *task)
{
	struct place *place = place_of(task);

	if (place && place->role == PLACE_CALL)
		tell(place, EVENT_VICTIM, cgroup_of(task), task->tgid, usage_of(memory_of(task->cgroups->dfl_cgrp)));
}

SEC("tp_btf/mark_victim")
int BPF_PROG(on_victim, struct task_struct *task)
{
	keep_processor();
	chosen(task);
	give_processor();
	return 0;
}

SEC("fentry/psi_memstall_enter")
int BPF_PROG(on_stall_begin)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct place *place = place_of(task);
	struct thread *thread;

	if (!place || place->role != PLACE_CALL)
		return 0;
	thread = bpf_task_storage_get(&threads, task, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (thread && !thread->stalled_from_ns)
		thread->stalled_from_ns = bpf_ktime_get_ns();
	return 0;
}

SEC("fentry/psi_memstall_leave")
int BPF_PROG(on_stall_end)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct place *place = place_of(task);
	struct thread *thread;
	__u64 stalled;

	if (!place || place->role != PLACE_CALL)
		return 0;
	thread = bpf_task_storage_get(&threads, task, NULL, 0);
	if (!thread || !thread->stalled_from_ns)
		return 0;
	stalled = bpf_ktime_get_ns() - thread->stalled_from_ns;
	thread->stalled_from_ns = 0;
	stalled += __sync_fetch_and_add(&place->stalled_ns, stalled);
	if (stalled - place->told_stalled_ns >= place->stall_ns) {
		__u64 amount = stalled - place->told_stalled_ns;

		place->told_stalled_ns = stalled;
		tell(place, EVENT_STALL, cgroup_of(task), task->tgid, amount);
	}
	return 0;
}

/* Processors */

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct *before)
{
	struct place *place = place_of(before);
	__u64 waited, new;
	struct thread *thread;

	if (!place || place->role != PLACE_CALL)
		return 0;
	thread = bpf_task_storage_get(&threads, before, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!thread)
		return 0;
	waited = bpf_core_field_exists(before->sched_info.run_delay) ? before->sched_info.run_delay : 0;
	new = waited - thread->waited_ns;
	thread->waited_ns = waited;
	waited = new + __sync_fetch_and_add(&place->waited_ns, new);
	if (waited - place->told_waited_ns >= place->wait_ns) {
		new = waited - place->told_waited_ns;
		place->told_waited_ns = waited;
		tell(place, EVENT_STARVED, cgroup_of(before), before->tgid, new);
	}
	return 0;
}
