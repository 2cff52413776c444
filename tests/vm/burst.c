/* Touch SIZE MiB as the first thing after exec: burst SIZE */
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
	size_t size = (size_t)atoi(argv[argc - 1]) << 20;
	char *memory = malloc(size);

	memset(memory, 1, size);
	return memory[size / 2] - 1;
}
