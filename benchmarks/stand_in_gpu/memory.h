/* Memory of the stand-in: addresses that are told apart by where they lie. */

#pragma once

#include <stddef.h>

enum { SUCCESS = 0, OUT_OF_MEMORY = 2, NOT_FOUND = 500 };

enum place { PAGEABLE_HOST = 0, PINNED_HOST = 1, DEVICE = 2 };

enum place place_of(const void *address);

size_t device_capacity(void);

/* A new object that handles may point to. Handles are never read; they only have to differ from NULL. */
void *new_handle(void);
