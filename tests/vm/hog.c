/* Allocate and touch memory as fast as the machine goes: hog MIB [SECONDS to hold it]. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "placed.h"

int main(int argc, char **argv)
{
	size_t bytes = strtoul(argv[1], NULL, 10) << 20;
	char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return 1;
	wait_until_placed();
	for (size_t at = 0; at < bytes; at += 4096)
		memory[at] = 1;
	if (argc > 2)
		usleep(atof(argv[2]) * 1e6);
	printf("had %s\n", argv[1]);
	return 0;
}
