/* Allocate and touch memory in steps: steps MIB:SECONDS [MIB:SECONDS...], each a size to have in all and for how long.
 * Instead of SECONDS, the absolute path of a file: until it is there; the file PATH.MIB says meanwhile that it has that much. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "placed.h"

static void wait_for(const char *path, size_t mib)
{
	char has[512];

	snprintf(has, sizeof(has), "%s.%zu", path, mib);
	close(open(has, O_CREAT | O_WRONLY, 0644));
	while (access(path, F_OK))
		usleep(50000);
}

int main(int argc, char **argv)
{
	size_t had = 0;

	wait_until_placed();
	for (int step = 1; step < argc; step++) {
		char *colon;
		size_t bytes = strtoul(argv[step], &colon, 10) << 20;

		if (bytes > had) {
			char *memory = mmap(NULL, bytes - had, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

			if (memory == MAP_FAILED)
				return 1;
			for (size_t at = 0; at < bytes - had; at += 4096)
				memory[at] = 1;
			had = bytes;
		}
		if (colon[1] == '/')
			wait_for(colon + 1, had >> 20);
		else
			usleep(atof(colon + 1) * 1e6);
	}
	printf("had %zu\n", had >> 20);
	return 0;
}
