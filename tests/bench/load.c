/* Loads for the scheduler's benchmark: load spin MS | work LOOPS | wake COUNT | pipe COUNT.  Prints what it measured, in microseconds. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

/* Use so much time of a processor; how long that took. */
static void spin(double us)
{
	double began = now(CLOCK_MONOTONIC);

	while (now(CLOCK_PROCESS_CPUTIME_ID) < us)
		;
	printf("%.0f\n", now(CLOCK_MONOTONIC) - began);
}

static void work(long loops)
{
	double began = now(CLOCK_MONOTONIC);

	for (volatile long i = 0; i < loops; i++)
		;
	printf("%.0f\n", now(CLOCK_MONOTONIC) - began);
}

/* Sleep for 2 ms again and again; how much later each wake-up came. */
static void wake(int count)
{
	struct timespec nap = {.tv_nsec = 2000000};

	for (int i = 0; i < count; i++) {
		double began = now(CLOCK_MONOTONIC);

		nanosleep(&nap, NULL);
		printf("%.0f\n", now(CLOCK_MONOTONIC) - began - 2000);
	}
}

/* A byte there and back between two processes; how long one way takes. */
static void pipes(int count)
{
	int there[2], back[2];
	double began;
	char byte = 0;

	if (pipe(there) || pipe(back))
		exit(1);
	if (!fork()) {
		close(there[1]);
		while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1)
			;
		_exit(0);
	}
	began = now(CLOCK_MONOTONIC);
	for (int i = 0; i < count; i++)
		if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
			exit(1);
	printf("%.2f\n", (now(CLOCK_MONOTONIC) - began) / count / 2);
	close(there[1]);
	wait(NULL);
}

int main(int argc, char **argv)
{
	double amount = argc > 2 ? atof(argv[2]) : 0;

	/* Its cgroup and its scheduler are chosen before it begins. */
	if (read(0, &(char){0}, 1) < 0)
		return 1;
	if (!strcmp(argv[1], "spin"))
		spin(amount * 1000);
	else if (!strcmp(argv[1], "work"))
		work(amount);
	else if (!strcmp(argv[1], "wake"))
		wake(amount);
	else
		pipes(amount);
	return 0;
}
