/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Every difference between kernels that our programs know, each with the version that made it.
 *
 * A program whose function the running kernel lacks is not loaded (the loader looks into the kernel's
 * BTF), so alternatives for one fact stand side by side, one per name:
 *
 *   __memcg_memory_event           out of line since 6.19: high, max and oom are told by it alone.
 *                                  Before, it was inline, and stand in for it:
 *   __mem_cgroup_handle_over_high  6.15 and later   (a charge went over memory.high)
 *   mem_cgroup_handle_over_high    before           (the same function under its former name)
 *   mm_vmscan_memcg_reclaim_begin  all              (direct reclaim on behalf of a limit)
 *   out_of_memory                  all              (a limit's, where the control names a memcg)
 */
#ifndef AGENTCGROUP_COMPAT_H
#define AGENTCGROUP_COMPAT_H

/* include/linux/sched/signal.h; unchanged since 2.6 */
#define SIGNAL_GROUP_EXIT 0x00000004

/* enum memcg_memory_event: LOW, HIGH, MAX, OOM, ... in this order since 4.19 */
enum { MEMCG_HIGH = 1, MEMCG_MAX = 2, MEMCG_OOM = 3 };

/* The names of system calls carry their architecture since 4.17. */
#if defined(__TARGET_ARCH_arm64)
#define SYSCALL(name) "__arm64_sys_" #name
#else
#define SYSCALL(name) "__x64_sys_" #name
#endif

/* mark_victim: its argument was a pid until 6.8, and is a task since then. */

/* kfuncs: since 6.10 */
extern void bpf_preempt_disable(void) __ksym __weak;
extern void bpf_preempt_enable(void) __ksym __weak;

/* kfuncs: since 6.2 */
extern void bpf_rcu_read_lock(void) __ksym __weak;
extern void bpf_rcu_read_unlock(void) __ksym __weak;

/* sched_ext, since 6.12.  Its numbers are 64 bits wide, which clang knows as enumerators from 15 on. */
#define SCHED_EXT 7
#define SCX_DSQ_LOCAL ((1ULL << 63) | 2)
#define SCX_ENQ_LAST (1ULL << 41)
#define SCX_OPS_ENQ_LAST (1ULL << 1)
#define SCX_OPS_SWITCH_PARTIAL (1ULL << 3)
#define SCX_OPS_ENQ_MIGRATION_DISABLED (1ULL << 4) /* since 6.14 */
#define SCX_KICK_IDLE 1
#define SCX_KICK_PREEMPT 2

extern __s32 scx_bpf_select_cpu_dfl(struct task_struct *task, __s32 before, __u64 flags, bool *idle) __ksym __weak;
extern void scx_bpf_kick_cpu(__s32 cpu, __u64 flags) __ksym __weak;
extern __s32 scx_bpf_pick_idle_cpu(const struct cpumask *allowed, __u64 flags) __ksym __weak;
extern __s32 scx_bpf_create_dsq(__u64 id, __s32 node) __ksym __weak;
extern __s32 scx_bpf_dsq_nr_queued(__u64 id) __ksym __weak;
extern __u32 scx_bpf_nr_cpu_ids(void) __ksym __weak;
extern void scx_bpf_exit_bstr(__s64 code, char *format, unsigned long long *data, __u32 size) __ksym __weak;

/* since 6.13; scx_bpf_dispatch*, scx_bpf_consume before */
extern void scx_bpf_dsq_insert(struct task_struct *task, __u64 dsq, __u64 slice, __u64 flags) __ksym __weak;
extern void scx_bpf_dsq_insert_vtime(struct task_struct *task, __u64 dsq, __u64 slice, __u64 vtime, __u64 flags) __ksym __weak;
extern bool scx_bpf_dsq_move_to_local(__u64 dsq) __ksym __weak;
extern void scx_bpf_dsq_move_set_vtime(struct bpf_iter_scx_dsq *it__iter, __u64 vtime) __ksym __weak;
extern bool scx_bpf_dsq_move_vtime(struct bpf_iter_scx_dsq *it__iter, struct task_struct *task, __u64 dsq, __u64 flags) __ksym __weak;
extern int bpf_iter_scx_dsq_new(struct bpf_iter_scx_dsq *it, __u64 dsq, __u64 flags) __ksym __weak;
extern struct task_struct *bpf_iter_scx_dsq_next(struct bpf_iter_scx_dsq *it) __ksym __weak;
extern void bpf_iter_scx_dsq_destroy(struct bpf_iter_scx_dsq *it) __ksym __weak;

/* since 6.19 (before, the slice was written directly, and nobody could look at a queue's head) */
extern struct task_struct *scx_bpf_dsq_peek(__u64 dsq) __ksym __weak;
extern bool scx_bpf_task_set_slice(struct task_struct *task, __u64 slice) __ksym __weak;

/* since 7.0 in this form; 6.18 has neither form in its BTF */
extern int bpf_task_work_schedule_resume(struct task_struct *task, struct bpf_task_work *work, void *map__const_map,
					 int (*callback)(struct bpf_map *map, void *key, void *value)) __ksym __weak;

#endif
