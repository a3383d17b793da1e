/* The tables of blocks: what is in the lists of pages and found in the hash table, over blocks that hold no
 * code. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "engine/translator/cache.h"

#define PAGES 4
#define RAM_AT 0xfffff000000ull /* up to where it may be, so that the numbers of pages are large */
#define CODE_LEN 32
#define COLD_LEN 16

static struct tvm vm;
static struct page_info pages[PAGES];
static uint8_t ram[PAGES * PAGE_SIZE];

static int set_up(void **state)
{
    (void)state;
    memset(&vm, 0, sizeof(vm));
    memset(pages, 0, sizeof(pages));
    vm.slots[vm.slot_count++] =
        (struct tvm_slot){ .gpa = RAM_AT, .len = sizeof(ram), .hva = ram, .pages = pages };
    vm.cache = cache_new(MIB(4), NULL, NULL);
    assert_non_null(vm.cache);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    cache_free(vm.cache);
    return 0;
}

static uint64_t page(unsigned i)
{
    return RAM_AT + i * PAGE_SIZE;
}

/* With one place noted in the hot part and one in the cold part. */
static struct tb *block(unsigned in, unsigned off, unsigned len, unsigned second)
{
    struct code_cache *cc = vm.cache;
    struct cache_segment *s = cache_now(cc);
    struct tb *tb = cache_alloc(cc);
    struct tb_side *side = &cc->side[cc->now * cc->segment_sides + s->side_count];
    bool crosses = off + len > PAGE_SIZE;

    assert_non_null(tb);
    *tb = (struct tb){ .frame = (uint32_t)(page(in) >> 12),
                       .hot = s->hot_pos,
                       .cold = s->cold_pos,
                       .off = (uint16_t)off,
                       .len = (uint16_t)len,
                       .crosses = crosses };
    if (crosses)
        tb[1] = (struct tb){ .frame = (uint32_t)(page(second) >> 12),
                             .hot = tb->hot,
                             .cold = tb->cold,
                             .len = (uint16_t)(off + len - PAGE_SIZE),
                             .crosses = true,
                             .second = true };
    side[0] = (struct tb_side){ .host = s->cold_pos + 4, .off = (uint16_t)(off + 1) };
    side[1] = (struct tb_side){ .host = s->hot_pos + 8, .off = (uint16_t)off };
    s->side_count += 2;
    cache_advance(cc, s->hot_pos + CODE_LEN, s->cold_pos + COLD_LEN);
    cache_insert(&vm, tb);
    atomic_store(&pages[in].code, PAGE_IS_CODE);
    if (crosses)
        atomic_store(&pages[second].code, PAGE_IS_CODE);
    return tb;
}

static struct tb *find(unsigned in, unsigned off)
{
    return cache_find(vm.cache, page(in), off, 0, 0);
}

static void write_byte(unsigned in, unsigned off)
{
    cache_write_code_page(&vm, NULL, page(in) + off, &(uint8_t){ 0x90 }, 1);
}

static bool is_code(unsigned i)
{
    return atomic_load(&pages[i].code) && atomic_load(&pages[i].tbs);
}

static void a_store_kills_what_it_hits(void **state)
{
    (void)state;
    struct tb *a = block(0, 0x10, 8, 0), *b = block(0, 0x18, 8, 0);

    assert_ptr_equal(find(0, 0x10), a);
    assert_ptr_equal(find(0, 0x18), b);
    assert_null(find(1, 0x10));
    write_byte(0, 0x20);
    write_byte(0, 0xf);
    assert_ptr_equal(find(0, 0x10), a);
    assert_ptr_equal(find(0, 0x18), b);
    write_byte(0, 0x17);
    assert_null(find(0, 0x10));
    assert_ptr_equal(find(0, 0x18), b);
    assert_true(is_code(0));
    write_byte(0, 0x18);
    assert_null(find(0, 0x18));
    assert_false(is_code(0));
}

static void a_block_of_two_pages(void **state)
{
    (void)state;
    for (unsigned in_second = 0; in_second < 2; in_second++) {
        struct tb *tb = block(1, PAGE_SIZE - 2, 5, 3), *other = block(3, 0x10, 4, 0);

        assert_ptr_equal(find(1, PAGE_SIZE - 2), tb);
        assert_false(tb_is_local(tb));
        assert_true(tb_is_local(other));
        assert_int_equal(tb_gpage(tb), page(1));
        assert_int_equal(tb_gpage2(tb), page(3));
        assert_int_equal(tb_gpage2(other), ~0ull);
        write_byte(3, 3); /* just behind it */
        write_byte(1, PAGE_SIZE - 3);
        assert_ptr_equal(find(1, PAGE_SIZE - 2), tb);
        write_byte(in_second ? 3 : 1, in_second ? 2 : PAGE_SIZE - 2);
        assert_null(find(1, PAGE_SIZE - 2));
        assert_false(is_code(1));
        assert_ptr_equal(cache_first_in(vm.cache, &pages[3]), other);
        assert_int_equal(other->page_next, 0);
        write_byte(3, 0x10);
        assert_false(is_code(3));
    }
}

/* The second page is mapped to where the first one is. */
static void twice_in_one_page(void **state)
{
    (void)state;
    for (unsigned at_start = 0; at_start < 2; at_start++) {
        struct tb *before = block(2, 0x100, 4, 0), *tb = block(2, PAGE_SIZE - 1, 3, 2),
                  *after = block(2, 0x200, 4, 0);

        write_byte(2, at_start ? 1 : PAGE_SIZE - 1);
        assert_null(find(2, PAGE_SIZE - 1));
        assert_int_equal(atomic_load(&tb->dead), TB_DEAD);
        assert_ptr_equal(cache_first_in(vm.cache, &pages[2]), after);
        assert_ptr_equal(cache_next_in(vm.cache, after), before);
        assert_int_equal(before->page_next, 0);
        cache_kill(&vm, before);
        cache_kill(&vm, after);
        assert_false(is_code(2));
    }
}

static void expect_at(uint32_t host, const struct tb *tb, int off)
{
    const struct tb_side *side;

    assert_ptr_equal(cache_by_host(vm.cache, host), tb);
    side = cache_side_of(vm.cache, tb, host);
    assert_int_equal(side ? side->off : -1, off);
}

static void by_host_address(void **state)
{
    struct tb *blocks[] = { block(0, 0x10, 4, 0), block(0, PAGE_SIZE - 2, 4, 1), block(0, 0x30, 4, 0),
                            block(0, PAGE_SIZE - 1, 4, 1) };

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        const struct tb *tb = blocks[i];

        expect_at(tb->hot, tb, -1); /* before the place that is noted */
        expect_at(tb->hot + 8, tb, tb->off);
        expect_at(tb->hot + CODE_LEN - 1, tb, tb->off);
        expect_at(tb->cold, tb, -1);
        expect_at(tb->cold + 4, tb, tb->off + 1);
        expect_at(tb->cold + COLD_LEN - 1, tb, tb->off + 1);
    }
}

static void a_segment_is_emptied(void **state)
{
    struct code_cache *cc = vm.cache;
    struct tb *stays = NULL;

    (void)state;
    block(0, 0x10, 4, 0);
    block(0, PAGE_SIZE - 2, 4, 1);
    cache_kill(&vm, block(1, PAGE_SIZE - 2, 4, 2));
    assert_int_equal(cc->segments[0].tb_count, 5);
    cc->segments[0].filled = 1;
    cc->fillings = 1;
    while (cache_next_segment(cc)) /* one block in each of the others, across pages */
        stays = block(2, PAGE_SIZE - 3, 6, 3);
    assert_non_null(stays);
    cache_evict(&vm);
    assert_int_equal(cc->now, 0);
    assert_int_equal(cc->segments[0].tb_count, 0);
    assert_null(find(0, 0x10));
    assert_null(find(0, PAGE_SIZE - 2));
    assert_false(is_code(0));
    assert_false(is_code(1));
    assert_ptr_equal(find(2, PAGE_SIZE - 3), stays);
    assert_ptr_equal(cache_first_in(cc, &pages[3]), stays + 1);
    assert_int_equal(stays->second, 0);
    for (unsigned i = 1; i < cc->segment_count; i++)
        cache_evict(&vm);
    assert_null(find(2, PAGE_SIZE - 3));
    assert_false(is_code(2));
    assert_false(is_code(3));
}

/* A page's number has 32 bits. */
static void ram_ends_at_16_tib(void **state)
{
    struct engine_config cfg = { .vcpu_count = 1 };
    struct engine_memslot slot = { .gpa = TB_GPA_END - PAGE_SIZE, .len = PAGE_SIZE, .hva = ram };
    struct yado_error err = YADO_ERROR_INIT;
    struct engine_vm *evm;

    (void)state;
    slot.hva = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
    assert_non_null(slot.hva);
    assert_true(engine_translator.open(&evm, &cfg, &err));
    assert_true(engine_translator.map(evm, &slot, &err));
    slot.gpa += PAGE_SIZE;
    assert_false(engine_translator.map(evm, &slot, &err));
    assert_non_null(strstr(err.message, "ends behind 16 TiB"));
    engine_translator.close(evm);
    free(slot.hva);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_store_kills_what_it_hits, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_block_of_two_pages, set_up, tear_down),
        cmocka_unit_test_setup_teardown(twice_in_one_page, set_up, tear_down),
        cmocka_unit_test_setup_teardown(by_host_address, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_segment_is_emptied, set_up, tear_down),
        cmocka_unit_test(ram_ends_at_16_tib),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
