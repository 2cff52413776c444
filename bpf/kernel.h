/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel's types as far as our programs read them.  Every access is relocated against the running
 * kernel's BTF when an object is loaded (CO-RE), so only names and types of fields matter here, not
 * their order or distance.  What differs between kernels is in compat.h.
 */
#ifndef AGENTCGROUP_KERNEL_H
#define AGENTCGROUP_KERNEL_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;

#define true 1
#define false 0
#define NULL ((void *)0)

/* include/uapi/linux/bpf.h */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};
enum {
	BPF_F_NO_PREALLOC = 1,
	BPF_NOEXIST = 1,
	BPF_LOCAL_STORAGE_GET_F_CREATE = 1,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	long counter;
} atomic_long_t;

struct kernfs_node {
	__u64 id;
};

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
	int level;
	/* one per controller, by enum cgroup_subsys_id */
	struct cgroup_subsys_state *subsys[16];
};

enum cgroup_subsys_id {
	memory_cgrp_id = 4,
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

struct page_counter {
	atomic_long_t usage;
	unsigned long max;
	unsigned long high;
};

struct mem_cgroup {
	struct cgroup_subsys_state css;
	struct page_counter memory;
};

struct oom_control {
	struct mem_cgroup *memcg;
};

struct list_head {
	struct list_head *next;
};

struct mm_struct {
	unsigned long arg_start, arg_end;
	unsigned long env_start;
	unsigned long env_end;
};

struct signal_struct {
	atomic_t live;
	unsigned int flags;
	int group_exit_code;
	unsigned long long sum_sched_runtime;
};

struct sched_entity {
	__u64 sum_exec_runtime;
};

struct sched_info {
	unsigned long long run_delay;
};

/* Complete, as the types of a kfunc's arguments must be for libbpf to recognise it. */
struct cpumask {
	unsigned long bits[1];
};

struct bpf_map {
	__u32 id;
};

/* since 6.12 */
struct sched_ext_entity {
	__u64 slice;
	__u64 dsq_vtime;
};

struct task_struct {
	int pid;
	int tgid;
	int exit_code;
	unsigned int memcg_nr_pages_over_high;
	__u64 self_exec_id;
	__u64 start_time; /* CLOCK_MONOTONIC, nanoseconds */
	struct task_struct *real_parent;
	struct list_head children;
	struct list_head sibling;
	struct task_struct *group_leader;
	struct signal_struct *signal;
	struct mm_struct *mm;
	struct css_set *cgroups;
	struct sched_entity se;
	struct sched_ext_entity scx;
	unsigned int policy;
	const struct cpumask *cpus_ptr;
	struct sched_info sched_info;
};

struct scx_cgroup_init_args {
	__u32 weight;
	__u64 bw_period_us;
	__u64 bw_quota_us;
};

enum scx_exit_kind {
	SCX_EXIT_NONE = 0,
};

struct scx_exit_info {
	enum scx_exit_kind kind;
	long exit_code;
	const char *reason;
	char *msg;
};

#pragma clang attribute pop

/* The members that we fill in; libbpf finds them in the kernel's own type by their names. */
struct sched_ext_ops {
	__s32 (*select_cpu)(struct task_struct *task, __s32 before, __u64 flags);
	void (*enqueue)(struct task_struct *task, __u64 flags);
	void (*dequeue)(struct task_struct *task, __u64 flags);
	void (*dispatch)(__s32 cpu, struct task_struct *before);
	void (*runnable)(struct task_struct *task, __u64 flags);
	void (*running)(struct task_struct *task);
	void (*stopping)(struct task_struct *task, bool runnable);
	void (*quiescent)(struct task_struct *task, __u64 flags);
	void (*enable)(struct task_struct *task);
	void (*disable)(struct task_struct *task);
	__s32 (*cgroup_init)(struct cgroup *cgroup, struct scx_cgroup_init_args *args);
	void (*cgroup_exit)(struct cgroup *cgroup);
	void (*cgroup_set_weight)(struct cgroup *cgroup, __u32 weight);
	void (*cgroup_set_bandwidth)(struct cgroup *cgroup, __u64 period_us, __u64 quota_us, __u64 burst_us);
	__s32 (*init)(void);
	void (*exit)(struct scx_exit_info *info);
	__u64 flags;
	__u32 timeout_ms;
	char name[128];
};

/* The RFC series of 2025 and 2026, in no release yet.  A later version of it drops get_high_delay_ms. */
struct memcg_bpf_ops {
	bool (*below_low)(struct mem_cgroup *memcg);
	bool (*below_min)(struct mem_cgroup *memcg);
	unsigned int (*get_high_delay_ms)(struct mem_cgroup *memcg);
};

/* include/uapi/linux/bpf.h: what the kernel keeps in map values */
struct bpf_timer {
	__u64 opaque[2];
} __attribute__((aligned(8)));
struct bpf_task_work {
	__u64 opaque;
} __attribute__((aligned(8)));
struct bpf_iter_scx_dsq {
	__u64 opaque[6];
} __attribute__((aligned(8)));

struct linux_binprm;
struct pt_regs;

#endif
