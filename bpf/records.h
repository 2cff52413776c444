/* SPDX-License-Identifier: GPL-2.0-only */
/* What the monitor knows of places and threads, and how it says something: a record in the ring buffer, at a bounded rate. */
#ifndef AGENTCGROUP_RECORDS_H
#define AGENTCGROUP_RECORDS_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include "compat.h"
#include "events.h"
#include "memory.h"

#define WINDOW_SHIFT 27 /* 134 ms */
#define WINDOW_RECORDS 16
#define RESERVED 4

/* Each is a section of its own, so that user space finds it as one struct. */
const volatile struct settings settings SEC(".rodata.settings") = {};
struct counts counts; /* all of .bss */

/* Nothing else names its type in the object, where a test looks for it. */
const struct started *const declared SEC(".rodata.declared") = NULL;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64); /* the cgroup's id */
	__type(value, struct place);
} places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct tracked);
} tracked SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64); /* the id of a call's leaf */
	__type(value, struct grant);
} grants SEC(".maps");

/* What was last seen of a thread, to add only what is new to its leaf. */
struct thread {
	__u64 waited_ns;
	__u64 stalled_from_ns;
	__u64 home; /* of a process's first thread: the place it is in, or was in when somebody moved it elsewhere */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct thread);
} threads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2 << 20);
} records SEC(".maps");

static __always_inline struct place *place_of(struct task_struct *task)
{
	__u64 id = cgroup_of(task);

	return bpf_map_lookup_elem(&places, &id);
}

/* The place that a process is in, or was moved away from; 0: none. */
static __always_inline __u64 home_of(struct task_struct *task)
{
	__u64 home = cgroup_of(task);
	struct thread *thread;

	if (bpf_map_lookup_elem(&places, &home))
		return home;
	home = 0;
	thread = bpf_task_storage_get(&threads, task, NULL, 0);
	if (thread) /* not as an expression: the compiler would make one load of two kinds of memory, which the verifier refuses */
		bpf_probe_read_kernel(&home, sizeof(home), &thread->home);
	return home;
}

static __always_inline void remember_home(struct task_struct *task, __u64 home)
{
	struct thread *thread = bpf_task_storage_get(&threads, task, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (thread)
		thread->home = home;
}

/* Since 7.0 a trace point's program can be preempted, and the kernel's guard against recursion then leaves
 * it out for whatever comes along on that processor: a birth nobody hears of.  The guard itself is outside,
 * so a gap is left; what falls into it, a second program on the same trace point (again_*) tells.  What falls
 * into the gaps of both, the kernel counts as misses of both, which user space looks at. */
static __always_inline void keep_processor(void)
{
	if (bpf_preempt_disable)
		bpf_preempt_disable();
}

static __always_inline void give_processor(void)
{
	if (bpf_preempt_enable)
		bpf_preempt_enable();
}

/* A record, filled in except for what its kind adds; NULL when there is no room.  Until it is submitted, nobody
 * takes the processor away: all records behind it would wait for a tool call that has to wait itself. */
static __always_inline struct event *begin_sized(__u32 kind, __u64 cgroup, __u32 pid, __u64 bytes)
{
	struct event *event;

	keep_processor();
	event = bpf_ringbuf_reserve(&records, bytes, 0);
	__sync_fetch_and_add(&counts.made, 1);
	if (!event) {
		__sync_fetch_and_add(&counts.lost, 1);
		give_processor();
		return NULL;
	}
	event->at_ns = bpf_ktime_get_ns();
	event->cgroup = cgroup;
	event->kind = kind;
	event->pid = pid;
	event->amount = 0;
	event->ran_ns = 0;
	event->folded = 0;
	event->flags = 0;
	event->hint[0] = 0;
	return event;
}

static __always_inline struct event *begin(__u32 kind, __u64 cgroup, __u32 pid)
{
	return begin_sized(kind, cgroup, pid, sizeof(struct event));
}

static __always_inline void submit(struct event *event)
{
	bpf_ringbuf_submit(event, 0);
	give_processor();
}

/* Whether a leaf may say something now.  What can't be found out afterwards has some room of its own.
 * Races between processors cost a record more or less. */
static __always_inline bool may_tell(struct place *place, __u32 kind)
{
	bool urgent = kind == EVENT_EXEC || kind == EVENT_OOM || kind == EVENT_VICTIM || kind == EVENT_WANTS || kind == EVENT_LEFT;
	__u32 room = urgent ? WINDOW_RECORDS : WINDOW_RECORDS - RESERVED;
	__u64 window = bpf_ktime_get_ns() >> WINDOW_SHIFT;

	if (place->window != window) {
		place->window = window;
		place->window_records = 0;
	}
	if (place->window_records < room) {
		__sync_fetch_and_add(&place->window_records, 1);
		return true;
	}
	__sync_fetch_and_add(&place->folded, 1);
	__sync_fetch_and_add(&place->folded_total, 1);
	return false;
}

static __always_inline bool tell(struct place *place, __u32 kind, __u64 cgroup, __u32 pid, __u64 amount)
{
	struct event *event;

	if (!may_tell(place, kind))
		return false;
	event = begin(kind, cgroup, pid);
	if (!event)
		return false;
	event->amount = amount;
	event->folded = __sync_lock_test_and_set(&place->folded, 0);
	submit(event);
	return true;
}

#endif
