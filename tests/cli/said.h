/* What the command's files ask of its main file, kept instead of printed. */
#ifndef TESTS_CLI_SAID_H
#define TESTS_CLI_SAID_H

extern char said[1024]; /* the last line */

#endif
