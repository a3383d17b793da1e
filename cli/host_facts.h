/* What `yado doctor` says of the host besides its engines; one file for each platform. */
#ifndef CLI_HOST_FACTS_H
#define CLI_HOST_FACTS_H

/* Lines on standard output: the CPU, what it can do, the memory. */
void host_facts_print(void);

#endif
