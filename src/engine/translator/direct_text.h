/* What of an image is code, where it tells (direct_text.c). */
#ifndef TRANSLATOR_DIRECT_TEXT_H
#define TRANSLATOR_DIRECT_TEXT_H

#include <stdbool.h>
#include <stdint.h>

#define DIRECT_IMAGE 8192u /* bytes, two pages */

struct direct_text {
    unsigned from, to;
};
/* Of an image that ends in these bytes. False: it does not tell. */
bool direct_find_text(const uint8_t image[DIRECT_IMAGE], struct direct_text *text);

#endif
