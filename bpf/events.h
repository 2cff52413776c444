/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the monitor says to user space, and what user space says to the monitor: the only declaration of
 * both.  agentcgroup/kernel/records.py reads them as bytes, and a test compares it with the BTF of
 * the compiled object.
 */
#ifndef AGENTCGROUP_EVENTS_H
#define AGENTCGROUP_EVENTS_H

#define HINT_BYTES 128
#define ARGS_BYTES 2048

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
	EVENT_WANTS = 13,   /* a leaf's memory has grown to where it is to ask for more; amount: bytes now */
	EVENT_LEFT = 14,    /* pid was moved out of this cgroup, to one that is none of ours; amount: its id */
};

enum event_flag {
	EVENT_UNREAD = 1, /* of EVENT_EXEC: a hint may be where the environment was not looked at */
};

/* One record of the ring buffer. */
struct event {
	__u64 at_ns;   /* CLOCK_MONOTONIC; of a birth, when it was, even if it is told late */
	__u64 cgroup;  /* id of the cgroup it is about */
	__u64 amount;
	__u64 ran_ns;
	enum event_kind kind;
	__u32 pid;
	__u32 folded;  /* records of this cgroup that were left out since the last one */
	enum event_flag flags;
	char hint[HINT_BYTES];
};

/* A program started in the agent domain: whose it is must be known although it may have ended before anybody can read /proc. */
struct started {
	struct event event;  /* EVENT_EXEC */
	__u32 args_bytes;    /* 0: more than there is room for, or not to be read */
	__u32 padding;
	char args[ARGS_BYTES];
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
	__u32 tell_programs; /* of a call: each program that starts in it is told, not only those with a hint */
	__u32 window_records; /* records in the current window */
	__u32 padding;

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

/* How far a call's memory may grow before it is told; user space writes it anew for each further grant. */
struct grant {
	__u64 ask_at_bytes;
	__u32 asked; /* told already */
	__u32 padding;
};

/* A process whose end is reported: one that was born or exec'd in the agent domain. */
struct tracked {
	__u32 released; /* user space: this exec is no tool call, or it is placed; go on */
	__u32 padding;
	__u64 exec_id;  /* of the exec that was told last, or before its birth; 0: not known */
};

/* Set by user space before loading. */
struct settings {
	__u64 step_time_ns; /* a step of growth within this time is told */
	__u64 hold_cap_ns;  /* how long a new program may be held until it is placed; 0: not at all */
};

/* Memory shared with user space, by the monitor. */
struct counts {
	__u64 made; /* records, including: */
	__u64 lost; /* those that found no room */
	__u64 holds;
	__u64 held_ns;
};

/* The scheduler */

#define PRIORITIES 3
#define BUCKETS 32

/* A tool call, as user space wants it treated; its key is the id of the call's leaf. */
struct call {
	__u64 brake_until_ns; /* each charge of memory until then holds the task that made it for a while */
	__u64 stop_at_bytes;  /* from here on, too, until user space has answered; 0: nowhere */
	__u32 rank;           /* 0 high, 1 normal, 2 low: a higher one that lacks memory brakes the lower ones */
	__u32 padding;
};

/* How the memcg struct_ops slow a call, written by them; the key is that of the call. */
struct slowed {
	__u64 total_ns;    /* for so long tasks of it slept: the kernel counts it as waiting for memory, and it is our doing */
	__u64 until_ns;    /* the last one that sleeps wakes */
	__u64 usage_bytes; /* at the last charge */
	__u64 owed_ns;     /* delays that are still to come */
};

/* Set by user space before loading. */
struct rates {
	__u64 slice_ns;      /* how long a task runs before others get their turn */
	__u64 credit_ns;     /* processor time that a new call gets ahead of the others */
	__u64 hold_ns;       /* how long a charge while braked holds its task */
	__u64 stop_ns;       /* ... and one beyond what was granted */
	__u64 protect_ns;    /* how long lower ones are braked after a higher one lacked memory */
};

/* Why a task was held. */
enum hold_reason {
	HOLD_BRAKE = 0,   /* user space said so */
	HOLD_GRANT = 1,   /* it has grown beyond what it was granted */
	HOLD_PROTECT = 2, /* a call of a higher rank lacks memory */
	HOLD_QUOTA = 3,   /* its cgroup's cpu.max is used up */
	HOLD_REASONS = 4,
};

/* What the scheduler counted; histograms by powers of two of microseconds. */
struct figures {
	__u64 ran_ns;
	__u64 held_ns;
	__u64 holds[HOLD_REASONS];
	__u64 protections; /* how often a call that lacked memory braked lower ones */
	__u64 waits[BUCKETS];     /* from runnable to running */
	__u64 delays[BUCKETS];    /* from when a hold was asked for to its beginning, on the way back to user space */
	__u64 held[BUCKETS];      /* from held to let go */
	__u64 reactions[BUCKETS]; /* from a lack of memory to the first task held for it */
};

/* The scheduler's end: the one record of its ring buffer. */
struct farewell {
	__u32 kind;
	__u32 padding;
	__u64 code;
	char reason[64];
	char message[192];
};

#endif
