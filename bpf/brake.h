/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which tool calls are to be slowed when they charge memory, and for how long: the part that the scheduler and the
 * memcg struct_ops share.  User space says it (`calls`); between its words, a call that lacks memory brakes those of lower rank.
 */
#ifndef AGENTCGROUP_BRAKE_H
#define AGENTCGROUP_BRAKE_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include "events.h"
#include "memory.h"

#define LONGEST_STALL_NS 2000000000ULL /* the kernel's own longest penalty at memory.high */
#define CHARGE_PAGES 64 /* MEMCG_CHARGE_BATCH: what is charged at a time, unless it is a huge page */

/* Each is a section of its own, so that user space finds it as one struct. */
const volatile struct rates rates SEC(".rodata.rates") = {};
struct figures figures; /* all of .bss */
static __u64 protect_until_ns[PRIORITIES] SEC(".data.own");
static __u64 lacking_since_ns SEC(".data.own");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64); /* the id of a call's leaf */
	__type(value, struct call);
} calls SEC(".maps");

/* Where a cgroup belongs. */
struct member {
	__u64 leaf;    /* id of the call's leaf: the cgroup, or one above it */
	__u64 usage;   /* bytes that the leaf holds */
	__u64 charged; /* address of the struct mem_cgroup that is charged first: below the leaf, there may be others */
};

/*
 * Find the leaf of the call that a cgroup, by its address, belongs to; programs may make cgroups below their leaf, and go there.
 * It is a function of its own for the verifier: in the loop of a program, it would be looked at too often.
 */
__noinline int find_leaf(__u64 address, struct member *found)
{
	struct cgroup *cgroup = (void *)address;
	struct mem_cgroup *memory;

	if (!found)
		return false;
	found->charged = 0;
	for (int i = 0; i < LEVELS && cgroup; i++) {
		__u64 id = BPF_CORE_READ(cgroup, kn, id);

		memory = memory_of(cgroup);
		if (!found->charged)
			found->charged = (__u64)memory;
		if (bpf_map_lookup_elem(&calls, &id)) {
			found->leaf = id;
			found->usage = usage_of(memory);
			return true;
		}
		cgroup = BPF_CORE_READ(cgroup, self.parent, cgroup);
	}
	return false;
}

static __always_inline struct call *call_of(struct task_struct *task, struct member *found)
{
	__u64 cgroup = (__u64)BPF_CORE_READ(task, cgroups, dfl_cgrp);

	return find_leaf(cgroup, found) ? bpf_map_lookup_elem(&calls, &found->leaf) : NULL;
}

static __always_inline void count(__u64 *buckets, __u64 ns)
{
	__u64 us = ns / 1000;
	__u32 bucket = 0;

	for (int i = 0; i < BUCKETS - 1 && us; i++, us >>= 1)
		bucket++;
	__sync_fetch_and_add(&buckets[bucket & (BUCKETS - 1)], 1);
}

static __always_inline void count_hold(enum hold_reason reason, __u64 now)
{
	__sync_fetch_and_add(&figures.holds[reason & (HOLD_REASONS - 1)], 1);
	if (reason == HOLD_PROTECT && lacking_since_ns) {
		count(figures.reactions, now - lacking_since_ns);
		lacking_since_ns = 0;
	}
}

static __always_inline __u64 shorter(__u64 one, __u64 other)
{
	return one < other ? one : other;
}

/* How long a charge is to hold its task, at so much for CHARGE_PAGES: a huge page is eight such. */
static __always_inline __u64 hold_for(__u64 ns, unsigned long pages)
{
	return pages > CHARGE_PAGES ? ns * pages / CHARGE_PAGES : ns;
}

/* A call of this rank lacks memory: those below it give way for so long. */
static __always_inline void protect(__u32 rank, __u64 now, __u64 ns)
{
	if (rank >= PRIORITIES - 1)
		return;
	if (protect_until_ns[rank] < now) {
		lacking_since_ns = now;
		__sync_fetch_and_add(&figures.protections, 1);
	}
	protect_until_ns[rank] = now + ns;
}

static __always_inline bool gives_way(__u32 rank, __u64 now)
{
	for (__u32 above = 0; above < PRIORITIES - 1; above++)
		if (above < rank && protect_until_ns[above] > now)
			return true;
	return false;
}

/* Whether a call that has so much is to be slowed now, and why. */
static __always_inline bool is_slowed(struct call *call, __u64 usage, __u64 now, enum hold_reason *reason)
{
	if (call->brake_until_ns > now)
		*reason = HOLD_BRAKE;
	else if (gives_way(call->rank, now))
		*reason = HOLD_PROTECT;
	else if (call->stop_at_bytes && usage > call->stop_at_bytes)
		*reason = HOLD_GRANT;
	else
		return false;
	return true;
}

/* For how long a task of `call` is to be held for this charge, and why; 0: not at all. */
static __always_inline __u64 brake_for(struct call *call, __u64 usage, unsigned long pages, __u64 now, enum hold_reason *reason)
{
	if (!is_slowed(call, usage, now, reason))
		return 0;
	if (*reason != HOLD_GRANT)
		return hold_for(rates.hold_ns, pages);
	protect(call->rank, now, rates.protect_ns);
	/* The further beyond, the longer, up to that of a brake: whoever waits long for an answer must not outrun it. */
	return hold_for(shorter(rates.stop_ns * (1 + ((usage - call->stop_at_bytes) >> 20)), rates.hold_ns), pages);
}

/* A task of the call begins to wait for memory: others give way until it has it, */
static __always_inline void stall_begins(struct call *call, __u64 now)
{
	protect(call->rank, now, LONGEST_STALL_NS);
}

/* and a little longer. */
static __always_inline void stall_ends(struct call *call, __u64 now)
{
	__u64 until_ns = now + rates.protect_ns;
	__u32 rank = call->rank;

	if (rank < PRIORITIES - 1 && protect_until_ns[rank] > until_ns)
		protect_until_ns[rank] = until_ns;
}

#endif
