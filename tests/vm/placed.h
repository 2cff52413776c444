/* What a call touches before it is in its leaf is charged to its agent; how much that is is measured elsewhere (scripts/bench
 * placement), so those who test limits wait until they are there. */
#include <fcntl.h>
#include <string.h>
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

/* Not for ever: it may be the agent. */
static void wait_until_placed(void)
{
	for (int tries = 0; tries < 200 && in_agent(); tries++)
		usleep(10000);
}
