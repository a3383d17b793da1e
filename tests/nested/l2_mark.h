/* The CPUID leaf by which a guest's first program shows that it runs; in no range that CPUs or monitors have.
 */
#ifndef L2_MARK_H
#define L2_MARK_H

#define L2_MARK_LEAF 0x5941444f

#endif
