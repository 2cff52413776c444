/* SPDX-License-Identifier: GPL-2.0-only */
/* A hint in the environment of a new program. */
#ifndef AGENTCGROUP_HINT_H
#define AGENTCGROUP_HINT_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include "events.h"

/* Reads of WORD_BYTES at most: half a megabyte of long variables, or so many short ones.  Beyond, user space looks. */
#define ENVIRONMENT_WORDS 4096
#define WORD_BYTES HINT_BYTES
#define HINT_NAME "AGENT_RESOURCE_HINT="
#define HINT_NAME_BYTES (sizeof(HINT_NAME) - 1)

struct search {
	unsigned long at;
	unsigned long end;
	bool found;
	bool unread;
	bool inside; /* the last word read was longer than the buffer: what follows is the rest of it */
	char word[WORD_BYTES];
};

static long look_at_word(__u32 index, struct search *search)
{
	long length;
	int i;

	if (search->at >= search->end)
		return 1;
	length = bpf_probe_read_user_str(search->word, sizeof(search->word), (void *)search->at);
	if (length <= 0)
		return 1;
	if (!search->inside) {
		for (i = 0; i < HINT_NAME_BYTES; i++)
			if (search->word[i] != HINT_NAME[i])
				break;
		if (i == HINT_NAME_BYTES) {
			search->found = true;
			return 1;
		}
	}
	search->inside = length == sizeof(search->word) && search->word[sizeof(search->word) - 2] != 0;
	/* A string that filled the buffer was cut: its last byte read is not its end. */
	search->at += search->inside ? length - 1 : length;
	return 0;
}

/* FNV-1a */
static __always_inline __u64 hash(const char *text, int length)
{
	__u64 value = 0xcbf29ce484222325ULL;

	for (int i = 0; i < length; i++) {
		if (!text[i])
			break;
		value = (value ^ (__u8)text[i]) * 0x100000001b3ULL;
	}
	return value;
}

/* Look for a hint in a new program's environment.  Its pages were just written, so they are there; if not, or if there is more
 * than is looked at, it is `unread`. */
static __always_inline void find_hint(struct task_struct *task, struct search *search)
{
	search->at = BPF_CORE_READ(task, mm, env_start);
	search->end = BPF_CORE_READ(task, mm, env_end);
	bpf_loop(ENVIRONMENT_WORDS, look_at_word, search, 0);
	if (search->found)
		return;
	search->word[HINT_NAME_BYTES] = 0;
	search->unread = search->at < search->end;
}

#endif
