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

#endif
