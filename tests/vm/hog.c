/* Allocate and touch memory as fast as the machine goes: hog MIB [SECONDS to hold it].
 * What a call touches before it is in its leaf is charged to its agent; how much that is is measured elsewhere (scripts/bench
 * placement), so this waits until it is there. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int in_agent(void)
{
	char cgroup[512] = "";
	int fd = open("/proc/self/cgroup", O_RDONLY);

	if (read(fd, cgroup, sizeof(cgroup) - 1) < 0)
		return 0;
	close(fd);
	return strstr(cgroup, "/agent\n") != NULL;
}

int main(int argc, char **argv)
{
	size_t bytes = strtoul(argv[1], NULL, 10) << 20;
	char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return 1;
	/* Not for ever: it may be the agent. */
	for (int tries = 0; tries < 200 && in_agent(); tries++)
		usleep(10000);
	for (size_t at = 0; at < bytes; at += 4096)
		memory[at] = 1;
	if (argc > 2)
		usleep(atof(argv[2]) * 1e6);
	printf("had %s\n", argv[1]);
	return 0;
}
