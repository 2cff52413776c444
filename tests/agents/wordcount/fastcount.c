/* Count words as the shell's wc does: runs of characters that are not white space. */
#include <ctype.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	FILE *file = argc > 1 ? fopen(argv[1], "r") : stdin;
	long words = 0;
	int c, inside = 0;

	if (!file) {
		perror(argv[1]);
		return 1;
	}
	while ((c = getc(file)) != EOF) {
		if (!isspace(c) && !inside)
			words++;
		inside = !isspace(c);
	}
	printf("%ld\n", words);
	return 0;
}
