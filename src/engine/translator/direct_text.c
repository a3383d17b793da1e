/* What of a page is code, where its owner says so. Heavy.
 *
 * Theory of operation. Most code is taken for code from the first byte of a page to its last. A vDSO is the
 * one image that shares its pages with so much else that there is no room for it: headers, names, tables, and
 * copies of the instructions that tell which CPU runs, with which it is patched at boot. But every program
 * calls it for the time, and it brings its section headers along: code is what they call executable, without
 * those copies. The rest never runs.
 *
 * Source: ELF-64 Object File Format, version 1.5 draft 2, sections 3 and 4. */
#include <elf.h>
#include <string.h>

#include "engine/translator/direct_text.h"
#include "util/base.h"

#define SECTIONS_MOST 64

#define COPIES ".altinstr_replacement"

/* The guest writes the image, so everything is looked at before it is used. */
static bool is_inside(uint64_t at, uint64_t len)
{
    return at <= DIRECT_IMAGE && len <= DIRECT_IMAGE - at;
}

static void section_at(const uint8_t *image, const Elf64_Ehdr *head, unsigned i, Elf64_Shdr *section)
{
    memcpy(section, image + head->e_shoff + i * sizeof *section, sizeof *section);
}

static bool holds_copies(const uint8_t *image, const Elf64_Shdr *names, uint32_t name)
{
    return is_inside(names->sh_offset, names->sh_size) && name < names->sh_size &&
           names->sh_size - name >= sizeof COPIES &&
           memcmp(image + names->sh_offset + name, COPIES, sizeof COPIES) == 0;
}

bool direct_find_text(const uint8_t image[DIRECT_IMAGE], struct direct_text *text)
{
    Elf64_Ehdr head;
    Elf64_Shdr names, section;
    memcpy(&head, image, sizeof head);
    if (memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 || head.e_ident[EI_CLASS] != ELFCLASS64 ||
        head.e_shentsize != sizeof section || head.e_shnum > SECTIONS_MOST ||
        head.e_shstrndx >= head.e_shnum || !is_inside(head.e_shoff, head.e_shnum * sizeof section))
        return false;
    section_at(image, &head, head.e_shstrndx, &names);
    *text = (struct direct_text){ DIRECT_IMAGE, 0 };
    for (unsigned i = 0; i < head.e_shnum; i++) {
        section_at(image, &head, i, &section);
        if (!(section.sh_flags & SHF_EXECINSTR) || holds_copies(image, &names, section.sh_name))
            continue;
        if (!is_inside(section.sh_offset, section.sh_size))
            return false;
        text->from = (unsigned)min_u64(text->from, section.sh_offset);
        text->to = (unsigned)max_u64(text->to, section.sh_offset + section.sh_size);
    }
    return text->from < text->to;
}
