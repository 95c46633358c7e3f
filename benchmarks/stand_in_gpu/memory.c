/*
 * Device memory is a range of addresses that nothing lies behind. Allocations are counted against the capacity of a
 * real device, so that programs run out of memory where they would there.
 *
 * What the host copies out of device memory is zeros: no kernel has ever written anything. Reading zeros everywhere is
 * the one choice that is the same in every run.
 */

#define _GNU_SOURCE
#include "memory.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <driver_types.h>

#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)

/* The driver gives memory in pieces of 2 MiB. */
#define GRANULARITY (2 * MIB)

/* Addresses are never given twice, so their range is larger than any device. */
#define DEVICE_RANGE (16384 * GIB)
#define PINNED_RANGE (1024 * GIB)
#define MOST_ALLOCATIONS ((size_t)1 << 20)

/* What CUDA's context and the libraries' kernels take of a device before a program has any of it. */
#define CONTEXT (600 * MIB)
#define H200_MIB 143771

/* Copies to the host are filled with zeros up to here; what is larger are states on their way, which nobody reads. */
#define LARGEST_READ MIB

struct range {
    char *base;
    char *next;
    size_t size;
};

struct allocation {
    char *base;
    size_t size;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct range device = {NULL, NULL, DEVICE_RANGE};
static struct range pinned = {NULL, NULL, PINNED_RANGE};
static struct allocation allocations[MOST_ALLOCATIONS];
static size_t num_allocations;
static size_t allocated;
static size_t capacity;

static void reserve(struct range *range, int protection) {
    range->base = mmap(NULL, range->size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range->base == MAP_FAILED) {
        perror("stand-in GPU: no addresses");
        abort();
    }
    range->next = range->base;
}

__attribute__((constructor)) static void set_up(void) {
    const char *given = getenv("STAND_IN_GPU_MIB");
    capacity = (given ? strtoull(given, NULL, 10) : H200_MIB) * MIB;
    reserve(&device, PROT_NONE);
    reserve(&pinned, PROT_READ | PROT_WRITE);
}

static int lies_in(const struct range *range, const void *address) {
    const char *byte = address;
    return range->base && byte >= range->base && byte < range->base + range->size;
}

enum place place_of(const void *address) {
    if (lies_in(&device, address)) return DEVICE;
    return lies_in(&pinned, address) ? PINNED_HOST : PAGEABLE_HOST;
}

size_t device_capacity(void) { return capacity; }

void *new_handle(void) { return calloc(1, 64); }

static size_t rounded(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

int cudaMalloc(void **address, size_t size) {
    size = rounded(size, GRANULARITY);
    pthread_mutex_lock(&lock);
    int fits = allocated + size + CONTEXT <= capacity && num_allocations < MOST_ALLOCATIONS;
    if (fits) {
        *address = device.next;
        allocations[num_allocations++] = (struct allocation){device.next, size};
        device.next += size;
        allocated += size;
    }
    pthread_mutex_unlock(&lock);
    return fits ? SUCCESS : OUT_OF_MEMORY;
}

int cudaFree(void *address) {
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < num_allocations; i++) {
        if (allocations[i].base == address) {
            allocated -= allocations[i].size;
            allocations[i] = allocations[--num_allocations];
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

int cudaMallocAsync(void **address, size_t size) { return cudaMalloc(address, size); }
int cudaFreeAsync(void *address) { return cudaFree(address); }
int cuMemAlloc_v2(void **address, size_t size) { return cudaMalloc(address, size); }
int cuMemFree_v2(void *address) { return cudaFree(address); }
int ncclMemAlloc(void **address, size_t size) { return cudaMalloc(address, size); }
int ncclMemFree(void *address) { return cudaFree(address); }
int cudaGetSymbolAddress(void **address) { return cudaMalloc(address, GRANULARITY); }

int cudaMemGetInfo(size_t *available, size_t *total) {
    *total = capacity;
    *available = capacity - allocated - CONTEXT;
    return SUCCESS;
}

int cuMemGetAllocationGranularity(size_t *granularity) {
    *granularity = GRANULARITY;
    return SUCCESS;
}

/* Managed memory (bitsandbytes' paged states) is ordinary memory of the host, which takes none until it is written. */
int cudaMallocManaged(void **address, size_t size) {
    *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return *address == MAP_FAILED ? OUT_OF_MEMORY : SUCCESS;
}

/* PyTorch keeps pinned memory for use again, so that nothing is lost by never taking any back. */
int cudaHostAlloc(void **address, size_t size) {
    pthread_mutex_lock(&lock);
    *address = pinned.next;
    pinned.next += rounded(size, 4096);
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

int cudaMallocHost(void **address, size_t size) { return cudaHostAlloc(address, size); }
int cuMemAllocHost_v2(void **address, size_t size) { return cudaHostAlloc(address, size); }

int cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, void *address) {
    enum place place = place_of(address);
    memset(attributes, 0, sizeof *attributes);
    attributes->type = place == DEVICE        ? cudaMemoryTypeDevice
                       : place == PINNED_HOST ? cudaMemoryTypeHost
                                              : cudaMemoryTypeUnregistered;
    attributes->devicePointer = place == PAGEABLE_HOST ? NULL : address;
    attributes->hostPointer = place == PINNED_HOST ? address : NULL;
    return SUCCESS;
}

int cuPointerGetAttribute(void *answer, int attribute, void *address) {
    enum { MEMORY_TYPE = 2, DEVICE_POINTER = 3 }; /* of CUpointer_attribute in cuda.h */
    if (attribute == MEMORY_TYPE) {
        *(unsigned *)answer = place_of(address) == DEVICE ? 2 : 1;
    } else {
        *(void **)answer = attribute == DEVICE_POINTER ? address : NULL;
    }
    return SUCCESS;
}

int cudaMemcpyAsync(void *destination, const void *source, size_t size) {
    if (place_of(destination) == DEVICE) return SUCCESS;
    if (place_of(source) != DEVICE) {
        memmove(destination, source, size);
    } else if (size <= LARGEST_READ) {
        memset(destination, 0, size);
    }
    return SUCCESS;
}

int cudaMemcpy(void *destination, const void *source, size_t size) {
    return cudaMemcpyAsync(destination, source, size);
}

int cudaMemsetAsync(void *address, int value, size_t size) {
    if (place_of(address) != DEVICE && size <= LARGEST_READ) memset(address, value, size);
    return SUCCESS;
}

int cudaMemset(void *address, int value, size_t size) { return cudaMemsetAsync(address, value, size); }
