/* Fork a tree of COUNT processes with double forks and setsid; each writes "pid cgroup" to FILE when it ends.
 * tree COUNT FILE TAG: the root does not wait for its grandchildren, as daemons don't. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void where(char *cgroup, size_t size)
{
	int fd = open("/proc/self/cgroup", O_RDONLY);
	ssize_t got = read(fd, cgroup, size - 1);

	close(fd);
	cgroup[got > 0 ? got : 0] = 0;
	cgroup[strcspn(cgroup, "\n")] = 0;
}

static void note(const char *file, const char *tag)
{
	char cgroup[512] = "", line[1024];
	int fd;

	/* Late is measured elsewhere, this is about never. */
	for (int tries = 0; tries < 300 && !strstr(cgroup, "/tools/"); tries++) {
		usleep(300000); /* hundreds that look more often keep the processors from whoever is to place them */
		where(cgroup, sizeof(cgroup));
	}
	snprintf(line, sizeof(line), "%s %d %s\n", tag, getpid(), cgroup);
	fd = open(file, O_WRONLY | O_APPEND | O_CREAT, 0644);
	if (write(fd, line, strlen(line)) < 0)
		_exit(1);
	close(fd);
}

static void live(const char *file, const char *tag)
{
	usleep(2000000); /* all of the tree are there at the same time */
	note(file, tag);
	_exit(0);
}

int main(int argc, char **argv)
{
	int count = atoi(argv[1]);

	(void)argc;
	/* Half of them plain children, the others orphans in sessions of their own; the middlemen count too. */
	for (int made = 1; made + 2 <= count; made += 3) {
		if (fork() == 0)
			live(argv[2], argv[3]);
		if (fork() == 0) {
			setsid();
			if (fork() == 0) {
				setsid();
				live(argv[2], argv[3]);
			}
			live(argv[2], argv[3]);
		}
	}
	usleep(1500000);
	note(argv[2], argv[3]);
	return 0;
}
