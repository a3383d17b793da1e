/* The guests of code.S, and the test groups of test_kvm's files. */
#ifndef TESTS_KVM_CODES_H
#define TESTS_KVM_CODES_H

#include <stdint.h>

#define CODE(name) extern const uint8_t code_##name[], code_##name##_end[]
CODE(ports);
CODE(hlt);
CODE(spin);
CODE(read);
CODE(echo);
CODE(touch);
CODE(mmio);
CODE(interrupts);
CODE(handlers);
CODE(deadline);
CODE(sipi);
CODE(ap);
CODE(lost);
CODE(triple);
CODE(doorbells);
CODE(clock);
#define CLOCK_PAGE 0x60000 /* of code_clock */
#define LEN(name) ((size_t)(code_##name##_end - code_##name))
#define REAL(g, name) guest_real(g, code_##name, LEN(name))
#define LONG(g, name) guest_long(g, code_##name, LEN(name))

int kvm_state_tests(void); /* returns how many failed */

#endif
