// SPDX-License-Identifier: GPL-2.0-only
/*
 * Slows tool calls whose memory others need, and keeps the memory of those of the highest rank from reclaim: as memcg struct_ops,
 * on kernels that carry them.
 *
 * The kernel asks at every charge of a task in a cgroup that it is attached to for how long that task is to sleep.  User space
 * attaches it to the calls of each session, and detaches it before their cgroups go.
 *
 * The sleep is not always on the way back to user space: a charge inside the kernel may sleep where it is, with the kernel's locks that
 * its task holds, and whoever needs one of them waits, too.  The scheduler's hold has no such price, so that is preferred where
 * the kernel has it.
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
#define SHORTEST_DELAY_NS 11000000ULL /* the kernel leaves out what is not longer than HZ / 100, which is 8 or 10 ms */
#define LONGEST_DELAY_NS 200000000ULL /* nothing ends a sleep when the brake is lifted: a long one is taken in parts */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64); /* as in `calls` */
	__type(value, struct slowed);
} slowed_calls SEC(".maps");

static __always_inline struct slowed *slowed_by(__u64 leaf, __u64 usage)
{
	struct slowed *slowed = bpf_map_lookup_elem(&slowed_calls, &leaf), fresh = {.usage_bytes = usage};

	if (slowed)
		return slowed;
	bpf_map_update_elem(&slowed_calls, &leaf, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&slowed_calls, &leaf);
}

/* Pages by which a call has grown since its last charge: the kernel does not say how many this one is about, and it may be a huge one. */
static __always_inline unsigned long growth(struct slowed *slowed, __u64 usage)
{
	__u64 before = slowed->usage_bytes;

	slowed->usage_bytes = usage;
	return usage > before ? (usage - before) / PAGE_BYTES : 0;
}

/* How much of what a call owes is slept now. */
static __always_inline __u64 due(struct slowed *slowed, __u64 ns, __u64 now)
{
	__u64 owed = slowed->owed_ns + ns, part = shorter(owed, LONGEST_DELAY_NS), from = now;

	if (part < SHORTEST_DELAY_NS)
		part = 0;
	slowed->owed_ns = owed - part;
	/* Tasks that sleep at the same time are counted once, as the kernel's pressure does. */
	if (slowed->until_ns > from)
		from = slowed->until_ns;
	if (now + part > from) {
		slowed->total_ns += now + part - from;
		slowed->until_ns = now + part;
	}
	return part;
}

SEC("struct_ops/get_high_delay_ms")
unsigned int BPF_PROG(get_high_delay_ms, struct mem_cgroup *memcg)
{
	__u64 now = bpf_ktime_get_ns(), ns;
	enum hold_reason reason = HOLD_BRAKE;
	struct slowed *slowed;
	unsigned long pages;
	struct member of = {};
	struct call *call = call_of(bpf_get_current_task_btf(), &of);

	if (!call)
		return 0;
	slowed = slowed_by(of.leaf, of.usage);
	if (!slowed)
		return 0;
	pages = growth(slowed, of.usage);
	ns = brake_for(call, of.usage, pages, now, &reason);
	if (!ns) {
		slowed->owed_ns = 0;
		return 0;
	}
	ns = due(slowed, ns, now);
	if (!ns)
		return 0;
	count_hold(reason, now);
	count(figures.held, ns);
	__sync_fetch_and_add(&figures.held_ns, ns);
	return ns / NS_PER_MS;
}

/* Reclaim passes by what belongs to a call of the highest rank, as long as there is anything else. */
SEC("struct_ops/below_low")
bool BPF_PROG(below_low, struct mem_cgroup *memcg)
{
	struct member of = {};
	struct call *call = NULL;

	if (find_leaf((__u64)BPF_CORE_READ(memcg, css.cgroup), &of))
		call = bpf_map_lookup_elem(&calls, &of.leaf);
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

/* Beside the scheduler, whose map of calls says the ranks: it slows. */
SEC(".struct_ops.link")
struct memcg_bpf_ops protect_only = {
	.below_low = (void *)below_low,
	.below_min = (void *)below_min,
};

SEC("fentry/psi_memstall_enter")
int BPF_PROG(on_stall_begin)
{
	__u64 now = bpf_ktime_get_ns();
	struct slowed *slowed;
	struct member of = {};
	struct call *call = call_of(bpf_get_current_task_btf(), &of);

	if (!call)
		return 0;
	/* Our own delay is no lack of memory. */
	slowed = bpf_map_lookup_elem(&slowed_calls, &of.leaf);
	if (!slowed || slowed->until_ns <= now)
		stall_begins(call, now);
	return 0;
}

SEC("fentry/psi_memstall_leave")
int BPF_PROG(on_stall_end)
{
	struct member of = {};
	struct call *call = call_of(bpf_get_current_task_btf(), &of);

	if (call)
		stall_ends(call, bpf_ktime_get_ns());
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(on_rmdir, struct cgroup *cgroup)
{
	__u64 id = BPF_CORE_READ(cgroup, kn, id);

	bpf_map_delete_elem(&calls, &id);
	bpf_map_delete_elem(&slowed_calls, &id);
	return 0;
}
