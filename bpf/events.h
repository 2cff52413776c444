/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the monitor says to user space, and what user space says to the monitor: the only declaration of
 * both.  agentcgroup/kernel/records.py reads them as bytes, and a test compares it with the BTF of
 * the compiled object.
 */
#ifndef AGENTCGROUP_EVENTS_H
#define AGENTCGROUP_EVENTS_H

#define HINT_BYTES 128

/* What a record tells; `pid` and `amount` by kind. */
enum event_kind {
	EVENT_FORK = 1,     /* pid: parent, amount: child; the child was born in the agent domain */
	EVENT_EXEC = 2,     /* pid started a program; hint: what its environment says, may be empty */
	EVENT_EXIT = 3,     /* pid ended; amount: status as wait(2) encodes it, ran_ns: for how long it ran */
	EVENT_EMPTY = 4,    /* the last process of a call's leaf is gone */
	EVENT_GROWTH = 5,   /* a leaf's memory grew by a step within the time a step may take; amount: bytes now */
	EVENT_OVER = 6,     /* a charge went over memory.high; amount: bytes now */
	EVENT_FULL = 7,     /* a charge met memory.max; amount: bytes now */
	EVENT_OOM = 8,      /* the kernel looks for a victim in the cgroup; amount: bytes now */
	EVENT_VICTIM = 9,   /* pid was chosen to die of it */
	EVENT_STALL = 10,   /* a leaf's tasks waited for memory; amount: nanoseconds since the last such record */
	EVENT_STARVED = 11, /* a leaf's tasks waited for a processor; amount: nanoseconds since the last such record */
	EVENT_HELD_OUT = 12, /* pid was not placed in time and started anyway; amount: nanoseconds it was held */
};

/* One record of the ring buffer. */
struct event {
	__u64 at_ns;   /* CLOCK_MONOTONIC */
	__u64 cgroup;  /* id of the cgroup it is about */
	__u64 amount;
	__u64 ran_ns;
	enum event_kind kind;
	__u32 pid;
	__u32 folded;  /* records of this cgroup that were left out since the last one */
	__u32 padding;
	char hint[HINT_BYTES];
};

/* What a cgroup is to us. */
enum place_role {
	PLACE_AGENT = 1, /* agent/: what starts here is a tool call, or the agent's own */
	PLACE_CALL = 2,  /* tools/tool-<n>/ */
};

/* A cgroup that belongs to a session; user space writes the first line when it makes the cgroup. */
struct place {
	__u64 step_bytes;
	__u64 stall_ns;
	__u64 wait_ns;
	enum place_role role;
	__u32 window_records; /* records in the current window */

	/* counted here, read by user space */
	__u64 forks;
	__u64 waited_ns;
	__u64 stalled_ns;
	__u64 folded_total;

	/* the monitor's own */
	__u64 window;
	__u64 folded;
	__u64 step_from_bytes;
	__u64 step_from_ns;
	__u64 told_stalled_ns;
	__u64 told_waited_ns;
	__u64 hint_hash;
};

/* A process whose end is reported: one that was born or exec'd in the agent domain. */
struct tracked {
	__u32 released; /* user space: this exec is no tool call, or it is placed; go on */
	__u32 padding;
};

/* Set by user space before loading. */
struct settings {
	__u64 step_time_ns; /* a step of growth within this time is told */
	__u64 hold_cap_ns;  /* how long a new program may be held until it is placed; 0: not at all */
};

/* Memory shared with user space. */
struct counts {
	__u64 made; /* records, including: */
	__u64 lost; /* those that found no room */
	__u64 holds;
	__u64 held_ns;
};

#endif
