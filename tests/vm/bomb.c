/* SPDX-License-Identifier: MIT */
/* A fork bomb: every process forks as fast as it can, until the given number of seconds is over. */
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	time_t end = time(NULL) + atoi(argv[1]);

	while (time(NULL) < end) {
		if (fork() == 0 && rand() % 4)
			_exit(0);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
	return 0;
}
