/* Which instructions keep a page of code from running directly, and where the process is to stop at them. */
#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#undef PF_X /* of the guest's page faults below, not of segments */
#undef PF_W
#undef PF_R
#include "engine/translator/direct_priv.h"

static uint8_t before[PAGE_SIZE], page[PAGE_SIZE], behind[PAGE_SIZE];

static int fresh(void **state)
{
    (void)state;
    memset(before, 0x90, sizeof(before));
    memset(page, 0x90, sizeof(page));
    memset(behind, 0x90, sizeof(behind));
    return 0;
}

static struct direct_sites scan(unsigned may)
{
    struct direct_sites s;
    assert_true(direct_scan(before, page, may, NULL, &s));
    return s;
}

/* Of these bytes in the middle of the page. */
static unsigned count(const char *bytes, unsigned n, unsigned may)
{
    fresh(NULL);
    memcpy(page + 1000, bytes, n);
    struct direct_sites s = scan(may);
    if (s.count)
        assert_int_equal(s.at[0], 1000);
    return s.count;
}
#define COUNT(bytes, may) count(bytes, sizeof(bytes) - 1, may)

static void test_told(void **state)
{
    (void)state;
    assert_int_equal(COUNT("\x0f\xa2", 0), 1); /* CPUID */
    assert_int_equal(COUNT("\x0f\xa2", DIRECT_MAY_CPUID), 0);
    assert_int_equal(COUNT("\x0f\x31", DIRECT_MAY_CPUID), 1);     /* RDTSC */
    assert_int_equal(COUNT("\x0f\x01\xf9", 0), 1);                /* RDTSCP */
    assert_int_equal(COUNT("\x0f\x01\xd0", 0), 1);                /* XGETBV */
    assert_int_equal(COUNT("\xf3\x0f\xc7\xf8", 0), 1);            /* RDPID, from its prefix on */
    assert_int_equal(COUNT("\xf3\x49\x0f\xc7\xf8", 0), 1);        /* and REX */
    assert_int_equal(COUNT("\x0f\x01\xc1", 0), 1);                /* VMCALL */
    assert_int_equal(COUNT("\x0f\x01\xd9", 0), 1);                /* VMMCALL */
    assert_int_equal(COUNT("\x0f\x01\xfd", 0), 1);                /* RDPRU */
    assert_int_equal(COUNT("\x0f\x33", 0), 1);                    /* RDPMC */
    assert_int_equal(COUNT("\xcd\x04", 0), 1);                    /* INT 4 */
    assert_int_equal(COUNT("\x0f\x34", 0), 1);                    /* SYSENTER */
    assert_int_equal(COUNT("\x0f\x01\x00", 0), 1);                /* SGDT */
    assert_int_equal(COUNT("\x0f\x01\x48\x10", 0), 1);            /* SIDT */
    assert_int_equal(COUNT("\x0f\x01\xe0", 0), 1);                /* SMSW */
    assert_int_equal(COUNT("\x0f\x00\xc0", 0), 1);                /* SLDT */
    assert_int_equal(COUNT("\x0f\x00\xe0", 0), 1);                /* VERR */
    assert_int_equal(COUNT("\x0f\x02\xc1", 0), 1);                /* LAR */
    assert_int_equal(COUNT("\x0f\x03\xc1", 0), 1);                /* LSL */
    assert_int_equal(COUNT("\x0f\xae\x20", 0), 1);                /* XSAVE */
    assert_int_equal(COUNT("\x0f\xae\x20", DIRECT_MAY_XSAVE), 0); /* of all that the guest has, too */
    assert_int_equal(COUNT("\x0f\xc7\x20", 0), 1);                /* XSAVEC */
}

static void test_not_told(void **state)
{
    (void)state;
    assert_int_equal(COUNT("\x0f\x05", 0), 0);                                 /* SYSCALL stops by itself */
    assert_int_equal(COUNT("\x0f\x01\xd6", 0), 0);                             /* XTEST */
    assert_int_equal(COUNT("\x0f\x01\x38", 0), 0);                             /* INVLPG faults */
    assert_int_equal(COUNT("\xcd\x05", 0), 0);                                 /* INT 5 */
    assert_int_equal(COUNT("\x0f\xc7\xf0", 0), 0);                             /* RDRAND */
    assert_int_equal(COUNT("\x0f\xc7\x0f", 0), 0);                             /* CMPXCHG8B */
    assert_int_equal(COUNT("\x0f\xae\xe8", 0), 0);                             /* LFENCE */
    assert_int_equal(COUNT("\x0f\xae\x28", 0), 0);                             /* XRSTOR */
    assert_int_equal(COUNT("\xe8\x0f\xa2\x00\x00", 0), 0);                     /* in a displacement */
    assert_int_equal(COUNT("\x48\xb8\x0f\xa2\x0f\x31\x0f\xa2\x0f\x31", 0), 0); /* in a constant */
}

/* The TSC may be read; TSC_AUX, which RDTSCP leaves in ECX, only where nobody looks at it. */
static void test_tsc(void **state)
{
    (void)state;
    assert_int_equal(COUNT("\x0f\x31", DIRECT_MAY_TSC), 0);
#define RDTSCP(behind) COUNT("\x0f\x01\xf9" behind, DIRECT_MAY_TSC)
    assert_int_equal(RDTSCP(""), 1);                             /* nothing but NOPs behind it */
    assert_int_equal(RDTSCP("\x31\xc9"), 1);                     /* xor ecx, ecx reads it, by the letter */
    assert_int_equal(RDTSCP("\xb9\0\0\0\0"), 0);                 /* mov ecx, 0 */
    assert_int_equal(RDTSCP("\x48\xc1\xe2\x20\x8b\x0b"), 0);     /* shl rdx, 32; mov ecx, [rbx] */
    assert_int_equal(RDTSCP("\x8b\x09"), 1);                     /* mov ecx, [rcx] */
    assert_int_equal(RDTSCP("\xb1\x01\xb9\0\0\0\0"), 0);         /* mov cl, 1, and then all of it */
    assert_int_equal(RDTSCP("\xb1\x01\x89\x0b"), 1);             /* or not */
    assert_int_equal(RDTSCP("\x0f\x44\xc8\xb9\0\0\0\0"), 1);     /* cmove ecx, eax may leave it */
    assert_int_equal(RDTSCP("\x0f\xbc\xc8\xb9\0\0\0\0"), 1);     /* bsf ecx, eax, too */
    assert_int_equal(RDTSCP("\x89\x0b\xb9\0\0\0\0"), 1);         /* mov [rbx], ecx */
    assert_int_equal(RDTSCP("\xd3\xe0\xb9\0\0\0\0"), 1);         /* shl eax, cl */
    assert_int_equal(RDTSCP("\xf3\xa4\xb9\0\0\0\0"), 1);         /* rep movsb */
    assert_int_equal(RDTSCP("\xc3\xb9\0\0\0\0"), 1);             /* ret */
    assert_int_equal(RDTSCP("\xe8\0\0\0\0\xb9\0\0\0\0"), 1);     /* call */
    assert_int_equal(RDTSCP("\xff\xe0\xb9\0\0\0\0"), 1);         /* jmp rax */
    assert_int_equal(RDTSCP("\xcc\xb9\0\0\0\0"), 1);             /* int3 */
    assert_int_equal(RDTSCP("\x0f\x05\x89\x0b"), 0);             /* SYSCALL puts the return address there */
    assert_int_equal(RDTSCP("\xeb\x02\x89\x0b\xb9\0\0\0\0"), 0); /* jmp over what reads it */
    assert_int_equal(RDTSCP("\x74\x02\x89\x0b\xb9\0\0\0\0"), 1); /* je, which may not */
    assert_int_equal(RDTSCP("\x74\x05\xb9\0\0\0\0\xb9\0\0\0\0"), 0); /* both ways overwrite it */
    assert_int_equal(RDTSCP("\x75\xfb\xb9\0\0\0\0"), 0);             /* back to RDTSCP, which does */
    assert_int_equal(RDTSCP("\xeb\xfe"), 1);                         /* a loop without end */
    assert_int_equal(RDTSCP("\xe3\x00\xb9\0\0\0\0"), 1);             /* jrcxz */
    assert_int_equal(COUNT("\x0f\x01\xf9\xb9\0\0\0\0", 0), 1);
}

/* At the ends of the page. */
static void test_tsc_edges(void **state)
{
    struct direct_sites s;
    (void)state;
    memcpy(page + PAGE_SIZE - 3, "\x0f\x01\xf9", 3);
    assert_int_equal(scan(DIRECT_MAY_TSC).at[0], PAGE_SIZE - 3);
    fresh(NULL);
    memcpy(page, "\x0f\x01\xf9\xe9\xf0\xff\xff\xff", 8); /* jmp to the page before */
    assert_int_equal(scan(DIRECT_MAY_TSC).count, 1);
    memset(before, 0xc3, PAGE_SIZE);
    memset(page, 0x90, PAGE_SIZE);
    for (unsigned i = 0; i < 48; i++)
        memcpy(page + 2 * i + 3, "\x74\x00", 2); /* as many ways as there can be */
    memcpy(page, "\x0f\x01\xf9", 3);
    assert_true(direct_scan(before, page, DIRECT_MAY_TSC, NULL, &s));
    assert_int_equal(s.count, 1);
}

/* An image as a vDSO is one: text, copies, section headers, names. */
static void make_image(uint8_t *image)
{
    static const char names[] = "\0.text\0.altinstr_replacement\0.comment";
    const Elf64_Ehdr head = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64 },
                              .e_shoff = 4096 - 100,
                              .e_shentsize = sizeof(Elf64_Shdr),
                              .e_shnum = 4,
                              .e_shstrndx = 3 };
    const Elf64_Shdr sections[] = {
        { 0 },
        { .sh_name = 1, .sh_flags = SHF_EXECINSTR, .sh_offset = 0x600, .sh_size = 0x200 },
        { .sh_name = 7, .sh_flags = SHF_EXECINSTR, .sh_offset = 0x900, .sh_size = 0x20 },
        { .sh_name = 29, .sh_offset = 0x1800, .sh_size = sizeof(names) },
    };
    memset(image, 0, DIRECT_IMAGE);
    memcpy(image, &head, sizeof(head));
    memcpy(image + head.e_shoff, sections, sizeof(sections));
    memcpy(image + 0x1800, names, sizeof(names));
}

static void test_text(void **state)
{
    uint8_t image[DIRECT_IMAGE];
    struct direct_text text;
    struct direct_sites s;
    Elf64_Ehdr *head = (Elf64_Ehdr *)(void *)image;
    (void)state;
    make_image(image);
    assert_true(direct_find_text(image, &text));
    assert_int_equal(text.from, 0x600);
    assert_int_equal(text.to, 0x800);
    for (unsigned i = 0; i < 4; i++)
        memcpy(image + 0x900 + 4 * i, "\xf3\x0f\xc7\xf8", 4); /* RDPID */
    memcpy(image + 0x700, "\x0f\x03\xc0", 3);                 /* LSL */
    memcpy(image + 0x710, "\x0f\x01\xf9\xc3", 4);             /* RDTSCP and RET, as C functions do */
    assert_true(direct_scan(NULL, image, DIRECT_MAY_TSC, &text, &s));
    assert_int_equal(s.count, 1);
    assert_int_equal(s.at[0], 0x700);
    assert_false(direct_scan(NULL, image, DIRECT_MAY_TSC, NULL, &s));

    image[0x1800 + 8] = 'A'; /* no copies: that section counts */
    assert_true(direct_find_text(image, &text));
    assert_int_equal(text.to, 0x920);
    for (unsigned i = 0; i < 300; i++) { /* of a guest that lies */
        make_image(image);
        switch (i % 5) {
        case 0: head->e_shoff = i % 2 ? ~0ull - i : DIRECT_IMAGE - i; break;
        case 1: head->e_shnum = (uint16_t)(i * 1000 + 5); break;
        case 2: head->e_shstrndx = (uint16_t)(4 + i * 200); break;
        case 3: memset(image + 4096 - 100 + 64 + 24, 0xff - (int)(i % 3), 16); break;
        default: image[i % 5] ^= 1, image[0] ^= 1;
        }
        assert_false(direct_find_text(image, &text));
    }
    make_image(image);
    memset(image + 4096 - 100 + 3 * 64 + 24, 0xff, 16); /* names nowhere: nothing is called a copy */
    assert_true(direct_find_text(image, &text));
    assert_int_equal(text.to, 0x920);
}

/* A few are stopped at, more are not. */
static void test_many(void **state)
{
    struct direct_sites s;
    (void)state;
    for (unsigned i = 0; i < USERPROC_BREAKS; i++)
        memcpy(page + 100 * i, "\x0f\xa2\xc3", 3);
    s = scan(0);
    assert_int_equal(s.count, USERPROC_BREAKS);
    for (unsigned i = 0; i < USERPROC_BREAKS; i++) {
        assert_int_equal(s.at[i], 100 * i);
        assert_int_equal(s.last[i], 100 * i);
    }
    memcpy(page + 2000, "\x0f\x31", 2);
    assert_false(direct_scan(before, page, 0, NULL, &s));
}

/* Eight from 1000 on, 20 bytes from one to the next, and one alone at 3000. */
static bool scan_group(unsigned at, const char *bytes, unsigned n, struct direct_sites *s)
{
    fresh(NULL);
    for (unsigned i = 0; i < 8; i++)
        memcpy(page + 1000 + 20 * i, "\x0f\xa2", 2);
    memcpy(page + 3000, "\x0f\x31\xc3", 3);
    page[2000] = 0xc3;
    memcpy(page + at, bytes, n);
    return direct_scan(before, page, 0, NULL, s);
}
#define GROUP(at, bytes) scan_group(at, bytes, sizeof(bytes) - 1, &s)

/* More than that in one function are stopped at once. */
static void test_groups(void **state)
{
    struct direct_sites s;
    (void)state;
    assert_true(GROUP(0, ""));
    assert_int_equal(s.count, 2);
    assert_int_equal(s.at[0], 1000);
    assert_int_equal(s.last[0], 1140);
    assert_int_equal(s.at[1], 3000);
    assert_int_equal(s.last[1], 3000);
    assert_true(GROUP(1050, "\x74\x20"));                  /* branches inside of it, forward ... */
    assert_true(GROUP(1050, "\x75\xe0"));                  /* ... and back */
    assert_true(GROUP(1050, "\xe9\x00\x08\x00\x00"));      /* out of it */
    assert_true(GROUP(500, "\xe8\xef\x01\x00\x00"));       /* a call of its first site, at 1000 */
    assert_true(GROUP(1150, "\xe9\x65\xff\xff\xff"));      /* back to that */
    assert_false(GROUP(500, "\xe8\xf1\x01\x00\x00"));      /* of what is behind it */
    assert_false(GROUP(500, "\xe9\x7b\x02\x00\x00"));      /* a jump to the last, at 1140 */
    assert_true(GROUP(500, "\xe9\x7c\x02\x00\x00"));       /* and behind that */
    assert_false(GROUP(1150, "\x0f\x84\x80\xff\xff\xff")); /* je back into it */
    assert_false(GROUP(985, "\x74\x1e"));                  /* over its first */
    assert_false(GROUP(1150, "\xe2\xee"));                 /* loop */
    assert_true(GROUP(499, "\xb8\xe8\xf1\x01\x00\x00"));   /* a constant that looks like a call */
#define CUT(bytes)                                                                                           \
    assert_true(GROUP(1050, bytes));                                                                         \
    assert_int_equal(s.count, 3);                                                                            \
    assert_int_equal(s.last[0], 1040);                                                                       \
    assert_int_equal(s.at[1], 1060)
    CUT("\xc3");                 /* ret */
    CUT("\xe8\x00\x00\x00\x00"); /* call */
    CUT("\xf3\x0f\x1e\xfa");     /* endbr64 */
    CUT("\xff\xe0");             /* jmp rax */
    CUT("\x0f\x05");             /* syscall */
    CUT("\xcc");
    CUT("\x0f\x0b"); /* ud2 */
    CUT("\x06");     /* no instruction */
    for (unsigned i = 0; i < 4; i++)
        page[1010 + 40 * i] = 0xc3;
    assert_false(direct_scan(before, page, 0, NULL, &s)); /* too many groups */
    fresh(NULL);
    for (unsigned i = 0; i < 1000; i++)
        memcpy(page + 4 * i, "\x0f\xa2\x90\x90", 4);
    assert_false(direct_scan(before, page, 0, NULL, &s)); /* too many sites */
}

/* What begins in the page before: the rest of an instruction, or one that is to be stopped at but not here.
 */
static void test_edges(void **state)
{
    struct direct_sites s;
    (void)state;
    memcpy(before + PAGE_SIZE - 1, "\xe8", 1);
    memcpy(page, "\x0f\xa2\x00\x00", 4);
    assert_int_equal(scan(0).count, 0);
    memcpy(before + PAGE_SIZE - 1, "\xf3", 1);
    memcpy(page, "\x0f\xc7\xf8", 3);
    assert_false(direct_scan(before, page, 0, NULL, &s));
    assert_true(direct_scan(NULL, page, 0, NULL, &s));
    assert_int_equal(s.count, 1);
    fresh(state);
    memcpy(page + PAGE_SIZE - 2, "\x0f\x31", 2); /* all of it is in this page */
    assert_int_equal(scan(0).at[0], PAGE_SIZE - 2);
    memcpy(page + PAGE_SIZE - 2, "\x0f\x01", 2); /* not all */
    assert_int_equal(scan(0).count, 0);
}

static void test_seam(void **state)
{
    (void)state;
    assert_true(direct_scan_seam(page, behind, 0));
    page[PAGE_SIZE - 1] = 0x0f;
    assert_true(direct_scan_seam(page, behind, 0));
    behind[0] = 0xa2;
    assert_false(direct_scan_seam(page, behind, 0));
    assert_true(direct_scan_seam(page, behind, DIRECT_MAY_CPUID));
    fresh(NULL);
    memcpy(page + PAGE_SIZE - 2, "\x0f\x01", 2);
    behind[0] = 0xf9;
    assert_false(direct_scan_seam(page, behind, 0));
    fresh(NULL);
    memcpy(page + PAGE_SIZE - 4, "\xe8\xaf\xcd\x0f",
           4); /* a call whose displacement looks like SLDT, as Python has it */
    memcpy(behind, "\0\xc0", 2);
    assert_true(direct_scan_seam(page, behind, 0));
    page[PAGE_SIZE - 4] = 0x90; /* and without the call */
    page[PAGE_SIZE - 3] = 0x90;
    page[PAGE_SIZE - 2] = 0x90;
    assert_false(direct_scan_seam(page, behind, 0));
    fresh(NULL);
    page[PAGE_SIZE - 1] = 0xf3; /* from a prefix on */
    memcpy(behind, "\x0f\xc7\xf8", 3);
    assert_true(direct_scan_seam(page, behind, 0)); /* its opcode is the page behind's to find */
    memcpy(page + PAGE_SIZE - 2, "\xf3\x0f", 2);
    memcpy(behind, "\xc7\xf8", 2);
    assert_false(direct_scan_seam(page, behind, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_told, fresh),
        cmocka_unit_test_setup(test_not_told, fresh),
        cmocka_unit_test_setup(test_tsc, fresh),
        cmocka_unit_test_setup(test_tsc_edges, fresh),
        cmocka_unit_test(test_text),
        cmocka_unit_test_setup(test_many, fresh),
        cmocka_unit_test_setup(test_groups, fresh),
        cmocka_unit_test_setup(test_edges, fresh),
        cmocka_unit_test_setup(test_seam, fresh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
